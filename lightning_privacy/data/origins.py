"""Where the examples of data sets around data sets come from, so that one that is there twice is noticed.

Example:
    >>> import torch
    >>> from torch.utils.data import ConcatDataset, Subset, TensorDataset
    >>> data = TensorDataset(torch.zeros(5, 2), torch.arange(5))
    >>> repeated(ConcatDataset([Subset(data, [0, 1, 2]), Subset(Subset(data, [1, 3, 4]), [0, 2])]))
    1
    >>> shares_examples(Subset(data, [0, 1, 2]), Subset(data, [3, 4])), shares_examples(data, Subset(data, [3, 4]))
    (False, True)
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from lightning_privacy.data.augmentation.batches import unproxied

__all__ = ["repeated", "shares_examples"]

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
    found = _Origins(label).of(dataset)
    return len(found) - len(np.unique(found))


def shares_examples(first: Any, second: Any) -> bool:
    """Whether two data sets are known to have an example in common.

    Known is what :func:`repeated` knows; of a ``TensorDataset``, the first tensor says what one example is. What is
    around a data set in another way (an attribute ``dataset``, and neither ``indices`` nor its length) is taken to
    have some of its examples, no matter which: that is in common with what has all of them, and with nothing less.

    Args:
        first: A data set; one without a length is as one whose examples are not known.
        second: Another.
    """
    origins = _Origins(0)
    known = origins.of(first), origins.of(second)
    if len(np.intersect1d(known[0], known[1])):
        return True
    hidden = [_hidden(first), _hidden(second)]
    for behind, others in zip(hidden, reversed(known), strict=True):
        for dataset in behind:
            whole = origins.of(dataset)
            if len(whole) and bool(np.isin(whole, others).all()):
                return True
    return False


def _hidden(dataset: Any) -> list[Any]:
    """The data sets of which one has examples, not known which."""
    dataset = unproxied(dataset)
    if isinstance(dataset, ConcatDataset):
        return [each for part in dataset.datasets for each in _hidden(part)]
    inner, size = getattr(dataset, "dataset", None), _size(dataset)
    if inner is None:
        return []
    if size is None or (_places(dataset, size) is None and _size(inner) != size):
        return [inner, *_hidden(inner)]
    return _hidden(inner)


class _Origins:
    """Numbers examples, so that equal numbers are one example.

    Args:
        label: Where in an example its label is.
    """

    def __init__(self, label: int | str) -> None:
        self._label = label
        # With the objects: a property may make one for the asking, and once that is gone its id, or where its numbers
        # lie, is the next one's.
        self._leaves: dict[int, tuple[int, Any]] = {}
        self._held: list[Tensor] = []

    def of(self, dataset: Any) -> NDArray[np.int64]:
        """A number for each example of a data set; none where it has no length."""
        dataset = unproxied(dataset)
        if isinstance(dataset, ConcatDataset):
            return np.concatenate([self.of(part) for part in dataset.datasets])
        size = _size(dataset)
        if size is None:
            return np.empty(0, dtype=np.int64)
        inner, places = getattr(dataset, "dataset", None), _places(dataset, size)
        if _size(inner) is not None:
            if places is not None:
                return self.of(inner)[places]
            if _size(inner) == size:  # it changes examples, and leaves them where they are
                return self.of(inner)
        labels = _labels(dataset, self._label, size)
        if labels is not None:
            self._held.append(labels)
            step = labels.stride(0) * labels.element_size()
            return np.int64(labels.data_ptr()) + np.arange(size, dtype=np.int64) * step
        number, _ = self._leaves.setdefault(id(dataset), (len(self._leaves), dataset))
        first = -_RANGE * (1 + number)
        return first + (np.arange(size, dtype=np.int64) if places is None else places % max(1, size))


def _size(dataset: Any) -> int | None:
    """How many examples there are; None where it has no length, or says that it has none."""
    try:
        return len(dataset) if isinstance(dataset, Sized) else None
    except (TypeError, NotImplementedError):  # what one with an open end raises, by the convention of torch's loaders
        return None


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
    if not isinstance(labels, Tensor) or labels.layout is not torch.strided or not labels.dim():
        return None
    usable = len(labels) == size and labels.numel() and (size < 2 or labels.stride(0))
    return labels if usable else None
