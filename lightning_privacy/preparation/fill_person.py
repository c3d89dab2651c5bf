"""Values taken from other records of the same person: what one record lacks, another may have.

It needs a column that says who a row is about, as de-duplication makes one. What is filled is then a function of one
person's records: free where a ledger protects persons, and a comparison of rows where it protects single records.

Example:
    >>> import polars as pl
    >>> table = pl.DataFrame({"who": [1, 1, 1, 2], "born": ["Ulm", None, "Ulm", None]})
    >>> step = FillFromPerson(["born"], person="who")
    >>> step.fit(table.lazy(), Context())
    >>> step.run(table)["born"].to_list()
    ['Ulm', 'Ulm', 'Ulm', None]
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import polars as pl
from typing_extensions import override

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation._columns import column_names, known_person, require_columns
from lightning_privacy.preparation.step import Context, Standing, Step

__all__ = ["FillFromPerson"]

_PERSON_UNITS = ("person", "user")
_KEY, _ROWS, _VALUE = "\x00key", "\x00rows", "\x00value"


class FillFromPerson(Step):
    """Fills with the value most frequent among the person's own records, the smallest of several; without one, not.

    Args:
        columns: the columns to fill.
        person: the column that says who a row is about; None for that of the context, or else the identifier of the
            roles. Rows in which it is missing, or blank, stay as they are.
        caveat: where the ledger protects single records, run all the same, with a caveat in the ledger.

    Raises:
        ConfigurationError: there is no column of persons, it is among those to fill, or a column is unknown.
        PrivacyViolation: at :meth:`fit`, the ledger protects single records, and ``caveat=True`` was not said.
    """

    name: ClassVar[str] = "fill from person"
    private: Standing = "compares"
    learns: ClassVar[bool] = True  # the roles
    whole: ClassVar[bool] = True

    def __init__(self, columns: str | Iterable[str], *, person: str | None = None, caveat: bool = False) -> None:
        super().__init__(caveat=caveat)
        self._columns = column_names("columns", columns, empty=False)
        if person is not None and (not isinstance(person, str) or not person):
            raise ConfigurationError(f"person must be the name of a column or None, got {person!r}")
        self._person = person
        self._key = ""

    @override
    def standing(self, context: Context) -> Standing:
        of_persons = context.ledger is not None and context.ledger.unit in _PERSON_UNITS
        return "rowwise" if of_persons else self.private

    @override
    def check(self, schema: pl.Schema | None, context: Context) -> pl.Schema | None:
        super().check(schema, context)
        key = self._key_of(context)
        if key in self._columns:
            raise ConfigurationError(f"columns has {key!r}, which says who a row is about: take it out")
        if schema is not None:
            require_columns("person", [key], schema)
            require_columns("columns", self._columns, schema)
        return schema

    def _key_of(self, context: Context) -> str:
        key = self._person if self._person is not None else context.who
        if key is None:
            raise ConfigurationError(
                "fill from person must know whose a record is: give person, or a column the role identifier"
            )
        return key

    @property
    @override
    def person_columns(self) -> tuple[str, ...]:
        return () if self._person is None else (self._person,)

    @override
    def _fit(self, frame: pl.LazyFrame, context: Context) -> None:
        self._key = self._key_of(context)

    @override
    def _apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        schema = frame.collect_schema()
        require_columns("person", [self._key], schema)
        require_columns("columns", self._columns, schema)
        frame = frame.with_columns(known_person(schema, self._key).alias(_KEY))
        for name in self._columns:
            value = pl.col(name).fill_nan(None) if schema[name].is_float() else pl.col(name)
            known = frame.select(_KEY, value.alias(_VALUE)).drop_nulls()
            counted = known.group_by(_KEY, _VALUE).agg(pl.len().alias(_ROWS))
            first = counted.sort([_ROWS, _VALUE], descending=[True, False]).group_by(_KEY, maintain_order=True)
            best = first.agg(pl.col(_VALUE).first())
            joined = frame.join(best, on=_KEY, how="left", maintain_order="left")
            frame = joined.with_columns(pl.coalesce(value, _VALUE).alias(name)).drop(_VALUE)
        return frame.drop(_KEY)
