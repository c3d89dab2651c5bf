"""splink as a contender: comparisons, blocking rules and training written for each table, as its users do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

__all__ = ["splink_linkage"]

_PAIR_LIMIT = 1e6
_RECALL_OF_RULES = 0.6
# Blocking rules as pairs of columns; training is blocked on the first two of the second entry.
_RULES: dict[str, tuple[list[tuple[str, ...]], list[tuple[str, ...]]]] = {
    "historical_figures": (
        [
            ("first_name", "surname", "dob"),
            ("surname", "dob"),
            ("first_name", "dob"),
            ("postcode_fake", "first_name"),
            ("postcode_fake", "surname"),
            ("postcode_fake", "dob"),
            ("dob", "birth_place"),
            ("birth_place", "surname"),
        ],
        [("first_name", "surname"), ("dob",)],
    ),
    "fake_1000": (
        [("surname", "first_name"), ("dob",), ("email",), ("first_name", "city"), ("surname", "city")],
        [("first_name", "surname"), ("dob",)],
    ),
}


def _comparisons(table: str) -> list[Any]:
    import splink.comparison_library as cl

    names = cl.ForenameSurnameComparison("first_name", "surname")
    born = cl.DateOfBirthComparison("dob", input_is_string=True)
    if table == "fake_1000":
        city = cl.ExactMatch("city").configure(term_frequency_adjustments=True)
        return [cl.NameComparison("first_name"), cl.NameComparison("surname"), born, city, cl.EmailComparison("email")]
    return [
        names,
        born,
        cl.PostcodeComparison("postcode_fake"),
        cl.ExactMatch("birth_place").configure(term_frequency_adjustments=True),
        cl.ExactMatch("occupation").configure(term_frequency_adjustments=True),
    ]


def splink_linkage(name: str, table: pl.DataFrame) -> Callable[[float], npt.NDArray[np.int64]]:
    """Link with splink on DuckDB, in memory and without a folder to spill to.

    Args:
        name: which table it is.
        table: its records.

    Returns:
        The persons at a threshold of probability.
    """
    import duckdb
    from splink import Linker, SettingsCreator, block_on
    from splink.backends.duckdb import DuckDBAPI

    connection = duckdb.connect(":memory:")
    connection.execute("SET temp_directory = ''")
    api = DuckDBAPI(connection)
    rules, training = _RULES[name]
    frame = table.with_row_index("row").to_arrow()
    settings = SettingsCreator(
        link_type="dedupe_only",
        comparisons=_comparisons(name),
        blocking_rules_to_generate_predictions=[block_on(*rule) for rule in rules],
        unique_id_column_name="row",
        retain_matching_columns=False,
    )
    registered = api.register(frame, table_name="people")
    linker = Linker(registered, settings, log_level="ERROR")
    linker.training.estimate_probability_two_random_records_match([block_on(*rules[0])], recall=_RECALL_OF_RULES)
    linker.training.estimate_u_using_random_sampling(max_pairs=_PAIR_LIMIT, seed=1)
    for rule in training:
        linker.training.estimate_parameters_using_expectation_maximisation(block_on(*rule))
    predictions = linker.inference.predict(threshold_match_probability=0.01)

    def persons(threshold: float) -> npt.NDArray[np.int64]:
        found = linker.clustering.cluster_pairwise_predictions_at_threshold(predictions, threshold)
        arrow = found.as_duckdbpyrelation().arrow()
        clusters = pl.DataFrame(pl.from_arrow(arrow)).sort("row")
        return clusters["cluster_id"].rank("dense").cast(pl.Int64).to_numpy()

    return persons
