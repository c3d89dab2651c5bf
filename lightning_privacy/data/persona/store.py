"""Where the data lie between the stages of a pipeline: encrypted files in one folder, and nothing in the clear.

Each file is bound to its name in the store and to the stamp of the preparation that it was written by, so that none can
be put in another's place: neither that of another name, nor that of another preparation with the same key, for whose
table the notes would tell a guarantee that is not its own. What is known of a stage, with which settings it was made,
its stamp and what it released, is written last: a stage that was interrupted never began. One preparation at a time has
the store, see :meth:`PersonaStore.locked`.

Example:
    >>> import tempfile
    >>> from lightning_privacy.data.persona.generator import PersonaGenerator
    >>> from lightning_privacy.security import Key
    >>> data = PersonaGenerator(num_persons=20).generate()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = PersonaStore(folder, Key.generate())
    ...     with store.locked():
    ...         store.write_data(data, "5eed")
    ...     store.read_data("5eed").records.equals(data.records), sorted(store.paths)
    (True, ['images', 'records', 'truth', 'truth_errors'])
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from lightning_privacy.data.persona.generator import PersonaData
from lightning_privacy.data.persona.truth import PersonaTruth
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.security import (
    KeyLike,
    TamperedError,
    WrongKeyError,
    read_arrays,
    read_table,
    write_arrays,
    write_table,
)

__all__ = ["PersonaStore"]

_RECORDS, _IMAGES, _TRUTH, _ERRORS = "records", "images", "truth", "truth_errors"
_SUFFIX = ".encrypted"
_LOCK = "store.lock"


class PersonaStore:
    """A folder of encrypted tables and images.

    Args:
        folder: Made when something is written.
        key: 32 bytes, a key or a ring of keys.

    Raises:
        EncryptionError: On reading: the key is another, or a file was tampered with; the subclass says which.
    """

    def __init__(self, folder: str | Path, key: KeyLike) -> None:
        self.folder = Path(folder)
        self._key = key

    @property
    def paths(self) -> dict[str, Path]:
        """The files that are there, by what they hold."""
        return {path.name.removesuffix(_SUFFIX): path for path in sorted(self.folder.glob(f"*{_SUFFIX}"))}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Have the store for oneself; another process or thread that asks for it waits. The folder is made.

        The lock goes with its process, however that ends. Where the folder can't be written to, there is none: who can
        only read gets the files of one preparation, or an error.
        """
        if self.folder.exists() and not os.access(self.folder, os.W_OK):
            yield
            return
        descriptor = self._lock()
        try:
            yield
        finally:
            # By word, since a child made by fork in the meantime holds the lock as long as it has the file.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def write_data(self, data: PersonaData, stamp: str) -> None:
        """Write records, images and, where it is known, the truth, which has files of its own."""
        self.write_table(_RECORDS, data.records, stamp)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_arrays(self._path(_IMAGES), {"images": data.images}, self._key, context=_context(_IMAGES, stamp))
        for name in (_TRUTH, _ERRORS):
            self._path(name).unlink(missing_ok=True)
        if data.truth is not None:
            self.write_table(_TRUTH, data.truth.records, stamp)
            self.write_table(_ERRORS, data.truth.errors, stamp)

    def read_data(self, stamp: str) -> PersonaData:
        """Read records and images. The truth stays where it is: see :meth:`read_truth`."""
        with self._named(_IMAGES):
            images = read_arrays(self._path(_IMAGES), self._key, context=_context(_IMAGES, stamp))["images"]
        return PersonaData(self.read_table(_RECORDS, stamp), images)

    def read_truth(self, stamp: str) -> PersonaTruth:
        """Read the truth, for tests."""
        return PersonaTruth(self.read_table(_TRUTH, stamp), self.read_table(_ERRORS, stamp))

    def write_table(self, name: str, table: pl.DataFrame, stamp: str) -> None:
        """Write a table under a name.

        Args:
            name: Of the file.
            table: The rows.
            stamp: Of the preparation that it is of; it is read with no other.
        """
        self._write(name, table, _context(name, stamp))

    def read_table(self, name: str, stamp: str) -> pl.DataFrame:
        """Read the table of a name.

        Raises:
            EncryptionError: The table is of another preparation, among others.
            ConfigurationError: There is none.
        """
        with self._named(name):
            return read_table(self._path(name), self._key, context=_context(name, stamp))

    def write_notes(self, name: str, notes: Mapping[str, Any]) -> None:
        """Write what is known of a stage: plain values, stored as a table of one text."""
        self._write(name, pl.DataFrame({"notes": [json.dumps(notes)]}), _context(name))

    def read_notes(self, name: str) -> dict[str, Any] | None:
        """What is known of a stage; None when it did not come to its end."""
        if not self._path(name).exists():
            return None
        table = read_table(self._path(name), self._key, context=_context(name))
        notes: dict[str, Any] = json.loads(table["notes"][0])
        return notes

    def forget(self, name: str) -> None:
        """Remove a file, if it is there."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{_SUFFIX}"

    def _write(self, name: str, table: pl.DataFrame, context: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_table(table, self._path(name), self._key, context=context)

    def _lock(self) -> int:
        """A descriptor of the lock file, which is locked."""
        path = self.folder / _LOCK
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            flags = os.O_CLOEXEC | os.O_NOFOLLOW
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666)
            except PermissionError:  # of another user, who lets this one read it, which is enough to lock it
                descriptor = os.open(path, os.O_RDONLY | flags)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                # Somebody may have removed the folder while we waited, and another process has locked a new file.
                if os.path.lexists(path) and os.path.samestat(os.fstat(descriptor), path.lstat()):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """Tell of a file that can't be read what may have become of it, and the way out."""
        out = f"remove the folder {self.folder} to prepare anew, or put back the file that belongs to the others"
        try:
            yield
        except (TamperedError, WrongKeyError) as error:
            raise type(error)(
                f"{self._path(name)} is not of the preparation that the notes of the store tell of, or was altered, or "
                f"has another key: {out} ({error})"
            ) from error
        except FileNotFoundError as error:
            raise ConfigurationError(f"{self._path(name)} is missing, and the store is not whole: {out}") from error


def _context(name: str, stamp: str | None = None) -> bytes:
    """What a file is bound to; notes are read before anybody knows a stamp."""
    return "/".join(["persona", *([] if stamp is None else [stamp]), name]).encode()
