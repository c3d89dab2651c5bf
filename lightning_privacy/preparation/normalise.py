"""One spelling for one thing: white space, case, Unicode forms, text read with the wrong encoding, codes.

All of it looks at one row at a time and at public constants, so that it is free under differential privacy, given that
its columns are named, and runs in batches over any number of rows. Dates have a module of their own,
``normalise_dates``.

Example:
    >>> import polars as pl
    >>> table = pl.DataFrame({"name": ["  MÃ¼ller", "Mu\u0308ller ", "n/a"], "sex": ["F", "w.", "female"]})
    >>> table = NormaliseText(columns=["name", "sex"], case="lower").run(table)
    >>> NormaliseCodes("sex", {"female": ["f", "w."], "male": ["m"]}).run(table).rows()
    [('müller', 'female'), ('müller', 'female'), (None, 'female')]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import polars as pl
from typing_extensions import override

from lightning_privacy._validate import one_of
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation._columns import column_names, require_columns, text_columns
from lightning_privacy.preparation.step import Step

__all__ = ["MISSING", "OFF_LIST", "ON_OR_OFF", "NormaliseCodes", "NormaliseText"]

# What stands for nothing in any table; "none", "null", "na" and "nan" are left alone, as people have these names.
MISSING = ("", "-", "--", "?", "n/a", "#n/a")
_CASES = (None, "lower", "upper", "title")
_FORMS = (None, "NFC", "NFKC")
_UNKNOWN = ("keep", "null")
#: What a report calls the cells that are not missing and have no code, and all that are not missing; after the column.
OFF_LIST, ON_OR_OFF = ": not on the list", ": cells that say something"
# Control characters, byte order marks, spaces of no width and marks that turn the direction of writing.
_INVISIBLE = r"[\p{Cc}\u{200B}\u{FEFF}\u{202A}-\u{202E}\u{2066}-\u{2069}]"
# The first bytes of UTF-8 sequences as Windows-1252 shows them, followed by what continuation bytes look like there.
_MISREAD = r"[ÂÃÄÅâ][\u{80}-\u{BF}\u{152}\u{153}\u{160}\u{161}\u{178}\u{17D}\u{17E}\u{192}\u{2C6}\u{2DC}\u{2013}-\u{203A}\u{20AC}\u{2122}]"  # noqa: E501


class NormaliseText(Step):
    """Gives text one form: Unicode, white space, case; and makes empty what only stands for nothing.

    Without names of columns it takes those whose type is text. Where types were found by looking at all rows, as in a
    CSV file, one person's cell decides whether everybody's are normalised; so under a ledger name the columns.

    Args:
        columns: columns of text; None for all of them, which stands to privacy as a step that compares rows does.
        case: ``"lower"``, ``"upper"``, ``"title"``, or None to leave it.
        form: the Unicode form, ``"NFKC"`` (also wide letters and ligatures), ``"NFC"`` or None to leave it.
        repair: turn text that is UTF-8 read as Windows-1252 back, as in "MÃ¼ller".
        missing: what stands for a missing value, compared without regard to case after the rest is done.
        caveat: without names of columns run under differential privacy all the same, with a caveat in the ledger.

    Raises:
        ConfigurationError: an argument is none of these, or a column is unknown or not of text.
    """

    name: ClassVar[str] = "normalise text"
    by_types: ClassVar[bool] = True
    by_columns: ClassVar[bool] = True

    def __init__(
        self,
        columns: Iterable[str] | None = None,
        *,
        case: str | None = None,
        form: str | None = "NFKC",
        repair: bool = True,
        missing: Iterable[str] = MISSING,
        caveat: bool = False,
    ) -> None:
        super().__init__(caveat=caveat)
        self._columns = None if columns is None else column_names("columns", columns)
        self.private = "compares" if columns is None else "rowwise"
        one_of(_CASES, case=case)
        one_of(_FORMS, form=form)
        self._case, self._form, self._repair = case, form, bool(repair)
        self._missing = [str(token).lower() for token in missing]

    def _apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        schema = frame.collect_schema()
        columns = text_columns(schema) if self._columns is None else self._columns
        require_columns("columns", columns, schema)
        for name in columns:
            if schema[name] not in (pl.String, pl.Null):
                raise ConfigurationError(f"columns names {name!r}, which holds {schema[name]} and not text")
        return frame.with_columns(self._expression(name) for name in columns if schema[name] == pl.String)

    @override
    def caveat_sentence(self) -> str:
        return (
            "The step 'normalise text' takes the columns whose type is text. Where types were found by looking at all "
            "rows, one person's cell may decide whether the rows of other people are normalised, and epsilon does not "
            "count that: name the columns."
        )

    def _expression(self, name: str) -> pl.Expr:
        text = pl.col(name)
        if self._repair:
            text = pl.when(text.str.contains(_MISREAD)).then(_repaired(text)).otherwise(text)
        if self._form == "NFC":
            text = text.str.normalize("NFC")
        elif self._form == "NFKC":
            text = text.str.normalize("NFKC")
        text = text.str.replace_all(r"\s+", " ").str.replace_all(_INVISIBLE, "").str.strip_chars()
        if self._case == "lower":
            text = text.str.to_lowercase()
        elif self._case == "upper":
            text = text.str.to_uppercase()
        elif self._case == "title":
            text = text.str.to_titlecase()
        return pl.when(~text.str.to_lowercase().is_in(self._missing)).then(text).alias(name)


def _repaired(text: pl.Expr) -> pl.Expr:
    return text.map_batches(_repair_series, return_dtype=pl.String, is_elementwise=True)


def _repair_series(values: pl.Series) -> pl.Series:
    found = values.is_not_null() & values.str.contains(_MISREAD).fill_null(value=False)
    if not found.any():
        return values
    fixed = [_repair_text(value) if hit else value for value, hit in zip(values, found, strict=True)]
    return pl.Series(values.name, fixed, dtype=pl.String)


def _repair_text(text: str) -> str:
    """Undo a reading of UTF-8 as Windows-1252; text that is not one, in whole, stays as it is."""
    try:
        raw = b"".join(_as_byte(character) for character in text)
        return raw.decode("utf-8")
    except UnicodeError:
        return text


def _as_byte(character: str) -> bytes:
    try:
        return character.encode("cp1252")
    except UnicodeEncodeError:
        # Five bytes have no character in Windows-1252; most readers show them as control characters.
        return character.encode("latin-1")


class NormaliseCodes(Step):
    """Gives each thing one code: ``{"female": ["f", "w"], "male": ["m"]}``.

    Args:
        column: the column of text.
        codes: code to the other ways it is written. Compared without regard to case and outer white space.
        unknown: what is none of these: ``"keep"`` leaves it, ``"null"`` makes it missing; the report counts both.

    Raises:
        ConfigurationError: one way of writing stands for two codes, or the column is unknown or not of text.
    """

    name: ClassVar[str] = "normalise codes"
    by_columns: ClassVar[bool] = True

    def __init__(self, column: str, codes: Mapping[str, Iterable[str]], *, unknown: str = "keep") -> None:
        super().__init__()
        (self._column,) = column_names("column", column, empty=False)
        one_of(_UNKNOWN, unknown=unknown)
        self._unknown = unknown
        self._table = _code_table(codes)

    def _apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        schema = frame.collect_schema()
        require_columns("column", [self._column], schema)
        kind = schema[self._column]
        if kind not in (pl.String, pl.Null):
            raise ConfigurationError(f"column {self._column!r} holds {kind}, and codes are replaced in text")
        text = pl.col(self._column).cast(pl.String)
        key = text.str.strip_chars().str.to_lowercase()
        default = text if self._unknown == "keep" else pl.lit(None, dtype=pl.String)
        code = key.replace_strict(self._table, default=default, return_dtype=pl.String)
        return frame.with_columns(code.alias(self._column))

    def _count(self, before: pl.DataFrame, after: pl.DataFrame) -> None:
        super()._count(before, after)
        key = before[self._column].cast(pl.String).drop_nulls().str.strip_chars().str.to_lowercase()
        unknown = int((~key.is_in(list(self._table))).sum())
        learned: dict[str, Any] = self._learned
        for what, number in ((OFF_LIST, unknown), (ON_OR_OFF, len(key))):
            learned[self._column + what] = learned.get(self._column + what, 0) + number


def _code_table(codes: object) -> dict[str, str]:
    if not isinstance(codes, Mapping) or not codes:
        raise ConfigurationError(f"codes must map each code to the other ways it is written, got {codes!r}")
    table: dict[str, str] = {}
    for code, others in codes.items():
        for written in (str(code), *((others,) if isinstance(others, str) else others or ())):
            key = str(written).strip().lower()
            if table.setdefault(key, str(code)) != str(code):
                raise ConfigurationError(f"codes has {written!r} for both {table[key]!r} and {code!r}: keep one")
    return table
