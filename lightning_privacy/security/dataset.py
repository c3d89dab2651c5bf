"""A data set of torch over encrypted records: what is not asked for is never decrypted.

Example:
    >>> import pathlib, tempfile
    >>> import torch
    >>> from torch.utils.data import DataLoader
    >>> from lightning_privacy.security import EncryptedDataset, Key, write_records
    >>> key = Key.generate()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "images.records")
    ...     _ = write_records(path, (bytes([number] * 4) for number in range(10)), key)
    ...     dataset = EncryptedDataset(path, key, decode=lambda record: torch.tensor(list(record)))
    ...     next(iter(DataLoader(dataset, batch_size=2)))
    tensor([[0, 0, 0, 0],
            [1, 1, 1, 1]])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from torch.utils.data import Dataset
from typing_extensions import override

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.security.key_ring import KeyLike
from lightning_privacy.security.records import EncryptedRecords

__all__ = ["EncryptedDataset"]

T = TypeVar("T")


class EncryptedDataset(Dataset[T], Generic[T]):
    """Records of a file as examples.

    Worker processes of a loader share the open file. Where they are not made by fork, the key must be one they can
    fetch for themselves: from a file, an environment variable or a function of a module.

    Args:
        path: A file of :func:`~lightning_privacy.security.write_records`.
        key: 32 bytes, a key, or a ring.
        decode: Makes an example of a record's bytes.
        context: What the file was written with.

    Raises:
        ConfigurationError: ``decode`` can't be called, or the key is none.
        EncryptionError: By the name of what is wrong; also from an access that meets an altered segment.
        OSError: The file can't be read; the error names it.
    """

    def __init__(self, path: str | Path, key: KeyLike, decode: Callable[[bytes], T], *, context: bytes = b"") -> None:
        if not callable(decode):
            raise ConfigurationError(f"decode must be a function of a record's bytes, got {decode!r}")
        self._records = EncryptedRecords(path, key, context=context)
        self._decode = decode

    def __len__(self) -> int:
        return len(self._records)

    @override
    def __getitem__(self, index: int) -> T:
        return self._decode(self._records[index])

    def __getitems__(self, indices: Sequence[int]) -> list[T]:
        """The examples of a batch, in the order asked for; a segment that holds several is decrypted once."""
        # Records lie in the file in their order, and the last segment read is kept.
        order = sorted(range(len(indices)), key=indices.__getitem__)
        examples: dict[int, T] = {place: self[indices[place]] for place in order}
        return [examples[place] for place in range(len(indices))]
