"""What is true about invented people, kept beside their damaged table for tests and never used in training.

Example:
    >>> from lightning_privacy.data.persona.generator import PersonaGenerator
    >>> truth = PersonaGenerator(num_persons=50, seed=1).generate().truth
    >>> truth.records.columns[:3]
    ['record', 'person', 'given_name']
    >>> truth.errors.columns
    ['record', 'column', 'kind']
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from lightning_privacy._validate import one_of

__all__ = ["KINDS_OF_ERROR", "PersonaTruth"]

#: What can be wrong with a cell or a record.
KINDS_OF_ERROR: tuple[str, ...] = (
    "exact_duplicate",
    "impossible_date",
    "inconsistent_code",
    "missing_at_random",
    "missing_not_at_random",
    "near_duplicate",
    "outlier",
    "swapped_fields",
    "typing_error",
    "wrong_label",
)


@dataclass(frozen=True, eq=False)
class PersonaTruth:
    """Who each record belongs to, what it should say, and what is wrong with it.

    Attributes:
        records: One row per record of the damaged table, in its order: ``record``, ``person`` (number of the true
            person), the true values of the columns, and ``base``, which image its image is made of.
        errors: One row per planted error that is still to be seen: ``record``, ``column`` (empty for duplicates, which
            are wrong as a whole) and ``kind``, one of :data:`KINDS_OF_ERROR`. What was swapped or mistyped and then
            lost is missing, and nothing else.
    """

    records: pl.DataFrame
    errors: pl.DataFrame

    def planted(self, kind: str, column: str | None = None) -> pl.Series:
        """The numbers of the records with one kind of error.

        Args:
            kind: One of :data:`KINDS_OF_ERROR`.
            column: Only errors in this column; None for any.

        Raises:
            ConfigurationError: The kind is unknown.
        """
        one_of(KINDS_OF_ERROR, kind=kind)
        wanted = pl.col("kind") == kind
        if column is not None:
            wanted &= pl.col("column") == column
        return self.errors.filter(wanted)["record"].unique().sort()

    def persons(self, records: Iterable[int]) -> pl.Series:
        """The true person of each of these records, in their order."""
        asked = pl.DataFrame({"record": pl.Series(list(records), dtype=pl.Int64)})
        return asked.join(self.records.select("record", "person"), on="record", how="left", maintain_order="left")[
            "person"
        ]
