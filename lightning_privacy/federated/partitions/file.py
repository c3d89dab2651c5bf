"""Clients from a file: a partition someone published, or one kept to be used again.

Three formats, told apart by the ending:

- ``.json``: ``{"client name": [indices], ...}``, or a list of lists of indices;
- ``.npz``: one array of indices per client, as ``numpy.savez`` writes them;
- ``.csv``: a header with the columns ``client`` and ``index``, one line per example.

Clients are numbered in the order in which the file has them.

Example:
    >>> import tempfile
    >>> from lightning_privacy.federated.partitions import FilePartition
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "clients.json"
    ...     _ = path.write_text('{"anna": [2, 0], "ben": [1]}')
    ...     partition = FilePartition(path)
    >>> [part.tolist() for part in partition.split(None, 3, seed=0)]
    [[0, 2], [1]]
"""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.partitions.partition import Partition, fingerprint

__all__ = ["FilePartition"]


@dataclass(frozen=True)
class FilePartition(Partition):
    """The clients a file lists; it is read once, when the partition is made.

    Args:
        path: A ``.json``, ``.npz`` or ``.csv`` file.
        cover: Whether every example must have a client. With False, examples the file does not list are nobody's.

    Raises:
        ConfigurationError: The file is missing or not of its format, a client is empty or appears twice, an index is
            negative, no whole number or listed twice; when splitting: an index is beyond the data set, or an example is
            not listed and ``cover`` is True.

    Example:
        >>> FilePartition("clients.json")
        Traceback (most recent call last):
            ...
        lightning_privacy.errors.ConfigurationError: path=clients.json is not a file
    """

    path: str | Path
    cover: bool = True
    _parts: tuple[npt.NDArray[np.int64], ...] = field(init=False, repr=False, compare=False, default=())
    _names: tuple[str, ...] = field(init=False, repr=False, compare=False, default=())

    def __post_init__(self) -> None:
        path = Path(self.path)
        if path.suffix not in _READERS:
            raise ConfigurationError(f"path must end with one of {', '.join(_READERS)}, got {self.path}")
        if not path.is_file():
            raise ConfigurationError(f"path={self.path} is not a file")
        try:
            clients = _READERS[path.suffix](path)
        except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ConfigurationError(f"path={self.path} could not be read as {path.suffix}: {error}") from error
        names = [name for name, _ in clients]
        parts = tuple(_indices(values, name, self.path) for name, values in clients)
        if not parts or len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ConfigurationError(f"path={self.path} must list each client once, got {twice or 'none'}")
        values, counts = np.unique(np.concatenate(parts), return_counts=True)
        if (counts > 1).any():
            raise ConfigurationError(
                f"path={self.path} must list an index once, got {values[counts > 1][0]} {counts.max()} times: clients "
                "don't share examples"
            )
        object.__setattr__(self, "_parts", parts)
        object.__setattr__(self, "_names", tuple(names))

    @property
    def num_clients(self) -> int:  # type: ignore[override]  # read from the file
        """Number of clients."""
        return len(self._parts)

    @property
    def names(self) -> tuple[str, ...]:
        """The clients' names in the file."""
        return self._names

    @override
    def check(self, num_examples: int) -> None:
        largest = max(int(part.max()) for part in self._parts)
        if largest >= num_examples:
            raise ConfigurationError(
                f"path={self.path} lists index {largest}, and the data set has {num_examples} examples: it is the file "
                "of another data set"
            )
        listed = sum(map(len, self._parts))
        if self.cover and listed < num_examples:
            raise ConfigurationError(
                f"path={self.path} lists {listed} of the {num_examples} examples: pass cover=False if the others are "
                "meant to be nobody's"
            )

    @override
    def owners(self, labels: npt.NDArray[Any] | None, num_examples: int, seed: int) -> npt.NDArray[np.int64]:
        owners = np.full(num_examples, -1, dtype=np.int64)
        for client, part in enumerate(self._parts):
            owners[part] = client
        return owners

    @override
    def describe(self) -> dict[str, Any]:
        # What the file says and not where it lies: a run may be resumed on another machine.
        return {
            "kind": type(self).__name__,
            "num_clients": self.num_clients,
            "cover": bool(self.cover),
            "digest": fingerprint([np.sort(part) for part in self._parts]),
        }


def _indices(values: Any, name: str, path: str | Path) -> npt.NDArray[np.int64]:
    indices = np.asarray(values)
    if indices.ndim != 1 or len(indices) == 0:
        raise ConfigurationError(f"path={path} must list at least one index for client {name}, got {values!r}")
    if not np.issubdtype(indices.dtype, np.integer) or indices.min() < 0:
        raise ConfigurationError(f"path={path} must list whole numbers >= 0 for client {name}, got {values!r}")
    return indices.astype(np.int64)


_Clients = list[tuple[str, Any]]


def _read_json(path: Path) -> _Clients:
    # As pairs, since a dictionary would drop the first of two clients of one name.
    content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_Pairs)
    if isinstance(content, _Pairs):
        return [(name, values) for name, values in content]
    if isinstance(content, list):
        return [(str(number), values) for number, values in enumerate(content)]
    raise ValueError("it holds neither an object of clients nor a list of lists")


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as its pairs."""


def _read_npz(path: Path) -> _Clients:
    with np.load(path, allow_pickle=False) as arrays:
        return [(name, arrays[name]) for name in arrays.files]


def _read_csv(path: Path) -> _Clients:
    clients: dict[str, list[int]] = {}
    with path.open(encoding="utf-8", newline="") as lines:
        rows: Iterable[dict[str, str]] = csv.DictReader(lines)
        for row in rows:
            clients.setdefault(row["client"], []).append(int(row["index"]))
    return list(clients.items())


_READERS: dict[str, Callable[[Path], _Clients]] = {".json": _read_json, ".npz": _read_npz, ".csv": _read_csv}
