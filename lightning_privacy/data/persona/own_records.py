"""Which record a row is, and who a person is, by what the records hold and neither by places nor by running numbers.

A row's place changes when a row before it goes, and the number that de-duplication gives a person when a person before
does. Were anybody's side or choice of records to follow from these, one person less would deal all others anew, and the
guarantee would be for neighbours that nobody has. A hash of a record's own content stays.

Example:
    >>> import polars as pl
    >>> table = pl.DataFrame({"name": ["Ada", "Ada", ""], "age": [36, 36, None]})
    >>> hashes = row_hashes(table)
    >>> hashes[0] == hashes[1] != hashes[2], hashes.equals(row_hashes(table.cast({"age": pl.Float64})))
    (True, True)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import polars as pl

from lightning_privacy.data.persona.same_person import present
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation._columns import PIPELINE, ROW

__all__ = ["FIRST_ROW", "OwnRecords", "row_hashes"]

#: The column in which a pipeline keeps the smallest hash of a person's records, where a step finds out who is who.
FIRST_ROW = f"{PIPELINE}first row"

_HASH_BYTES = 16
_LARGEST_WHOLE = 2.0**63


class OwnRecords:
    """Keeps for each row which record of the raw table it is; call it before a preparation and between its steps.

    Where a step made a column that says who is who, it also keeps the smallest hash of each person's records, among
    them those that a later step leaves out.

    Args:
        keys: Columns that say who a record is about, as far as they are there. What two columns say is joined. Values
            that are missing, as nulls or as blank text, join nobody.

    Raises:
        ConfigurationError: When it is called: a step left out every column of the raw table.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = tuple(dict.fromkeys(keys))
        self._raw: tuple[str, ...] | None = None

    def __call__(self, table: pl.DataFrame) -> pl.DataFrame:
        """Return the table with its pipeline columns brought up to date.

        Rows that a step wrote anew, without these, are hashed as they are then, by the columns of the raw table: one
        that a step made may hold running numbers.
        """
        if self._raw is None:
            self._raw = tuple(table.columns)
        if ROW not in table.columns or table[ROW].null_count():
            table = _filled(table, ROW, row_hashes(table.select(self._left(table))))
        keys = [key for key in self._keys if key in table.columns]
        if set(keys) <= set(self._raw):
            return table
        table = _filled(table, FIRST_ROW, table[ROW])
        while True:
            joined = table
            for key in keys:
                first = pl.col(FIRST_ROW).min().over(key)
                known = present(joined, key).is_not_null()
                joined = joined.with_columns(pl.when(known).then(first).otherwise(FIRST_ROW).alias(FIRST_ROW))
            if joined[FIRST_ROW].equals(table[FIRST_ROW]):
                return joined
            table = joined

    def made(self, person: str) -> bool:
        """Whether a step made the column, which the raw table does not have: it may hold running numbers."""
        return self._raw is not None and person not in self._raw

    def _left(self, table: pl.DataFrame) -> list[str]:
        names = [name for name in self._raw or () if name in table.columns]
        if not names:
            raise ConfigurationError(
                "a step of the preparation left out all columns of the raw table, and the one in which it is kept "
                "which record a row is: let it drop columns by name and carry along all others"
            )
        return names


def row_hashes(table: pl.DataFrame) -> pl.Series:
    """A hash of what each row holds in all columns but a pipeline's, 16 bytes.

    Two rows have the same one if they hold the same text in every cell. A whole number has the same text whatever the
    column's type, ``40`` for 40.0, since that type may change when one row goes. A missing cell is no empty text.

    Args:
        table: Any rows.
    """
    names = [name for name in table.columns if not name.startswith(PIPELINE)]
    texts = pl.DataFrame([_text(table[name]) for name in names])
    # With the length before it no cell can pass for two.
    cells = [
        pl.when(pl.col(name).is_null())
        .then(pl.lit("-"))
        .otherwise(pl.concat_str(pl.col(name).str.len_bytes().cast(pl.String), pl.lit(":"), pl.col(name)))
        for name in names
    ]
    rows = texts.select(pl.concat_str(cells).alias(ROW))[ROW]
    hashes = [hashlib.blake2b(row.encode(), digest_size=_HASH_BYTES).digest() for row in rows.to_list()]
    return pl.Series(ROW, hashes, dtype=pl.Binary)


def _text(values: pl.Series) -> pl.Series:
    """The cells as text, missing where they are missing."""
    kind, column = values.dtype, pl.col(values.name)
    if kind.is_float():
        whole = (column == column.floor()) & (column.abs() < _LARGEST_WHOLE)
        number = column.cast(pl.Int64, strict=False).cast(pl.String)
        text = pl.when(whole).then(number).otherwise(column.cast(pl.String))
    elif kind.is_decimal():
        text = column.cast(pl.String).str.replace(r"(\.\d*?)0+$", "$1").str.strip_suffix(".")
    elif kind == pl.Binary:
        text = column.bin.encode("hex")
    elif kind == pl.Datetime:
        text = column.dt.cast_time_unit("us").cast(pl.String)
    elif kind == pl.Duration:
        text = column.dt.cast_time_unit("us").cast(pl.Int64).cast(pl.String)
    elif kind.is_nested() or kind == pl.Object:
        return pl.Series(values.name, [None if cell is None else repr(cell) for cell in values.to_list()], pl.String)
    else:
        text = column.cast(pl.String)
    return values.to_frame().select(text.alias(values.name))[values.name]


def _filled(table: pl.DataFrame, name: str, hashes: pl.Series) -> pl.DataFrame:
    """The table with a column of hashes, where it had none so far."""
    there = pl.coalesce(name, hashes) if name in table.columns else hashes
    return table.with_columns(there.alias(name))
