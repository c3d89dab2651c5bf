"""Claim: what is filled is right far more often than the most frequent value would be.

Of each column of ../shared/data/persona/historical_figures_with_errors_50k.parquet a tenth of the values that are there
is hidden and filled again; the share that comes out as it was is the accuracy. The generator's people are filled where
the generator itself took values away, missing at random and not, and the truth is its own. A year is right when it is
within five years.

    python benchmarks/filling.py --data DIRECTORY     # all of it; writes benchmarks/results/filling.json
    python benchmarks/filling.py --quick              # 3,000 rows: shows that it runs; writes nothing
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _harness import hardware, run_benchmark

_PACKAGES = ("lightning-privacy", "polars", "numpy", "scipy")
_DATA = Path(os.environ.get("LIGHTNING_PRIVACY_DATA", Path(__file__).parents[2] / "shared" / "data"))
_FILE = "persona/historical_figures_with_errors_50k.parquet"
_QUICK_ROWS = 3_000
_HIDDEN = 0.1
_COLUMNS = ("first_name", "surname", "birth_place", "area", "gender", "occupation", "year")
_EPSILON = 1.0
_YEARS = 5


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=_DATA)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="few rows: shows that it runs")
    parser.add_argument("--output", type=Path, help="result file; a complete run has a place of its own")
    arguments = parser.parse_args(argv)
    if arguments.output is None and not arguments.quick:
        arguments.output = Path(__file__).parent / "results" / "filling.json"
    return arguments


def _figures(path: Path, quick: bool) -> Any:
    """The table, with the letters of the postcode and the year of birth as columns of their own."""
    import polars as pl

    from lightning_privacy.preparation.generalise import Prefix

    table = pl.read_parquet(path)
    if quick:
        table = table.head(_QUICK_ROWS)
    table = table.with_columns(
        area=pl.col("postcode_fake"),
        year=pl.col("dob").str.slice(0, 4).cast(pl.Int64, strict=False),
    )
    return Prefix("area").run(table).select("cluster", *_COLUMNS)


def _steps(table: Any, column: str) -> dict[str, tuple[Callable[[], Any], bool]]:
    """The ways to fill a column: what makes the step, and whether it runs under differential privacy."""
    from lightning_privacy.preparation.fill_model import FillFromModel
    from lightning_privacy.preparation.fill_person import FillFromPerson
    from lightning_privacy.preparation.missing import FillMedian, FillMode

    others = [name for name in _COLUMNS if name != column]
    constant = FillMedian if column == "year" else FillMode
    steps: dict[str, tuple[Callable[[], Any], bool]] = {
        "mode or median": (lambda: constant(column), False),
        "model": (lambda: FillFromModel(column, others), False),
        "person's records": (lambda: FillFromPerson(column, person="cluster"), False),
    }
    # Public categories: those of the census, say. Here they are taken from the table, which a real run must not do.
    if column in ("gender", "area"):
        categories = {name: sorted(table[name].drop_nulls().unique().to_list()) for name in ("gender", "area")}
        steps["mode or median, private"] = (
            lambda: FillMode(column, categories={column: categories[column]}, epsilon=_EPSILON),
            True,
        )
        bounds = {"year": [1000, 2020]}
        predictors = ["area" if column == "gender" else "gender", "year"]
        steps["model, private"] = (
            lambda: FillFromModel(column, predictors, categories=categories, bounds=bounds, epsilon=_EPSILON),
            True,
        )
    if column == "year":
        steps["mode or median, private"] = (
            lambda: FillMedian("year", bounds={"year": [1000, 2020]}, epsilon=_EPSILON),
            True,
        )
    return steps


def _persona_steps(column: str) -> dict[str, Callable[[], Any]]:
    from lightning_privacy.preparation.fill_model import FillFromModel
    from lightning_privacy.preparation.fill_person import FillFromPerson
    from lightning_privacy.preparation.missing import FillMedian, FillMode

    constant = FillMedian if column == "age" else FillMode
    others = [name for name in ("given_name", "gender", "age", "location") if name != column]
    return {
        "mode or median": lambda: constant(column),
        "model": lambda: FillFromModel(column, others),
        "person's records": lambda: FillFromPerson(column, person="person"),
    }


def _fill_persona(persons: int) -> list[dict[str, Any]]:
    """Cells that the generator emptied; codes are normalised before, and the true person is taken for known."""
    from lightning_privacy.data.persona.columns import gender_codes
    from lightning_privacy.data.persona.generator import PersonaGenerator
    from lightning_privacy.data.persona.places import place_codes
    from lightning_privacy.preparation import Context
    from lightning_privacy.preparation.normalise import NormaliseCodes
    from lightning_privacy.preparation.outliers import DeclaredLimits

    data = PersonaGenerator(num_persons=persons).generate()
    table = data.records.with_columns(person=data.truth.records["person"])
    for step in (
        NormaliseCodes("gender", gender_codes(), unknown="null"),
        NormaliseCodes("location", place_codes(), unknown="null"),
        DeclaredLimits({"age": [18, 95]}),
    ):
        table = step.run(table)
    results = []
    for column in ("gender", "location", "age"):
        for kind in ("missing_at_random", "missing_not_at_random"):
            emptied = table["record"].is_in(data.truth.planted(kind, column).implode())
            emptied &= table[column].is_null()
            truth = data.truth.records[column]
            for name, make in _persona_steps(column).items() if emptied.any() else ():
                step = make()
                start = time.perf_counter()
                step.fit(table.lazy(), Context())
                filled = step.run(table)[column].filter(emptied)
                seconds = time.perf_counter() - start
                coverage, accuracy = _accuracy(truth.filter(emptied), filled)
                results.append(
                    {
                        "column": column,
                        "values": truth.n_unique(),
                        "hidden": int(emptied.sum()),
                        "kind": kind,
                        "way": name,
                        "epsilon": None,
                        "filled": round(coverage, 4),
                        "accuracy": round(accuracy, 4),
                        "seconds": round(seconds, 2),
                    }
                )
    return results


def _accuracy(truth: Any, filled: Any) -> tuple[float, float]:
    """Share of what was filled, and share of it that is right."""
    there = filled.is_not_null()
    right = (truth - filled).abs() <= _YEARS if truth.dtype.is_numeric() else truth == filled
    return float(there.mean()), float(right.filter(there).mean() or 0.0)


def _fill_figures(table: Any) -> list[dict[str, Any]]:
    import numpy as np
    import polars as pl

    from lightning_privacy import PrivacyLedger
    from lightning_privacy.preparation import Context

    results = []
    for column in _COLUMNS:
        rng = np.random.default_rng(0)
        hidden = table[column].is_not_null() & pl.Series(rng.random(table.height) < _HIDDEN)
        damaged = table.with_columns(pl.when(~hidden).then(pl.col(column)).alias(column))
        for name, (make, private) in _steps(table, column).items():
            step, ledger = make(), PrivacyLedger(delta=1e-6) if private else None
            start = time.perf_counter()
            step.fit(damaged.lazy(), Context(ledger=ledger))
            filled = step.run(damaged)[column].filter(hidden)
            seconds = time.perf_counter() - start
            coverage, accuracy = _accuracy(table[column].filter(hidden), filled)
            results.append(
                {
                    "column": column,
                    "values": table[column].n_unique(),
                    "hidden": int(hidden.sum()),
                    "way": name,
                    "epsilon": None if ledger is None else round(ledger.epsilon(exact=True), 4),
                    "filled": round(coverage, 4),
                    "accuracy": round(accuracy, 4),
                    "seconds": round(seconds, 2),
                }
            )
    return results


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    machine = hardware(threads=arguments.threads, packages=_PACKAGES)
    table = _figures(arguments.data / _FILE, arguments.quick)
    return {
        "benchmark": "filling",
        "quick": arguments.quick,
        "rows": table.height,
        "method": f"{_HIDDEN:.0%} of the values of one column hidden at random and filled; accuracy is of those that "
        f"were filled, a year right within {_YEARS}",
        "figures": _fill_figures(table),
        "persona": _fill_persona(1_000 if arguments.quick else 12_000),
        "hardware": machine | {"load_average_at_end": round(os.getloadavg()[0], 2)},
    }


def _format(result: dict[str, Any]) -> str:
    lines = [f"{'column':>12}{'values':>8}{'way':>26}{'epsilon':>9}{'filled':>8}{'accuracy':>10}{'s':>8}"]
    for row in result["figures"] + result["persona"]:
        epsilon = "-" if row["epsilon"] is None else f"{row['epsilon']:g}"
        lines.append(
            f"{row['column']:>12}{row['values']:8}{row['way']:>26}{epsilon:>9}{row['filled']:8.3f}"
            f"{row['accuracy']:10.3f}{row['seconds']:8.2f}  {row.get('kind', '').replace('_', ' ')}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_benchmark(_parse(sys.argv[1:]), _run, _format))
