"""Where in a batch, or in an example, the inputs and their companions are.

Example:
    >>> get_field(("image", 3), None), put_field({"image": 1, "label": 2}, "image", 5)
    ('image', {'image': 5, 'label': 2})
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lightning_privacy.errors import ConfigurationError

__all__ = ["FieldKey", "get_field", "put_field", "repeat_rows"]

FieldKey: TypeAlias = str | int


def _has_fields(batch: Any) -> bool:
    return isinstance(batch, list | tuple | Mapping)


def _key_of(batch: Any, key: FieldKey | None) -> FieldKey:
    if key is not None:
        return key
    if isinstance(batch, Mapping):
        raise ConfigurationError(
            f"a batch is a mapping with the keys {list(batch)}: say which is augmented with input_key=..."
        )
    return 0


def get_field(batch: Any, key: FieldKey | None) -> Any:
    """A field of a batch: by default the first of a tuple or list, or the batch itself.

    Raises:
        ConfigurationError: There is no such field.
    """
    if not _has_fields(batch):
        if key is None:
            return batch
        raise ConfigurationError(f"there is no field {key!r} in a batch that is a {type(batch).__name__}")
    found = _key_of(batch, key)
    try:
        return batch[found]
    except (KeyError, IndexError, TypeError) as error:
        names = list(batch) if isinstance(batch, Mapping) else f"{len(batch)} positions"
        raise ConfigurationError(f"there is no field {found!r} in a batch with {names}") from error


def put_field(batch: Any, key: FieldKey | None, value: Any) -> Any:
    """The same batch with another value in a field; a copy where there are fields."""
    if not _has_fields(batch):
        return value
    found = _key_of(batch, key)
    if isinstance(batch, tuple):
        items = list(batch)
        items[int(found)] = value
        return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
    if isinstance(batch, list):
        copied = list(batch)
        copied[int(found)] = value
        return copied
    changed: MutableMapping[Any, Any] = batch.copy() if hasattr(batch, "copy") else dict(batch)
    changed[found] = value
    return changed


def repeat_rows(batch: Any, times: int, *, rows: int) -> Any:
    """Every row of a batch several times, one after the other; what has no rows stays as it is.

    Args:
        batch: tensors and lists with ``rows`` entries, in nested tuples, lists and mappings.
        times: how often.
        rows: of the batch.
    """
    if isinstance(batch, Tensor):
        return batch.repeat_interleave(times, 0) if batch.dim() > 0 and len(batch) == rows else batch
    if isinstance(batch, Mapping):
        changed: MutableMapping[Any, Any] = batch.copy() if hasattr(batch, "copy") else dict(batch)
        for key, value in batch.items():
            changed[key] = repeat_rows(value, times, rows=rows)
        return changed
    if isinstance(batch, list | tuple):
        if len(batch) == rows and not any(isinstance(item, Tensor | Mapping | list | tuple) for item in batch):
            items = [item for item in batch for _ in range(times)]
        else:
            items = [repeat_rows(item, times, rows=rows) for item in batch]
        return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
    return batch


def occurrences(index: Tensor) -> Tensor:
    """For each row how often its example came earlier in the batch, int64, ``(B,)``."""
    order = index.argsort(stable=True)
    ordered = index[order]
    positions = torch.arange(len(index))
    starts = torch.ones(len(index), dtype=torch.bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    first = torch.where(starts, positions, 0).cummax(0).values
    counts = torch.empty_like(index)
    counts[order] = positions - first
    return counts
