"""Labels and groups in whatever form they come, as one number per example.

Lists, NumPy arrays, tensors, pandas columns, and data sets that carry their labels. Numbers, booleans and texts are
told apart by value; a missing value is an error, because an example without a label belongs nowhere.

Example:
    >>> from lightning_privacy.sampling.labels import factorize, label_array
    >>> codes, names = factorize(label_array(["cat", "dog", "cat"]))
    >>> codes.tolist(), names
    ([0, 1, 0], ['cat', 'dog'])
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset

from lightning_privacy.errors import ConfigurationError

__all__ = ["combine", "factorize", "label_array"]

_ATTRIBUTES = ("targets", "labels")
# Below so many distinct values per example a table is faster than a sort, and small enough.
_TABLE_PER_EXAMPLE = 4


def label_array(source: object, *, name: str = "labels") -> NDArray[Any]:
    """Read labels, one per example, or one row of them.

    Args:
        source: A sequence, an array, a tensor, a pandas column or frame, or a data set with ``targets`` or ``labels``
            (also a ``Subset`` or ``ConcatDataset`` of such).
        name: What the messages call it.

    Returns:
        Shape ``(N,)``, or ``(N, L)`` where the source has L > 1 columns; of whole numbers, booleans or texts.

    Raises:
        ConfigurationError: A value is missing (NaN, None), is a fraction, or the source has no labels.
    """
    array = _read(source, name)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim not in (1, 2) or array.shape[0] == 0:
        raise ConfigurationError(f"{name} must hold one value or one row for each example, got shape {array.shape}")
    if array.dtype.kind == "O":
        array = _from_objects(array, name)
    if array.dtype.kind == "f":
        return _whole(array, name)
    if array.dtype.kind not in "biuUS":
        raise ConfigurationError(f"{name} must be whole numbers, booleans or texts, got {array.dtype}")
    return array


def factorize(values: NDArray[Any]) -> tuple[NDArray[np.int64], list[Hashable]]:
    """Number the distinct values in increasing order.

    Args:
        values: Shape ``(N,)``, or ``(N, K)``: then distinct rows are numbered.

    Returns:
        The number of each example's value, shape ``(N,)``, and the values as plain Python types (rows as tuples).
    """
    columns = [_number(column) for column in ([values] if values.ndim == 1 else values.T)]
    factors = [(codes, list(distinct.tolist())) for codes, distinct in columns]
    return factors[0] if values.ndim == 1 else combine(*zip(*factors, strict=True))


def combine(
    codes: Sequence[NDArray[np.int64]], names: Sequence[Sequence[Hashable]]
) -> tuple[NDArray[np.int64], list[Hashable]]:
    """Number the combinations of several factors that occur; the names are tuples.

    Args:
        codes: For each factor the number of each example's value, shape ``(N,)``.
        names: For each factor what its numbers stand for.
    """
    joint = codes[0]
    present: list[tuple[Hashable, ...]] = [(name,) for name in names[0]]
    for more, labels in zip(codes[1:], names[1:], strict=True):
        joint, distinct = _number(joint * len(labels) + more)
        pairs = (divmod(int(pair), len(labels)) for pair in distinct)
        present = [(*present[first], labels[second]) for first, second in pairs]
    return joint, list(present)


def _number(values: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """The place of each value among the distinct ones, and these in increasing order."""
    if values.dtype.kind in "biu" and values.min() >= 0:
        top = int(values.max()) + 1
        if top <= _TABLE_PER_EXAMPLE * len(values):
            numbers = values.astype(np.int64)
            distinct = np.flatnonzero(np.bincount(numbers, minlength=top))
            table = np.zeros(top, np.int64)
            table[distinct] = np.arange(len(distinct))
            return table[numbers], distinct
    distinct, codes = np.unique(values, return_inverse=True)
    return codes.astype(np.int64).reshape(-1), distinct


def _read(source: object, name: str) -> NDArray[Any]:
    if isinstance(source, Dataset):
        return _read_dataset(source, name)
    if isinstance(source, torch.Tensor):
        return source.detach().cpu().numpy()
    if isinstance(source, np.ndarray):
        return source
    if callable(to_numpy := getattr(source, "to_numpy", None)):  # a pandas column or frame, a polars series
        return np.asarray(to_numpy())
    if isinstance(source, str | bytes) or not isinstance(source, Iterable):
        carried = next((value for key in _ATTRIBUTES if (value := getattr(source, key, None)) is not None), None)
        if carried is None or isinstance(source, str | bytes):
            raise ConfigurationError(f"{name} must be a sequence of one value per example, got {source!r}")
        return _read(carried, name)
    items = list(source)
    if any(isinstance(item, torch.Tensor) for item in items):
        items = [item.tolist() if isinstance(item, torch.Tensor) else item for item in items]
    try:
        array = np.asarray(items)
    except ValueError as error:
        raise ConfigurationError(f"{name} must have one value, or equally many, for each example: {error}") from error
    if array.dtype.kind in "US" and not all(isinstance(item, str | bytes | list | tuple) for item in items):
        return np.array([*items, None], dtype=object)[:-1]  # NumPy has turned numbers or a NaN into texts
    return array


def _read_dataset(dataset: Dataset[Any], name: str) -> NDArray[Any]:
    if isinstance(dataset, IterableDataset):
        raise ConfigurationError(
            f"{name} is the iterable data set {type(dataset).__name__}: its examples have no numbers to choose by; "
            "give a data set with __len__ and __getitem__, or the labels themselves"
        )
    for key in _ATTRIBUTES:
        if (carried := getattr(dataset, key, None)) is not None:
            return _read(carried, name)
    if isinstance(dataset, Subset):
        return _read_dataset(dataset.dataset, name)[np.asarray(dataset.indices, dtype=np.int64)]
    if isinstance(dataset, ConcatDataset):
        return np.concatenate([_read_dataset(part, name) for part in dataset.datasets])
    raise ConfigurationError(
        f"{name} must be given: the data set {type(dataset).__name__} has neither of the attributes "
        f"{' and '.join(_ATTRIBUTES)}; pass a sequence with one value per example"
    )


def _from_objects(array: NDArray[Any], name: str) -> NDArray[Any]:
    missing = [position for position, value in enumerate(array.flat) if _is_missing(value)]
    if missing:
        raise _missing(name, missing[0] // (array.size // len(array)), len(missing))
    kinds = {type(value) for value in array.flat}
    if all(issubclass(kind, str) for kind in kinds):
        return array.astype(np.str_)
    if all(issubclass(kind, bool | np.bool_) for kind in kinds):
        return array.astype(np.bool_)
    if all(issubclass(kind, int | float | np.number | np.bool_) for kind in kinds):
        return np.array(array.tolist())
    found = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise ConfigurationError(f"{name} must be all numbers or all texts, got {found}: convert them to one type")


def _is_missing(value: object) -> bool:
    # pandas' NA answers no comparison; everything else that is missing differs from itself.
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def _whole(array: NDArray[Any], name: str) -> NDArray[np.int64]:
    bad = ~np.isfinite(array)
    if bad.any():
        rows = np.flatnonzero(bad if bad.ndim == 1 else bad.any(1))
        raise _missing(name, int(rows[0]), int(bad.sum()))
    whole = array.astype(np.int64)
    if (whole != array).any():
        fraction = array[whole != array].flat[0]
        raise ConfigurationError(
            f"{name} must be classes: whole numbers, booleans or texts, got {fraction}; put a quantity into bins first"
        )
    return whole


def _missing(name: str, position: int, count: int) -> ConfigurationError:
    return ConfigurationError(
        f"{name} must have a value for each example, got NaN or None for {count} (the first at position {position}): "
        "leave these examples out, or give them a label of their own"
    )
