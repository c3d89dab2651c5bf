"""Dates written in any of several ways, as dates; what is no date is kept beside them, and counted.

Each row is read by itself. A date such as 03/04/1999 may mean two days: unless ``day_first`` says which, it is read
only where both readings give one day or just one of them exists.

Example:
    >>> import polars as pl
    >>> table = pl.DataFrame({"born": ["1815-12-10", "30.04.1777", "1999-02-30", "soon", "03/04/1999"]})
    >>> step = NormaliseDates(["born"])
    >>> step.run(table)["born"].to_list()[:2]
    [datetime.date(1815, 12, 10), datetime.date(1777, 4, 30)]
    >>> step.report().learned
    {"born: dates that don't exist": 1, 'born: dates with two meanings': 1, 'born: no dates': 1}
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import ClassVar

import polars as pl

from lightning_privacy._validate import one_of
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation._columns import column_names, require_columns
from lightning_privacy.preparation.step import Step

__all__ = ["NormaliseDates"]

_FORMATS = ("%Y-%m-%d", "%Y/%m/%d", "%Y%m%d", "%d.%m.%Y", "%d %B %Y", "%d %b %Y", "%B %d, %Y", "%b %d, %Y", "%B %d %Y")
_DAY_FIRST, _MONTH_FIRST = ("%d/%m/%Y", "%d-%m-%Y"), ("%m/%d/%Y", "%m-%d-%Y")
_TIMES = ("%H:%M:%S", "%H:%M:%S%.f", "%H:%M", "%I:%M %p", "%H.%M")
# A year of two digits would be read as one of the first century.
_FOUR_DIGITS = r"(^|\D)\d{4}(\D|$)|^\d{8}(\D|$)"
# Three numbers in the places of a date, whatever they are.
_LIKE_A_DATE = r"^(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}|\d{8})(\D|$)"
_INVALID = ("keep", "null")
_SUFFIX = "_as_given"


class NormaliseDates(Step):
    """Reads columns of text as dates, or as dates with a time of day.

    A cell that can't be read becomes missing. With ``invalid="keep"`` what was in it stands in a further column, named
    like the first with ``_as_given`` behind it, which is missing everywhere else.

    Args:
        columns: columns of text; columns of dates already are left as they are.
        day_first: whether 03/04/1999 is in April (True) or in March (False); None reads it only if that is clear.
        time: keep the time of day, as a datetime without time zone.
        formats: further ways to write them, in the letters of ``strftime``, tried before the others.
        earliest: dates before are not read; a public bound, such as "1900-01-01".
        latest: dates after are not read.
        invalid: ``"keep"`` or ``"null"``.

    Raises:
        ConfigurationError: an argument is none of these, or a column is unknown or holds something else.
    """

    name: ClassVar[str] = "normalise dates"
    by_columns: ClassVar[bool] = True

    def __init__(
        self,
        columns: Iterable[str],
        *,
        day_first: bool | None = None,
        time: bool = False,
        formats: Iterable[str] = (),
        earliest: date | str | None = None,
        latest: date | str | None = None,
        invalid: str = "keep",
    ) -> None:
        super().__init__()
        self._columns = column_names("columns", columns, empty=False)
        one_of((None, True, False), day_first=day_first)
        one_of(_INVALID, invalid=invalid)
        self._day_first, self._time, self._invalid = day_first, bool(time), invalid
        self._formats = ((formats,) if isinstance(formats, str) else tuple(formats)) + _FORMATS
        self._earliest, self._latest = _bound("earliest", earliest), _bound("latest", latest)
        if self._earliest is not None and self._latest is not None and self._earliest > self._latest:
            raise ConfigurationError(f"earliest={self._earliest} is after latest={self._latest}")

    def _apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        schema = frame.collect_schema()
        require_columns("columns", self._columns, schema)
        made: list[pl.Expr] = []
        for name in self._columns:
            kind = schema[name]
            if kind in (pl.Date, pl.Datetime):
                made.append(self._bounded(pl.col(name)).alias(name))
            elif kind in (pl.String, pl.Null):
                text = pl.col(name).cast(pl.String)
                read = self._bounded(self._read(text.str.strip_chars()))
                made.append(read.alias(name))
                if self._invalid == "keep":
                    made.append(pl.when(read.is_null()).then(text).alias(name + _SUFFIX))
            else:
                raise ConfigurationError(f"columns names {name!r}, which holds {kind}; dates are read from text")
        return frame.with_columns(made)

    def _read(self, text: pl.Expr) -> pl.Expr:
        text = pl.when(text.str.contains(_FOUR_DIGITS)).then(text).otherwise(None)
        day, month = self._any(text, _DAY_FIRST), self._any(text, _MONTH_FIRST)
        slashed = day if self._day_first else month
        if self._day_first is None:
            clear = day.is_null() | month.is_null() | (day == month)
            slashed = pl.when(clear).then(pl.coalesce(day, month)).otherwise(None)
        return pl.coalesce(self._any(text, self._formats), slashed)

    def _any(self, text: pl.Expr, formats: Iterable[str]) -> pl.Expr:
        if not self._time:
            days = [text.str.to_date(form, strict=False) for form in formats]
            # A date with a time of day behind it is a date all the same.
            plain = text.str.replace(r"[T ]\d{1,2}[:.]\d{2}([:.]\d{2}(\.\d+)?)?( ?[AaPp][Mm])?Z?$", "")
            return pl.coalesce(*days, *(plain.str.to_date(form, strict=False) for form in formats))
        found = []
        for form in formats:
            found += [text.str.to_datetime(f"{form}{gap}{time}", strict=False) for time in _TIMES for gap in (" ", "T")]
            found.append(text.str.to_date(form, strict=False).cast(pl.Datetime("us")))
        return pl.coalesce(found)

    def _bounded(self, day: pl.Expr) -> pl.Expr:
        for bound, outside in ((self._earliest, pl.Expr.lt), (self._latest, pl.Expr.gt)):
            if bound is not None:
                day = pl.when(~outside(day.cast(pl.Date), pl.lit(bound))).then(day).otherwise(None)
        return day

    def _count(self, before: pl.DataFrame, after: pl.DataFrame) -> None:
        super()._count(before, after)
        for name in self._columns:
            if before[name].dtype != pl.String:
                continue
            lost = before.filter(after[name].is_null() & before[name].is_not_null())
            text = pl.col(name).str.strip_chars()
            kind = (
                pl.when(self._read(text).is_not_null())
                .then(pl.lit("dates out of bounds"))
                .when(self._any(text, (*_DAY_FIRST, *_MONTH_FIRST)).is_not_null() & text.str.contains(_FOUR_DIGITS))
                .then(pl.lit("dates with two meanings"))
                .when(text.str.contains(_LIKE_A_DATE))
                .then(pl.lit("dates that don't exist"))
                .otherwise(pl.lit("no dates"))
            )
            for found, number in lost.select(kind.alias("kind"))["kind"].value_counts().sort("kind").iter_rows():
                key = f"{name}: {found}"
                self._learned[key] = self._learned.get(key, 0) + number


def _bound(name: str, value: date | str | None) -> date | None:
    if value is None or isinstance(value, date):
        return value
    try:
        return date.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{name} must be a date such as '1900-01-01', got {value!r}") from error
