"""Parquet files whose columns are encrypted each by itself, after Parquet's own modular encryption.

They are Parquet: Spark, pyarrow and others that are given the keys read them, and a reader that holds the key of some
columns reads those and no others. Each page, and the footer with the statistics, is encrypted with AES-256-GCM and
bound to its place in the file (Apache Parquet, "Parquet Modular Encryption", format 2.7). No column is left in the
clear, since one that is would not be authenticated either. Where all columns have one key and no other tool reads the
file, :func:`~lightning_privacy.security.write_table` is simpler and faster.

A changed bit never gives other data. In the few bytes of the footer that only name the algorithm and an unused key
service, a change that means nothing may pass unnoticed.

Needs pyarrow: ``pip install 'lightning-privacy[parquet]'``.

Example:
    >>> import pathlib, tempfile
    >>> import polars as pl
    >>> from lightning_privacy.security import Key, KeyRing, read_parquet, write_parquet
    >>> general, names = Key.generate(key_id="general"), Key.generate(key_id="names")
    >>> people = pl.DataFrame({"name": ["Ada", "Alan"], "age": [36, 41]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "people.parquet")
    ...     write_parquet(people, path, general, column_keys={"name": names})
    ...     read_parquet(path, general, columns=["age"])["age"].to_list()
    ...     read_parquet(path, KeyRing(general, names)).equals(people)
    [36, 41]
    True
"""

from __future__ import annotations

import base64
import binascii
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.security.atomic_file import AtomicFile
from lightning_privacy.security.errors import EncryptionError, NotEncryptedError, TamperedError, WrongKeyError
from lightning_privacy.security.key_ring import KeyLike, KeyRing, as_key_ring
from lightning_privacy.security.keys import Key

if TYPE_CHECKING:
    import polars as pl

__all__ = ["read_parquet", "write_parquet"]

_MAGIC, _PLAIN_MAGIC = b"PARE", b"PAR1"
_NONCE = 12
# What pyarrow writes for the service that wraps the keys: here there is none but this process.
_SERVICE = ("", "DEFAULT")


class _Arrow(NamedTuple):
    """The modules of pyarrow, imported when needed."""

    core: Any
    parquet: Any
    encryption: Any


def write_parquet(
    frame: pl.DataFrame, path: str | Path, key: KeyLike, *, column_keys: Mapping[str, KeyLike] | None = None
) -> None:
    """Write a table as encrypted Parquet; the file, built in memory, appears when it is complete.

    Args:
        frame: A polars DataFrame.
        path: The file; replaced if it is there.
        key: For the footer and all columns that have no key of their own: 32 bytes, a key, or a ring whose current
            key encrypts.
        column_keys: Column to key, for columns that not every reader may see.

    Raises:
        ConfigurationError: A column is not in the frame or can't be told from another, or a key is none.
        KeyExpiredError: A key is past its date.
        OSError: The file can't be written; the error names it.
    """
    import polars as pl

    arrow = _arrow()
    if not isinstance(frame, pl.DataFrame):
        raise ConfigurationError(f"frame must be a polars DataFrame, got {type(frame).__name__}")
    own = {column: as_key_ring(one).encrypting() for column, one in (column_keys or {}).items()}
    unknown = [column for column in own if column not in frame.columns]
    if unknown:
        raise ConfigurationError(f"column_keys names {unknown[0]!r}, which is not in the frame: {frame.columns}")
    footer = as_key_ring(key).encrypting()
    keys = KeyRing(*{one.key_id: one for one in [footer, *own.values()]}.values())
    if any(keys.decrypting(one.key_id) != one for one in [footer, *own.values()]):
        raise ConfigurationError("column_keys has two keys of the same id: give them a key_id each")
    table = frame.to_arrow()
    configuration = arrow.encryption.EncryptionConfiguration(
        footer_key=footer.key_id,
        column_keys=_leaves(arrow, table, own, footer),
        encryption_algorithm="AES_GCM_V1",
        data_key_length_bits=256,
        double_wrapping=False,
    )
    factory, _ = _factory(arrow, keys)
    properties = factory.file_encryption_properties(arrow.encryption.KmsConnectionConfig(), configuration)
    buffer = arrow.core.BufferOutputStream()
    with arrow.parquet.ParquetWriter(buffer, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    with AtomicFile(path) as file:
        file.write(memoryview(buffer.getvalue()))


def read_parquet(path: str | Path, key: KeyLike, *, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Read encrypted Parquet into memory.

    Args:
        path: A file of :func:`write_parquet`.
        key: The key of the footer, or a ring that has those of the wanted columns too.
        columns: Only these; all when None.

    Raises:
        EncryptionError: By the name of what is wrong; ``WrongKeyError`` when the key of a wanted column is missing.
        ConfigurationError: A column is not in the table.
        OSError: The file can't be read; the error names it.
    """
    import polars as pl

    arrow = _arrow()
    ring, content = as_key_ring(key), Path(path).read_bytes()
    if content.startswith(_PLAIN_MAGIC):
        raise NotEncryptedError(f"{path} is Parquet, and its footer is not encrypted: read it with polars.read_parquet")
    if not content.startswith(_MAGIC):
        raise TamperedError(f"{path} does not start as encrypted Parquet does: check the path, or take another copy")
    factory, failures = _factory(arrow, ring)
    properties = factory.file_decryption_properties(
        arrow.encryption.KmsConnectionConfig(), arrow.encryption.DecryptionConfiguration()
    )
    try:
        file = arrow.parquet.ParquetFile(arrow.core.BufferReader(content), decryption_properties=properties)
        missing = [column for column in columns or () if column not in file.schema_arrow.names]
        table = None if missing else file.read(columns=None if columns is None else list(columns))
    except Exception as error:
        if failures:
            raise type(failures[0])(f"{path}: {failures[0]}") from error
        raise TamperedError(
            f"{path} was altered, cut short or lengthened ({str(error).splitlines()[0]}): take another copy"
        ) from error
    if missing:
        raise ConfigurationError(f"columns must be in {path}, got {missing[0]!r}; it has {file.schema_arrow.names}")
    return cast(pl.DataFrame, pl.from_arrow(table))


def _leaves(arrow: _Arrow, table: Any, own: Mapping[str, Key], footer: Key) -> dict[str, list[str]]:
    """Id of the key to the columns under it, by the paths Parquet has for them: a nested column has several."""
    empty = arrow.core.BufferOutputStream()
    arrow.parquet.write_table(table.schema.empty_table(), empty)
    schema = arrow.parquet.ParquetFile(arrow.core.BufferReader(empty.getvalue())).schema
    under: dict[str, list[str]] = {}
    leaves = [schema.column(number).path for number in range(len(schema))]
    twice = next((leaf for leaf, count in Counter(leaves).items() if count > 1), None)
    if twice is not None:
        raise ConfigurationError(
            f"frame has a column {twice!r} and a nested one of the same path, which Parquet can't give keys: rename it"
        )
    for leaf in leaves:
        # The longest column whose name the path begins with: a name may have a dot in it.
        column = max((name for name in table.column_names if f"{leaf}.".startswith(f"{name}.")), key=len)
        under.setdefault(own.get(column, footer).key_id, []).append(leaf)
    return under


def _factory(arrow: _Arrow, ring: KeyRing) -> tuple[Any, list[EncryptionError]]:
    """What gives pyarrow the keys, and the list of errors of ours it met, which pyarrow turns into its own."""
    failures: list[EncryptionError] = []

    client_class: Any = arrow.encryption.KmsClient

    class Wrapping(client_class):  # type: ignore[misc] # its base is known only once it is imported
        def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
            key, nonce = ring.decrypting(master_key_identifier), os.urandom(_NONCE)
            return base64.b64encode(nonce + _wrapper(key).encrypt(nonce, bytes(key_bytes), _bound(key)))

        def unwrap_key(self, wrapped_key: str | bytes, master_key_identifier: str) -> bytes:
            try:
                key = ring.decrypting(master_key_identifier)
                wrapped = base64.b64decode(wrapped_key, validate=True)
                return _wrapper(key).decrypt(wrapped[:_NONCE], wrapped[_NONCE:], _bound(key))
            except (InvalidTag, ValueError, binascii.Error) as error:
                failures.append(
                    WrongKeyError(
                        f"the key {master_key_identifier!r} does not open it: it is another secret of that name, or "
                        "the file was altered"
                    )
                )
                raise failures[-1] from error
            except EncryptionError as error:
                failures.append(error)
                raise

    def client(connection: Any) -> Wrapping:
        if connection.kms_instance_id not in _SERVICE or connection.kms_instance_url not in _SERVICE:
            failures.append(TamperedError("it names a service for keys that was not there when it was written"))
            raise failures[-1]
        return Wrapping()

    return arrow.encryption.CryptoFactory(client), failures


def _wrapper(key: Key) -> AESGCM:
    return AESGCM(key.derive("parquet keys"))


def _bound(key: Key) -> bytes:
    return key.key_id.encode()


def _arrow() -> _Arrow:
    try:
        return _Arrow(*(import_module(name) for name in ("pyarrow", "pyarrow.parquet", "pyarrow.parquet.encryption")))
    except ImportError as error:
        raise ConfigurationError("encrypted Parquet needs pyarrow: pip install 'lightning-privacy[parquet]'") from error
