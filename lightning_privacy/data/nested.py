"""Data sets inside of data sets, as far as one can look into them.

Example:
    >>> from torch.utils.data import ConcatDataset, Subset
    >>> people, places = ["Ada", "Alan"], ["London"]
    >>> both = Subset(ConcatDataset([people, places]), [0, 2])
    >>> [type(each).__name__ for each in nested(both)]
    ['Subset', 'ConcatDataset', 'list', 'list']
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, Subset

from lightning_privacy.data.augmentation.batches import unproxied
from lightning_privacy.sampling import ResampledDataset

__all__ = ["is_resampled", "nested", "persons_of"]


def nested(dataset: Any) -> Iterator[Any]:
    """A data set, and all that stand behind it or in it, each once, outermost first.

    What is inside is found by the names that torch gives it: ``dataset``, as ``Subset`` has it, and ``datasets``, as
    ``ConcatDataset`` and ``StackDataset`` have it.

    Args:
        dataset: A data set, or None.
    """
    waiting = [dataset]
    # With the objects: a property may make one for the asking, and once that is gone its id is the next one's.
    seen: dict[int, Any] = {}
    while waiting:
        current = unproxied(waiting.pop(0))
        if current is None or id(current) in seen:
            continue
        seen[id(current)] = current
        yield current
        several = getattr(current, "datasets", None)
        if isinstance(several, Mapping):
            several = list(several.values())
        waiting += [getattr(current, "dataset", None), *(several if isinstance(several, list | tuple) else ())]


def is_resampled(dataset: Any) -> bool:
    """Whether a sampler chose examples, perhaps by their labels, somewhere inside, so that one may come twice.

    Example:
        >>> is_resampled(["Ada", "Alan"])
        False
    """
    return any(isinstance(each, ResampledDataset) for each in nested(dataset))


def persons_of(dataset: Any) -> list[Any] | None:
    """Who each example is about, where a data set says it in ``person`` and is looked at as it is, in part, or joined.

    Args:
        dataset: A data set, or None.

    Returns:
        One for each example, copies counted; None where it is not known of all.

    Example:
        >>> from torch.utils.data import ConcatDataset
        >>> class People(list):
        ...     person = ["Ada", "Alan"]
        >>> persons_of(ConcatDataset([People([1, 2])] * 2)), persons_of([1, 2])
        (['Ada', 'Alan', 'Ada', 'Alan'], None)
    """
    current = unproxied(dataset)
    if isinstance(current, Subset):
        inner = persons_of(current.dataset)
        return None if inner is None else [inner[index] for index in current.indices]
    if isinstance(current, ConcatDataset):
        parts = [persons_of(part) for part in current.datasets]
        return None if any(part is None for part in parts) else [each for part in parts for each in part or ()]
    own = getattr(current, "person", None)
    if isinstance(own, list | tuple | np.ndarray) and len(own):
        return list(own)
    # Around another one, example by example, as where each is augmented.
    inner = getattr(current, "dataset", None)
    alike = isinstance(current, Sized) and isinstance(inner, Sized) and len(current) == len(inner)
    return persons_of(inner) if alike else None
