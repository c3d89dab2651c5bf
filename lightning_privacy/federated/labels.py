"""What stands in a data set beside the inputs: its labels, or a column by name, for all examples at once.

Reading a label by loading its example takes a Python call and often a decoded image per example, so labels are taken
from where data sets keep them: an attribute, the second tensor, the parts of a subset or of a concatenation.

Example:
    >>> import torch
    >>> from torch.utils.data import Subset, TensorDataset
    >>> from lightning_privacy.federated.labels import labels_of
    >>> labels_of(Subset(TensorDataset(torch.zeros(4, 2), torch.tensor([5, 6, 7, 8])), [3, 0]))
    array([8, 5])
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import ConcatDataset, Subset

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.sampling.labels import label_array

__all__ = ["column_of", "labels_of", "values_of"]

_LABELS = ("targets", "labels")


def labels_of(dataset: Any) -> npt.NDArray[Any]:
    """The label of each example of a data set, shape ``(num_examples,)``.

    Found are: an attribute ``targets`` or ``labels`` of the right length (torchvision's data sets have one); the second
    of two ``tensors``, as of a ``TensorDataset``, where it holds one whole number per example; and the labels of
    what a ``Subset`` or a ``ConcatDataset`` is made of.

    Raises:
        ConfigurationError: The labels are at none of these places, or are no classes.
    """
    found = _labels(dataset)
    if found is None:
        raise ConfigurationError(
            f"labels were not found in the {type(dataset).__name__}: pass them as labels= (an array, the name of a "
            "column or a function of an item), or give the data set an attribute 'targets' with one label per example"
        )
    return found


def _labels(dataset: Any) -> npt.NDArray[Any] | None:
    if isinstance(dataset, Subset):
        whole = _labels(dataset.dataset)
        return None if whole is None else whole[np.asarray(dataset.indices, dtype=np.int64)]
    if isinstance(dataset, ConcatDataset):
        parts = [_labels(part) for part in dataset.datasets]
        known = [part for part in parts if part is not None]
        return np.concatenate(known) if len(known) == len(parts) else None
    for name in _LABELS:
        column = _attribute(dataset, name)
        if column is not None:
            return column
    tensors = list(getattr(dataset, "tensors", ()))
    # Of three or more, the last may as well be a group or a weight.
    if len(tensors) == 2 and tensors[-1].ndim == 1 and not tensors[-1].dtype.is_floating_point:
        return label_array(tensors[-1])
    return None


def _attribute(dataset: Any, name: str) -> npt.NDArray[Any] | None:
    """An attribute with one value per example."""
    values = getattr(dataset, name, None)
    if values is None or isinstance(values, str) or not hasattr(values, "__len__") or len(values) != len(dataset):
        return None
    return label_array(values, name=name)


def column_of(dataset: Any, name: str, *, argument: str = "name") -> npt.NDArray[Any]:
    """One value per example, by the name of a column, shape ``(num_examples,)``.

    Looked for in this order: an attribute of the data set; a column of the table that a data set is (pandas, Hugging
    Face ``datasets``: the name is in its ``columns`` or ``column_names``); an entry or attribute of every item. A
    ``Subset`` or ``ConcatDataset`` has the columns of its parts.

    Args:
        dataset: A map-style data set.
        name: The column.
        argument: What messages call the name.

    Raises:
        ConfigurationError: There is no such column, or it lacks values.
    """
    if isinstance(dataset, Subset):
        return column_of(dataset.dataset, name, argument=argument)[np.asarray(dataset.indices, dtype=np.int64)]
    if isinstance(dataset, ConcatDataset):
        return np.concatenate([column_of(part, name, argument=argument) for part in dataset.datasets])
    column = _attribute(dataset, name)
    if column is not None:
        return column
    for names in ("columns", "column_names"):
        if name in list(getattr(dataset, names, ())):
            return label_array(dataset[name], name=name)
    values = [_entry(dataset[index], name) for index in range(len(dataset))]
    if any(value is None for value in values):
        raise ConfigurationError(
            f"{argument}={name!r} was found neither as a column of the {type(dataset).__name__} nor in all of its "
            "items: pass an array with one value per example, or a function of an item"
        )
    return label_array(values, name=name)


def _entry(item: Any, name: str) -> Any:
    value = item.get(name) if isinstance(item, Mapping) else getattr(item, name, None)
    # A method of a tuple or a tensor, such as "count", is no entry.
    return None if callable(value) and not isinstance(value, torch.Tensor) else value


def values_of(dataset: Any, source: Any, *, argument: str) -> Any:
    """What a user named: the column of a name, a function's value for every item, or what was passed itself.

    Args:
        dataset: A map-style data set.
        source: A name, a function of an item, or one value per example.
        argument: What messages call the source.
    """
    if isinstance(source, str):
        return column_of(dataset, source, argument=argument)
    if callable(source):
        return label_array([source(dataset[index]) for index in range(len(dataset))], name=argument)
    return source
