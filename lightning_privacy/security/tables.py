"""Tables of polars in encrypted files: Arrow IPC inside, made and read in memory, never in the clear on the disk.

polars ends the whole process on some malformed files. It never sees one here: what it is given was authenticated first,
so it was written by a holder of the key.

Needs polars: ``pip install 'lightning-privacy[persona]'``.

Example:
    >>> import pathlib, tempfile
    >>> import polars as pl
    >>> from lightning_privacy.security import Key, read_table, write_table
    >>> key = Key.generate()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "people.table")
    ...     write_table(pl.DataFrame({"name": ["Ada", "Alan"], "age": [36, 41]}), path, key)
    ...     read_table(path, key, columns=["age"])["age"].to_list()
    [36, 41]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.security.errors import EncryptionError
from lightning_privacy.security.header import Content
from lightning_privacy.security.key_ring import KeyLike
from lightning_privacy.security.reader import EncryptedReader
from lightning_privacy.security.writer import EncryptedWriter

if TYPE_CHECKING:
    import polars as pl

__all__ = ["read_table", "write_table"]


def write_table(
    frame: pl.DataFrame,
    path: str | Path,
    key: KeyLike,
    *,
    context: bytes = b"",
    compression: Literal["uncompressed", "lz4", "zstd"] = "zstd",
) -> None:
    """Write a table, encrypted; the file appears when it is complete.

    Args:
        frame: A polars DataFrame; a LazyFrame is collected by the streaming engine first.
        path: The file; replaced if it is there.
        key: 32 bytes, a key, or a ring whose current key encrypts.
        context: Must be given again to read.
        compression: Of the columns, before they are encrypted. The length of the file then tells how compressible
            the content is, as it tells how long it is without.

    Raises:
        ConfigurationError: ``frame`` is no table of polars, or the key is none.
        KeyExpiredError: The key is past its date.
        OSError: The file can't be written; the error names it.
    """
    polars = _polars()
    if isinstance(frame, polars.LazyFrame):
        frame = frame.collect(engine="streaming")
    if not isinstance(frame, polars.DataFrame):
        raise ConfigurationError(f"frame must be a polars DataFrame or LazyFrame, got {type(frame).__name__}")
    with EncryptedWriter(path, key, context=context, content=Content.TABLE) as file:
        try:
            frame.write_ipc(file, compression=compression)
        except Exception as error:
            # polars turns an error of the file into one of its own.
            raise (file.failure or error) from error


def read_table(
    path: str | Path, key: KeyLike, *, context: bytes = b"", columns: Sequence[str] | None = None
) -> pl.DataFrame:
    """Read a table into memory.

    Args:
        path: A file of :func:`write_table`.
        key: 32 bytes, a key, or a ring.
        context: What it was written with.
        columns: Only these; all when None.

    Raises:
        EncryptionError: By the name of what is wrong.
        ConfigurationError: A column is not in the table.
        OSError: The file can't be read; the error names it.
    """
    polars = _polars()
    with EncryptedReader(path, key, context=context, content=Content.TABLE) as file:
        content = file.read()
    try:
        frame: pl.DataFrame = polars.read_ipc(content, columns=None if columns is None else list(columns))
    except polars.exceptions.ColumnNotFoundError as error:
        raise ConfigurationError(f"columns must be in the table {path}: {str(error).splitlines()[0]}") from error
    except (polars.exceptions.PolarsError, polars.exceptions.PanicException, OSError, ValueError) as error:
        # What is authentic was written by a holder of the key, but perhaps not by write_table.
        raise EncryptionError(
            f"{path} holds a table that this version of polars can't read ({str(error)[:200]}): update polars"
        ) from error
    return frame


def _polars() -> ModuleType:
    try:
        import polars as pl
    except ImportError as error:
        raise ConfigurationError("encrypted tables need polars: pip install 'lightning-privacy[persona]'") from error
    return pl
