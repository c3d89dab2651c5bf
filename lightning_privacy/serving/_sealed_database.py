"""A SQLite file of which every byte is authenticated, and whose every transaction is on the disk when it ends.

One row holds a seal: HMAC-SHA256 over the whole file as it is on the disk, with the place of the seal itself taken as
zeros. It is written in the transaction that it seals, so that there is no moment at which the two disagree: what a
killed process leaves is rolled back by SQLite to the former file, byte by byte, with the former seal. What SQLite
changes only when it commits, its counter of changes and its version in the first page, is known beforehand.

Every transaction has a connection of its own, which reads what is on the disk and not what an earlier one remembers.
The cost is in proportion to the size of the file: a millisecond for each megabyte, beside the 15 to 20 of a commit.

What it can't see: an older copy put in place of the file. It must lie where only the service can write.

Example:
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "counts.db")
    ...     database = SealedDatabase(path, key=bytes(32), schema="CREATE TABLE counts (n INT)")
    ...     with database.transaction() as connection:
    ...         _ = connection.execute("INSERT INTO counts VALUES (5)")
    ...     with database.transaction(write=False) as connection:
    ...         connection.execute("SELECT n FROM counts").fetchone()
    (5,)
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.security.atomic_file import sync_folder
from lightning_privacy.security.errors import TamperedError, WrongKeyError
from lightning_privacy.security.key_ring import KeyLike, KeyRing, as_key_ring

__all__ = ["SealedDatabase"]

# The seal: a mark to find it by, a salt, the authentication code, and the key's id in a field of fixed length.
_MARK = b"lightning_privacy sealed database 1"
_SALT = slice(len(_MARK), len(_MARK) + 16)
_CODE = slice(_SALT.stop, _SALT.stop + 32)
_KEY_ID = slice(_CODE.stop, _CODE.stop + 64)

# https://www.sqlite.org/fileformat2.html, section 1.3.
_CHANGE_COUNTER, _VALID_FOR, _WRITTEN_BY = slice(24, 28), slice(92, 96), slice(96, 100)
_BUSY_SECONDS = 60.0


class SealedDatabase:
    """Opens the file, or makes it.

    Args:
        path: The file; its folder must exist.
        key: 32 bytes, a key or a ring of keys. After a change of key the first transaction that writes seals with
            the new one.
        schema: SQL that makes the tables of a new file.
        create: Make a new file where there is none.

    Raises:
        ConfigurationError: The file is missing and may not be made, or only its journal is there.
        WrongKeyError: It was sealed with a key that is not here.
        TamperedError: It is not as it was sealed.
        OSError: It can't be read or written; the error names it.
    """

    def __init__(self, path: str | Path, key: KeyLike, *, schema: str, create: bool = True) -> None:
        self.path = Path(path)
        self._ring: KeyRing = as_key_ring(key)
        self._ring.encrypting()
        if not self.path.exists():
            if not create:
                raise ConfigurationError(f"{self.path} is not there: give the file that was used before")
            self._create(schema)
        with self.transaction(write=False):
            pass

    @contextlib.contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[sqlite3.Connection]:
        """A connection inside a transaction that no other process or thread shares.

        At the end the file is sealed and forced to the disk, if anything was changed; after an exception it is as it
        was before.

        Args:
            write: Whether anything may be changed.

        Raises:
            TamperedError: The file is not as it was sealed.
            WrongKeyError: It was sealed with a key that is not here.
            OSError: It can't be read or written; what was to be changed is not.
        """
        with self._named_errors(), contextlib.closing(self._connect()) as connection:
            # A reader waits too: it may have to undo what a killed writer left.
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._verify(connection)
                before = connection.total_changes
                yield connection
                if write and connection.total_changes != before:
                    self._seal(connection)
                    connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def _connect(self) -> sqlite3.Connection:
        uri = f"file:{quote(str(self.path.absolute()))}?mode=rw"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_SECONDS)
        # Nothing in a file that is not verified yet may be run, and a commit is on the disk when it returns: with
        # EXTRA also the removal of the journal, without which a power failure would undo it.
        for pragma in ("trusted_schema = OFF", "synchronous = EXTRA", "journal_mode = DELETE"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def _create(self, schema: str) -> None:
        journal = self.path.with_name(f"{self.path.name}-journal")
        if journal.exists():
            raise ConfigurationError(
                f"{journal} is there and {self.path.name} is not: somebody moved or removed it. Put it back; "
                "a new one would forget everything that was charged"
            )
        # Made whole under another name, and linked: a file that is there is never replaced, not even by a race.
        with tempfile.TemporaryDirectory(prefix=f".{self.path.name}.", dir=self.path.parent) as folder:
            new = Path(folder, self.path.name)
            os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("CREATE TABLE seal (id INTEGER PRIMARY KEY, content BLOB NOT NULL)")
                for statement in schema.split(";"):
                    connection.execute(statement)
                empty = _MARK + secrets.token_bytes(16) + bytes(32 + 64)
                connection.execute("INSERT INTO seal VALUES (1, ?)", (empty,))
                self._seal(connection)
                connection.execute("COMMIT")
            with contextlib.suppress(FileExistsError):
                os.link(new, self.path)
        sync_folder(self.path.parent)

    def _seal(self, connection: sqlite3.Connection) -> None:
        key = self._ring.encrypting()
        with connection.blobopen("seal", "content", 1) as blob:
            salt = blob.read()[_SALT]
            blob.seek(_CODE.start)
            blob.write(bytes(32) + key.key_id.encode().ljust(64, b"\0"))
            image = bytearray(connection.serialize())
            counter = (int.from_bytes(image[_CHANGE_COUNTER], "big") + 1) % 2**32
            image[_CHANGE_COUNTER] = image[_VALID_FOR] = counter.to_bytes(4, "big")
            major, minor, patch = sqlite3.sqlite_version_info
            image[_WRITTEN_BY] = (major * 1_000_000 + minor * 1_000 + patch).to_bytes(4, "big")
            blob.seek(_CODE.start)
            blob.write(hmac.digest(key.derive("sealed database", salt=salt), image, "sha256"))

    def _verify(self, connection: sqlite3.Connection) -> None:
        image = bytearray(connection.serialize())
        start = image.find(_MARK)
        seal = bytes(image[start : start + _KEY_ID.stop])
        if start < 0 or len(seal) < _KEY_ID.stop:
            raise self._tampered("it has no seal")
        if self.path.stat().st_size != len(image):
            raise self._tampered("its length is not what its first page says")
        try:
            key = self._ring.decrypting(seal[_KEY_ID].rstrip(b"\0").decode("ascii"))
        except (UnicodeDecodeError, WrongKeyError) as error:
            raise WrongKeyError(
                f"{self.path} was not sealed with this key, or was altered: give the key it was made with"
            ) from error
        image[start + _CODE.start : start + _CODE.stop] = bytes(32)
        code = hmac.digest(key.derive("sealed database", salt=seal[_SALT]), image, "sha256")
        if not hmac.compare_digest(code, seal[_CODE]):
            raise self._tampered("its seal does not fit its content")

    def _tampered(self, what: str) -> TamperedError:
        return TamperedError(
            f"{self.path} was altered from outside, or is damaged: {what}. Nothing is answered from here on. Restore "
            "it from a copy that is not older than the last answer, or count everybody's budget as spent"
        )

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "") or ""
            if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT", "SQLITE_ERROR", "SQLITE_SCHEMA")):
                raise self._tampered(str(error)) from error
            raise OSError(
                f"{self.path} can't be read or written ({error}): see to the disk and its permissions; nothing was "
                "changed and nothing was answered"
            ) from error
        except (
            MemoryError,
            UnicodeDecodeError,
        ) as error:  # a page count of billions; an error that quotes damaged text
            raise self._tampered("its first pages make no sense") from error
