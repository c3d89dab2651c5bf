r"""Reads tables of people from CSV, Parquet and Arrow files as they are: nothing guessed away, nothing lost.

A column of a CSV file becomes one of numbers only if every cell is written as numbers are, so that postcodes keep their
zeros, telephone numbers their plus and long numbers all their digits. Tables larger than memory are
for ``polars.scan_parquet`` or ``polars.scan_csv`` and :meth:`Preparation.stream`.

**Types and privacy.** Which columns are numbers is found out from all rows of a CSV file: one person's "forty" makes
text of everybody's ages, and no epsilon counts that. Under a ledger declare the types: by a ``schema`` or by ``kinds``,
or take Parquet or Arrow, which declare them in the file. A cell is then read by itself.

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
import csv
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl

from lightning_privacy._validate import one_of, positive_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation._cells import CELL_KINDS, read_cells
from lightning_privacy.preparation.roles import Roles
from lightning_privacy.preparation.schema import TableSchema, check_filled

__all__ = ["guessed_columns", "is_text", "read_table"]

_CSV, _PARQUET, _ARROW = (".csv", ".tsv", ".txt"), (".parquet", ".pq"), (".arrow", ".feather", ".ipc")
_SECOND = "cp1252"  # what lines of a mixed file are in when they are not in UTF-8
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# What a spreadsheet can hold in a cell; a longer one is mostly a quotation mark that is never closed.
_LONGEST_CELL = 32_767
_LONGEST_REASON = 200
_SEPARATORS = (";", "\t", "|", ",")


def read_table(
    path: str | Path,
    *,
    roles: Roles | None = None,
    schema: TableSchema | None = None,
    kinds: Mapping[str, str] | None = None,
    encoding: str | None = None,
    separator: str | None = None,
    longest_cell: int | None = _LONGEST_CELL,
) -> pl.DataFrame:
    """Read a table.

    Args:
        path: a file ending in .csv, .tsv or .txt, in .parquet or .pq, or in .arrow, .feather or .ipc.
        roles: what the columns are for; they must all be there.
        schema: what the table must be. Columns of a CSV file that it gives a kind are read as that, cell by cell.
        kinds: column of a CSV file to what its cells are read as, where the schema does not say: ``"text"``,
            ``"number"``, ``"whole number"`` or ``"boolean"``. A cell that is none of it is missing. Columns that the
            file does not have are left aside.
        encoding: of a CSV file. None: UTF-8, or UTF-16 where the file says so. ``"mixed"``: each line by itself, UTF-8
            where it is that, Windows-1252 where not. Or any that Python knows.
        separator: between the cells of a CSV file, one character; None: a tab in .tsv, a comma elsewhere.
        longest_cell: the most characters of a cell; None for no limit.

    Raises:
        ConfigurationError: the file is not there, is empty or broken, is not in that encoding, has two columns of one
            name, its table is not what the roles and the schema say, or none of the cells of a column is of the kind
            that ``kinds`` says; the message says where.
    """
    path = Path(path)
    for name, kind in (kinds or {}).items():
        one_of(CELL_KINDS, **{f"kinds[{name!r}]": kind})
    limit = None if longest_cell is None else positive_int(longest_cell=longest_cell)
    if not path.is_file():
        raise ConfigurationError(f"path must be a file, and there is none at {str(path)!r}")
    suffix = path.suffix.lower()
    try:
        if suffix in _CSV:
            table = _read_csv(path, encoding, separator)
        elif suffix in _PARQUET:
            table = pl.read_parquet(path)
        elif suffix in _ARROW:
            table = pl.read_ipc(path)
        else:
            known = ", ".join((*_CSV, *_PARQUET, *_ARROW))
            raise ConfigurationError(f"path must end in one of {known}, got {path.name!r}")
    except (pl.exceptions.PolarsError, OSError) as error:
        # Of its own words, one line and no more: some readers quote what they could not read, which is the table.
        words = str(error).splitlines()[0][:_LONGEST_REASON] if str(error) else type(error).__name__
        raise ConfigurationError(f"{path.name!r} can't be read as {suffix[1:]}: {words}") from None
    check_filled(table)
    if limit is not None:
        _check_cells(table, limit)
    if suffix in _CSV:
        table = table.with_columns(_read_column(table[name], schema, kinds or {}) for name in table.columns)
    if roles is not None:
        roles.check(table.columns)
    return table if schema is None else schema.check(table)


def _read_csv(path: Path, encoding: str | None, given: str | None) -> pl.DataFrame:
    separator = given if given is not None else ("\t" if path.suffix.lower() == ".tsv" else ",")
    if len(separator.encode()) != 1:
        raise ConfigurationError(f"separator must be one character of ASCII, got {separator!r}")
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
    header = _parsed(text, separator, path.name, has_header=False, n_rows=1, truncate_ragged_lines=True).row(0)
    other = next((mark for mark in _SEPARATORS if mark != separator and mark in text.split("\n", 1)[0]), None)
    if given is None and len(header) == 1 and other is not None:
        raise ConfigurationError(
            f"the first line of {path.name!r} is one column with {separator!r} between cells, and holds {other!r}: "
            f"pass separator={other!r}, or separator={separator!r} if it is one column"
        )
    for number, name in enumerate(header, start=1):
        if name is None:
            raise ConfigurationError(f"column {number} of {path.name!r} has no name in the first line")
        if header.count(name) > 1:
            first = header.index(name) + 1
            last = len(header) - header[::-1].index(name)
            # Not the name: where the header is missing it is what somebody's record holds.
            raise ConfigurationError(
                f"columns {first} and {last} of {path.name!r} have one name in the first line: rename one of them, or "
                "put a line of names before the first record"
            )
    return _parsed(text, separator, path.name)


def _parsed(text: str, separator: str, name: str, **options: Any) -> pl.DataFrame:
    """The cells as text.

    Raises:
        ConfigurationError: They can't be told apart; the message says in which line, and holds nothing of it.
    """
    try:
        return pl.read_csv(text.encode(), infer_schema=False, separator=separator, **options)
    except pl.exceptions.PolarsError:
        # Polars quotes the rest of the file, which is people's data, and an error may be logged anywhere.
        raise ConfigurationError(f"{name!r} can't be read as a CSV file: {_fault(text, separator)}") from None


def _fault(text: str, separator: str) -> str:
    """Where the cells of a table can't be told apart."""
    odd = None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.count('"') % 2:
            odd = number if odd is None else None
    if odd is not None:
        return f"a quotation mark in line {odd} is never closed"
    with suppress(csv.Error):
        rows = csv.reader(io.StringIO(text), delimiter=separator)
        columns = len(next(rows))
        for row in rows:
            if len(row) > columns:
                return (
                    f"line {rows.line_num} has {len(row)} cells, and the first line {columns}: is {separator!r} what "
                    "stands between them (separator=)?"
                )
    return "quotation marks in the middle of cells, or lines that end within one"


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


def is_text(path: str | Path) -> bool:
    """Whether a file's name is that of one of text, which does not say what types its columns have."""
    return Path(path).suffix.lower() in _CSV


def guessed_columns(
    path: str | Path,
    columns: Sequence[str],
    *,
    schema: TableSchema | None = None,
    kinds: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """Return those of a file's columns of which :func:`read_table` finds the types by looking at all rows.

    Args:
        path: the file; only what its name ends in is looked at.
        columns: its columns.
        schema: as for :func:`read_table`.
        kinds: as for :func:`read_table`.
    """
    if not is_text(path):
        return ()
    declared = {*(kinds or {}), *({} if schema is None else schema.kinds)}
    return tuple(name for name in columns if name not in declared)


def _read_column(text: pl.Series, schema: TableSchema | None, kinds: Mapping[str, str]) -> pl.Series:
    if schema is not None and text.name in schema.kinds:
        return schema.read(text)
    if text.name not in kinds:
        return _typed(text)
    kind = kinds[text.name]
    values = read_cells(text, kind)
    if len(text.drop_nulls()) and not len(values.drop_nulls()):
        raise ConfigurationError(
            f"kinds reads column {text.name!r} as {kind}, and not one of its cells is that: give the column another "
            f"kind, such as kinds={{{text.name!r}: 'text'}}"
        )
    return values


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
