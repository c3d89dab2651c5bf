"""Where the examples of data sets around data sets come from, so that one example that is there twice is noticed.

Example:
    >>> import torch
    >>> from torch.utils.data import ConcatDataset, Subset, TensorDataset
    >>> data = TensorDataset(torch.zeros(5, 2), torch.arange(5))
    >>> repeated(ConcatDataset([Subset(data, [0, 1, 2]), Subset(Subset(data, [1, 3, 4]), [0, 2])]))
    1
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from lightning_privacy.data.augmentation.batches import unproxied

__all__ = ["repeated"]

# Examples of a data set that is none of the known ones are numbered below zero, in a range of its own.
_RANGE = 2**40


def repeated(dataset: Dataset[Any], *, label: int | str = 1) -> int:
    """How many examples of a data set are there once more.

    Known are what torch puts around a data set (``Subset``, ``ConcatDataset``, in any order) and what is made like it:
    an attribute ``dataset``, and ``indices`` or the same length. Whether two data sets share an example is seen by
    whether they are one object, or by where their tensors of labels lie; copies of the data are not noticed.

    Args:
        dataset: Has a length.
        label: Where in an example its label is: of a ``TensorDataset``, which tensor says what one example is.
    """
    found = _origins(dataset, label, {})
    return len(found) - len(np.unique(found))


def _origins(dataset: Any, label: int | str, leaves: dict[int, int]) -> NDArray[np.int64]:
    """A number for each example; equal ones are one example."""
    dataset = unproxied(dataset)
    if isinstance(dataset, ConcatDataset):
        return np.concatenate([_origins(part, label, leaves) for part in dataset.datasets])
    size = len(dataset)
    inner, places = getattr(dataset, "dataset", None), _places(dataset, size)
    if isinstance(inner, Sized):
        if places is not None:
            return _origins(inner, label, leaves)[places]
        if len(inner) == size:  # it changes examples, and leaves them where they are
            return _origins(inner, label, leaves)
    labels = _labels(dataset, label, size)
    if labels is not None:
        step = labels.stride(0) * labels.element_size()
        return np.int64(labels.data_ptr()) + np.arange(size, dtype=np.int64) * step
    first = -_RANGE * (1 + leaves.setdefault(id(dataset), len(leaves)))
    return first + (np.arange(size, dtype=np.int64) if places is None else places % max(1, size))


def _places(dataset: Any, size: int) -> NDArray[np.int64] | None:
    indices = getattr(dataset, "indices", None)
    if not isinstance(indices, Sequence | np.ndarray | Tensor) or len(indices) != size:
        return None
    places = np.asarray(indices)
    return places.astype(np.int64) if places.ndim == 1 and (places.dtype.kind in "iu" or not size) else None


def _labels(dataset: Any, label: int | str, size: int) -> Tensor | None:
    """The tensor of labels, where each example has a place of its own in it."""
    tensors = getattr(dataset, "tensors", None)
    if not isinstance(tensors, tuple) or not isinstance(label, int) or not -len(tensors) <= label < len(tensors):
        return None
    labels = tensors[label]
    usable = isinstance(labels, Tensor) and labels.dim() and len(labels) == size and (size < 2 or labels.stride(0))
    return labels if usable else None
