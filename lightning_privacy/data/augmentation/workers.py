"""Augmentation where examples are loaded: torchvision's transforms on one example at a time.

Before an example is transformed, the generators of torch, NumPy and Python are seeded by its key, and put back
afterwards, so it comes out the same in any worker.

Example:
    >>> import torch
    >>> from torch.utils.data import TensorDataset
    >>> from torchvision.transforms import v2
    >>> from lightning_privacy.data.augmentation.pipeline import Augmentation
    >>> plan = Augmentation([v2.RandomHorizontalFlip()], where="workers")
    >>> dataset = AugmentedDataset(TensorDataset(torch.rand(4, 1, 2, 2)), plan, EpochClock())
    >>> bool((dataset[1][0] == dataset[1][0]).all())
    True
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info
from torchvision import tv_tensors
from typing_extensions import override

from lightning_privacy.data.augmentation.base import PerExample
from lightning_privacy.data.augmentation.batches import DatasetProxy
from lightning_privacy.data.augmentation.draws import mixed_key
from lightning_privacy.data.augmentation.fields import FieldKey, get_field, put_field
from lightning_privacy.data.augmentation.foreign import is_kornia
from lightning_privacy.data.augmentation.groups import ExampleGroups
from lightning_privacy.data.augmentation.pipeline import Augmentation, listed
from lightning_privacy.errors import ConfigurationError

__all__ = ["AugmentedDataset", "EpochClock"]


class EpochClock:
    """The epoch, as all processes that load data see it.

    Example:
        >>> clock = EpochClock()
        >>> clock.epoch = 3
        >>> clock.epoch
        3
    """

    def __init__(self) -> None:
        self._cell = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    @property
    def epoch(self) -> int:
        """The epoch, from 0."""
        return int(self._cell)

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._cell.fill_(epoch)


def _check(transforms: Sequence[Any]) -> list[Callable[[Any], Any]]:
    for transform in transforms:
        name = type(transform).__name__
        if name in ("MixUp", "CutMix"):
            raise ConfigurationError(
                f"{name} mixes the examples of a batch, and workers see one at a time: use where='device'"
            )
        if isinstance(transform, PerExample) or is_kornia(transform):
            raise ConfigurationError(
                f"{name} works on batches: use where='device' (which is the CPU where there is no accelerator), or "
                "torchvision's transforms in the workers"
            )
        if not callable(transform):
            raise ConfigurationError(f"transforms must be callable, got {transform!r}")
    return list(transforms)


class AugmentedDataset(DatasetProxy):
    """A data set whose examples are augmented when they are fetched.

    Args:
        dataset: gives the examples.
        plan: how they are augmented.
        clock: the epoch.
        repeats: whether an epoch may have an example several times.
        repeated: whether the sampler gives each index ``plan.views`` times, one after the other.
    """

    def __init__(
        self, dataset: Any, plan: Augmentation, clock: EpochClock, *, repeats: bool = False, repeated: bool = False
    ) -> None:
        super().__init__(dataset)
        self._plan, self._clock = plan, clock
        self._repeats, self._repeated = repeats, repeated
        self._groups = ExampleGroups(plan.groups, plan.by_group)
        self._transforms = [_check(plan.listed), *(_check(listed(choice)) for choice in self._groups.choices)]
        self._calls: tuple[int, int] = (-1, 0)

    @override
    def __getitem__(self, index: int) -> Any:
        with _kept_generators():
            return self._augmented(self._proxied[index], int(index), 0, 0)

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        several = getattr(self._proxied, "__getitems__", None)
        examples = [self._proxied[index] for index in indices] if several is None else several(indices)
        views = self._plan.views
        draw = self._number() if self._repeats or self._repeated else 0
        made = []
        with _kept_generators():
            seen: dict[int, int] = {}
            for position, index in enumerate(map(int, indices)):
                if self._repeated:
                    made.append(self._augmented(examples[position], index, draw, position % views))
                    continue
                before = seen.get(index, 0)
                seen[index] = before + 1
                example = examples[position]
                made += [self._augmented(example, index, draw, before * views + view) for view in range(views)]
        return made

    def _number(self) -> int:
        """Which batch of the epoch this is; loaders deal batches out to their workers in turn."""
        epoch, calls = self._calls
        calls = calls + 1 if epoch == self._clock.epoch else 0
        self._calls = (self._clock.epoch, calls)
        worker = get_worker_info()
        return calls if worker is None else calls * worker.num_workers + worker.id

    def _augmented(self, example: Any, index: int, draw: int, copy: int) -> Any:
        plan = self._plan
        choice = self._groups.of_one(index, example) if self._groups else -1
        _seed(mixed_key(plan.seed, self._clock.epoch, draw, index, copy))
        wrapped = _wrapped(example, plan.input_key, plan.follow or {})
        for transform in self._transforms[choice + 1]:
            wrapped = transform(wrapped)
        return _unwrapped(example, wrapped, plan.input_key, plan.follow or {})


def _seed(key: int) -> None:
    torch.default_generator.manual_seed(key)
    random.seed(key)
    np.random.seed(key & (2**32 - 1))


@contextmanager
def _kept_generators() -> Iterator[None]:
    state, python, numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)
        random.setstate(python)
        np.random.set_state(numpy)


def _wrapped(example: Any, input_key: FieldKey | None, follow: Mapping[FieldKey, str]) -> Any:
    """The image, or a dictionary of the image and what follows it, in the types torchvision tells apart."""
    image = get_field(example, input_key)
    if not follow:
        return image
    found: dict[Any, Any] = {"input": tv_tensors.Image(image) if isinstance(image, Tensor) else image}
    size = tuple(image.shape[-2:]) if isinstance(image, Tensor) else (image.height, image.width)
    for key, kind in follow.items():
        values = get_field(example, key)
        if kind == "mask":
            found[key] = tv_tensors.Mask(values)
        elif kind == "boxes":
            found[key] = tv_tensors.BoundingBoxes(values, format="XYXY", canvas_size=size)
        else:
            found[key] = tv_tensors.KeyPoints(values, canvas_size=size)
    return found


def _unwrapped(example: Any, result: Any, input_key: FieldKey | None, follow: Mapping[FieldKey, str]) -> Any:
    if not follow:
        return put_field(example, input_key, _plain(result))
    example = put_field(example, input_key, _plain(result["input"]))
    for key in follow:
        example = put_field(example, key, _plain(result[key]))
    return example


def _plain(value: Any) -> Any:
    return value.as_subclass(Tensor) if isinstance(value, tv_tensors.TVTensor) else value
