r"""Reads tables of people from CSV, Parquet and Arrow files as they are: nothing guessed away, nothing lost.

A column of a CSV file becomes one of numbers only if every cell is written as numbers are, so that postcodes keep their
zeros, telephone numbers their plus and long numbers all their digits. Tables larger than memory are
for ``polars.scan_parquet`` or ``polars.scan_csv`` and :meth:`Preparation.stream`.

Example:
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "people.csv"
    ...     lines = "name,age,postcode\nMüller,36,01069\n".encode() + "Grün,40,80331\n".encode("cp1252")
    ...     _ = path.write_bytes(lines)
    ...     table = read_table(path, encoding="mixed")
    >>> table.rows()
    [('Müller', 36, '01069'), ('Grün', 40, '80331')]
"""

from __future__ import annotations

import codecs
from pathlib import Path

import polars as pl

from lightning_privacy._validate import positive_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation.roles import Roles
from lightning_privacy.preparation.schema import TableSchema, check_filled

__all__ = ["read_table"]

_CSV, _PARQUET, _ARROW = (".csv", ".tsv", ".txt"), (".parquet", ".pq"), (".arrow", ".feather", ".ipc")
_SECOND = "cp1252"  # what lines of a mixed file are in when they are not in UTF-8
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# What a spreadsheet can hold in a cell; a longer one is mostly a quotation mark that is never closed.
_LONGEST_CELL = 32_767


def read_table(
    path: str | Path,
    *,
    roles: Roles | None = None,
    schema: TableSchema | None = None,
    encoding: str | None = None,
    separator: str | None = None,
    longest_cell: int | None = _LONGEST_CELL,
) -> pl.DataFrame:
    """Read a table.

    Args:
        path: a file ending in .csv, .tsv or .txt, in .parquet or .pq, or in .arrow, .feather or .ipc.
        roles: what the columns are for; they must all be there.
        schema: what the table must be.
        encoding: of a CSV file. None: UTF-8, or UTF-16 where the file says so. ``"mixed"``: each line by itself, UTF-8
            where it is that, Windows-1252 where not. Or any that Python knows.
        separator: between the cells of a CSV file; None: a tab in .tsv, a comma elsewhere.
        longest_cell: the most characters of a cell; None for no limit.

    Raises:
        ConfigurationError: the file is not there, is empty or broken, is not in that encoding, has two columns of one
            name, or its table is not what the roles and the schema say; the message says where.
    """
    path = Path(path)
    limit = None if longest_cell is None else positive_int(longest_cell=longest_cell)
    if not path.is_file():
        raise ConfigurationError(f"path must be a file, and there is none at {str(path)!r}")
    suffix = path.suffix.lower()
    try:
        if suffix in _CSV:
            table = _read_csv(path, encoding, separator or ("\t" if suffix == ".tsv" else ","))
        elif suffix in _PARQUET:
            table = pl.read_parquet(path)
        elif suffix in _ARROW:
            table = pl.read_ipc(path)
        else:
            known = ", ".join((*_CSV, *_PARQUET, *_ARROW))
            raise ConfigurationError(f"path must end in one of {known}, got {path.name!r}")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ConfigurationError(f"{path.name!r} can't be read as {suffix[1:]}: {error}") from error
    check_filled(table)
    if limit is not None:
        _check_cells(table, limit)
    if roles is not None:
        roles.check(table.columns)
    return table if schema is None else schema.check(table)


def _read_csv(path: Path, encoding: str | None, separator: str) -> pl.DataFrame:
    data = path.read_bytes()
    if not data.strip():
        raise ConfigurationError(f"{path.name!r} is empty")
    text = _decode(data, encoding, path.name)
    if "\0" in text:
        raise ConfigurationError(
            f"{path.name!r} holds characters of number 0; if it is UTF-16 without a mark that says so, pass "
            f"encoding='utf-16-le'"
        )
    # The header is read as a row: polars would rename columns of one name without a word.
    header = pl.read_csv(
        text.encode(), has_header=False, n_rows=1, infer_schema=False, separator=separator, truncate_ragged_lines=True
    ).row(0)
    for number, name in enumerate(header, start=1):
        if name is None:
            raise ConfigurationError(f"column {number} of {path.name!r} has no name in the first line")
        if header.count(name) > 1:
            raise ConfigurationError(f"{path.name!r} has two columns named {name!r}: rename one of them")
    table = pl.read_csv(text.encode(), infer_schema=False, separator=separator)
    return table.with_columns(_typed(table[name]) for name in table.columns)


def _decode(data: bytes, encoding: str | None, name: str) -> str:
    for mark, marked in _MARKS:
        if data.startswith(mark):
            return _decoded(data[len(mark) :], marked, name)
    if encoding == "mixed":
        return "".join(_decode_line(line) for line in data.splitlines(keepends=True))
    try:
        return _decoded(data, encoding or "utf-8", name)
    except LookupError as error:
        raise ConfigurationError(
            f"encoding must be 'mixed', None or one that Python knows, got {encoding!r}"
        ) from error


def _decoded(data: bytes, encoding: str, name: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(
            f"line {line} of {name!r} is not {encoding} (byte 0x{data[error.start]:02x}): pass encoding='cp1252' or "
            f"whatever the whole file is in, or encoding='mixed' to read each line by itself"
        ) from error


def _decode_line(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        # Windows-1252 leaves five bytes open; Latin-1 has a character for every byte, so that none is lost.
        return "".join(bytes([byte]).decode(_SECOND, errors="ignore") or chr(byte) for byte in line)


def _typed(text: pl.Series) -> pl.Series:
    """Numbers and truth values where the text can be had back from them exactly; text otherwise."""
    present = text.drop_nulls()
    if not len(present):
        return text
    whole = text.cast(pl.Int64, strict=False)
    if text.eq_missing(whole.cast(pl.String)).all():
        return whole
    if present.str.contains(r"^-?(0|[1-9]\d{0,14})(\.\d{1,15})?$").all():
        number = text.cast(pl.Float64, strict=False)
        if number.null_count() == text.null_count():
            return number
    if present.is_in(["true", "false"]).all():
        return text == "true"
    return text


def _check_cells(table: pl.DataFrame, limit: int) -> None:
    for name, kind in table.schema.items():
        if kind != pl.String:
            continue
        lengths = table[name].str.len_chars()
        longest = lengths.max()
        if isinstance(longest, int) and longest > limit:
            row = int(lengths.arg_max() or 0) + 1
            raise ConfigurationError(
                f"column {name!r} has a cell of {longest:,} characters in row {row}, and longest_cell is {limit:,}: a "
                f"quotation mark that is never closed? If it is meant, pass longest_cell=None"
            )
