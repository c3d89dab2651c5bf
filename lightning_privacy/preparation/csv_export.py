"""Writes CSV files that a spreadsheet program shows and does not run.

A cell such as ``=HYPERLINK("http://…"&A1)`` that somebody typed into a form is a formula to whoever opens the file.
Such cells get an apostrophe in front, which makes them text in every spreadsheet program; :func:`restore_formulas`
takes it away again, so that nothing is lost.

Example:
    >>> import polars as pl
    >>> table = pl.DataFrame({"name": ["=1+1", "Ada", "-5"], "balance": [-5, 3, 2]})
    >>> safe = neutralise_formulas(table)
    >>> safe["name"].to_list(), restore_formulas(safe).equals(table)
    (["'=1+1", 'Ada', '-5'], True)
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import polars as pl

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation._columns import text_columns

__all__ = ["neutralise_formulas", "restore_formulas", "write_csv"]

# What starts a formula, also behind white space and as a wide character; and cells that would be taken for one that
# was made safe already. A plain number with its sign is no formula.
_STARTS = r"^[\s\u{200B}\u{FEFF}]*[=+\-@|%\u{FF1D}\u{FF0B}\u{FF0D}\u{FF20}\u{2212}]|^[\t\r\n]"
_NUMBER = r"^[+-]?\d+([.,]\d+)?$"
_MARKED = r"^'+"


def neutralise_formulas(table: pl.DataFrame) -> pl.DataFrame:
    """The table with an apostrophe before each text that a spreadsheet program would run.

    Args:
        table: of any columns; only text is changed, names of columns included.
    """
    # Names stay different: whatever begins like a safe name is made safe itself.
    return _on_texts(table, _neutral).rename({name: _safe_name(name) for name in table.columns})


def restore_formulas(table: pl.DataFrame) -> pl.DataFrame:
    """What :func:`neutralise_formulas` was given.

    Args:
        table: its result, perhaps written and read again.
    """
    names = {
        name: name[1:] if name.startswith("'") and _safe_name(name[1:]) == name else name for name in table.columns
    }
    return _on_texts(table, _original).rename(names)


def write_csv(table: pl.DataFrame, path: str | Path, *, separator: str = ",") -> int:
    """Write a table as CSV in UTF-8, whole or not at all, readable for its owner only.

    Args:
        table: of columns that hold one value a cell.
        path: the file; one that is there is replaced.
        separator: one character.

    Returns:
        How many cells got an apostrophe.

    Raises:
        ConfigurationError: a column can't be written as CSV, or the folder is not there.
    """
    path = Path(path)
    for name, kind in table.schema.items():
        if kind.is_nested() or kind in (pl.Binary, pl.Object):
            raise ConfigurationError(
                f"column {name!r} holds {kind}, which CSV can't hold: leave it out, or write Parquet"
            )
    if not path.parent.is_dir():
        raise ConfigurationError(f"path must be in a folder that exists, got {str(path)!r}")
    safe = neutralise_formulas(table)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            safe.write_csv(file, separator=separator, quote_style="non_numeric")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    texts = (position for position, kind in enumerate(safe.dtypes) if kind == pl.String)
    return sum(int(table.to_series(at).cast(pl.String).ne_missing(safe.to_series(at)).sum()) for at in texts)


def _safe_name(name: str) -> str:
    return str(pl.select(_neutral(pl.lit(name))).item())


def _on_texts(table: pl.DataFrame, change: Callable[[pl.Expr], pl.Expr]) -> pl.DataFrame:
    columns = text_columns(table.schema)
    others = [name for name, kind in table.schema.items() if kind in (pl.Categorical, pl.Enum)]
    return table.with_columns(pl.col(name).cast(pl.String) for name in others).with_columns(
        change(pl.col(name)).alias(name) for name in (*columns, *others)
    )


def _risky(text: pl.Expr) -> pl.Expr:
    bare = text.str.replace(_MARKED, "")
    return bare.str.contains(_STARTS) & ~text.str.contains(_NUMBER)


def _neutral(text: pl.Expr) -> pl.Expr:
    return pl.when(_risky(text)).then(pl.concat_str(pl.lit("'"), text)).otherwise(text)


def _original(text: pl.Expr) -> pl.Expr:
    rest = text.str.slice(1)
    return pl.when(text.str.starts_with("'") & _risky(rest)).then(rest).otherwise(text)
