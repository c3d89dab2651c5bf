"""Where the data lie between the stages of a pipeline: encrypted files in one folder, and nothing in the clear.

Each file is bound to its name in the store, so that one can't be put in another's place. What is known of a stage, with
which settings it was made and what it released, is written last: a stage that was interrupted never began.

Example:
    >>> import tempfile
    >>> from lightning_privacy.data.persona.generator import PersonaGenerator
    >>> from lightning_privacy.security import Key
    >>> data = PersonaGenerator(num_persons=20).generate()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = PersonaStore(folder, Key.generate())
    ...     store.write_data(data)
    ...     store.read_data().records.equals(data.records), sorted(store.paths)
    (True, ['images', 'records', 'truth', 'truth_errors'])
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from lightning_privacy.data.persona.generator import PersonaData
from lightning_privacy.data.persona.truth import PersonaTruth
from lightning_privacy.security import KeyLike, read_arrays, read_table, write_arrays, write_table

__all__ = ["PersonaStore"]

_RECORDS, _IMAGES, _TRUTH, _ERRORS = "records", "images", "truth", "truth_errors"
_SUFFIX = ".encrypted"


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

    def write_data(self, data: PersonaData) -> None:
        """Write records, images and, where it is known, the truth, which has files of its own."""
        self.write_table(_RECORDS, data.records)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_arrays(self._path(_IMAGES), {"images": data.images}, self._key, context=_context(_IMAGES))
        for name in (_TRUTH, _ERRORS):
            self._path(name).unlink(missing_ok=True)
        if data.truth is not None:
            self.write_table(_TRUTH, data.truth.records)
            self.write_table(_ERRORS, data.truth.errors)

    def read_data(self) -> PersonaData:
        """Read records and images. The truth stays where it is: see :meth:`read_truth`."""
        images = read_arrays(self._path(_IMAGES), self._key, context=_context(_IMAGES))["images"]
        return PersonaData(self.read_table(_RECORDS), images)

    def read_truth(self) -> PersonaTruth:
        """Read the truth, for tests."""
        return PersonaTruth(self.read_table(_TRUTH), self.read_table(_ERRORS))

    def write_table(self, name: str, table: pl.DataFrame) -> None:
        """Write a table under a name."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_table(table, self._path(name), self._key, context=_context(name))

    def read_table(self, name: str) -> pl.DataFrame:
        """Read the table of a name."""
        return read_table(self._path(name), self._key, context=_context(name))

    def write_notes(self, name: str, notes: Mapping[str, Any]) -> None:
        """Write what is known of a stage: plain values, stored as a table of one text."""
        self.write_table(name, pl.DataFrame({"notes": [json.dumps(notes)]}))

    def read_notes(self, name: str) -> dict[str, Any] | None:
        """What is known of a stage; None when it did not come to its end."""
        if not self._path(name).exists():
            return None
        notes: dict[str, Any] = json.loads(self.read_table(name)["notes"][0])
        return notes

    def forget(self, name: str) -> None:
        """Remove a file, if it is there."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{_SUFFIX}"


def _context(name: str) -> bytes:
    return f"persona/{name}".encode()
