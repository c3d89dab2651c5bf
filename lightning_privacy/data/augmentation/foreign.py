"""Transforms of batches from elsewhere: kornia's modules, and functions that declare what they do.

Their random numbers are replaced by ones that depend on the example of each row, so they need not know about keys.

Example:
    >>> import torch
    >>> from lightning_privacy.data.augmentation.draws import Draws
    >>> def dim(images):
    ...     return images * torch.rand(len(images), 1, 1, 1)
    >>> dim.per_example = True
    >>> Declared(dim)(torch.ones(2, 1, 4, 4), Draws(torch.tensor([3, 3]))).std(0).max().item()
    0.0
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from lightning_privacy.data.augmentation.base import PerExample, check_images
from lightning_privacy.data.augmentation.draws import Draws
from lightning_privacy.data.augmentation.keyed_random import KeyedRandom
from lightning_privacy.data.augmentation.sample import Follower, Sample
from lightning_privacy.errors import ConfigurationError

__all__ = ["Declared", "FromKornia", "is_kornia"]

_DATA_KEYS = {"mask": "mask", "boxes": "bbox_xyxy", "points": "keypoints"}
_MIXING = "MixAugmentationBaseV2"


def is_kornia(transform: object) -> bool:
    """Whether it is a module of kornia, or of a class made from one."""
    return any(kind.__module__.startswith("kornia.") for kind in type(transform).__mro__)


class Declared(PerExample):
    """A function of a batch that says with an attribute ``per_example`` whether it treats each row by itself.

    Args:
        function: takes and returns ``(B, ...)``.

    Raises:
        ConfigurationError: It doesn't say.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        declared = getattr(function, "per_example", None)
        self.name = getattr(function, "__name__", type(function).__name__)
        if not isinstance(declared, bool):
            raise ConfigurationError(
                f"the transform {self.name} doesn't say whether it treats each example of a batch by itself: set "
                "its attribute per_example to True if each row of its result depends on the same row alone, and to "
                "False if it mixes examples. For a function of one image use where='workers'"
            )
        self.function = function
        self.per_example = declared

    @override
    def augment(self, inputs: Tensor, draws: Draws) -> Tensor:
        with KeyedRandom(draws):
            return self.function(inputs)


class FromKornia(PerExample):
    """One of kornia's augmentations, with parameters that depend on each row's example.

    Args:
        module: of ``kornia.augmentation``.

    Raises:
        ConfigurationError: One that draws once for the whole batch.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        mixing = [type(part).__name__ for part in module.modules() if _mixes(part)]
        self.mixes = bool(mixing)
        self.name = (mixing or [type(module).__name__])[0]
        self.per_example = not self.mixes
        for part in module.modules():
            self._check(part)
        self._sequential: nn.Module | None = None

    @staticmethod
    def _check(part: nn.Module) -> None:
        name = type(part).__name__
        if getattr(part, "same_on_batch", False):
            raise ConfigurationError(f"{name}(same_on_batch=True) treats all examples of a batch alike: leave it out")
        share = getattr(part, "p_batch", 1.0)
        if share not in (0, 1) and not _mixes(part):
            raise ConfigurationError(f"{name}(p_batch={share}) decides once for the whole batch: use p={share} instead")
        if getattr(part, "random_apply", False):
            raise ConfigurationError(
                f"{name}(random_apply={part.random_apply!r}) chooses once for the whole batch: use OneOf or Sometimes "
                "of lightning_privacy.data.augmentation"
            )

    @override
    def augment(self, inputs: Tensor, draws: Draws) -> Tensor:
        check_images(inputs, type(self.module).__name__)
        augmented: Tensor = self._call(self.module, draws, inputs)
        return augmented

    @override
    def run(self, sample: Sample, draws: Draws) -> Sample:
        check_images(sample.inputs, type(self.module).__name__)
        if self.mixes and sample.labels is not None and len(getattr(self.module, "data_keys", ())) == 2:
            with KeyedRandom(draws.of_batch()):
                inputs, labels = self.module(sample.inputs, sample.labels)
            return replace(sample, inputs=inputs, labels=labels)
        if not sample.followers:
            return replace(sample, inputs=self.augment(sample.inputs, draws))
        from kornia.augmentation import AugmentationSequential

        keys = ["input", *(_DATA_KEYS[item.kind] for item in sample.followers)]
        together = AugmentationSequential(self.module, data_keys=keys)  # type: ignore[arg-type]
        masks_flat = [item.kind == "mask" and item.values.dim() == 3 for item in sample.followers]
        values = [
            (item.values.unsqueeze(1) if flat else item.values).to(sample.inputs.dtype)
            for item, flat in zip(sample.followers, masks_flat, strict=True)
        ]
        inputs, *moved = self._call(together, draws, sample.inputs, *values)
        followers = tuple(
            Follower(item.kind, (new.squeeze(1) if flat else new).to(item.values.dtype))
            for item, new, flat in zip(sample.followers, moved, masks_flat, strict=True)
        )
        return replace(sample, inputs=inputs, followers=followers)

    def _call(self, module: Any, draws: Draws, inputs: Tensor, *others: Tensor) -> Any:
        if self.mixes or not hasattr(module, "forward_parameters"):
            with KeyedRandom(draws.of_batch() if self.mixes else draws):
                return module(inputs, *others)
        # Looking at every operation costs time, so only the parameters are drawn under watch.
        with KeyedRandom(draws):
            parameters = module.forward_parameters(inputs.shape)
        return module(inputs, *others, params=parameters)


def _mixes(part: nn.Module) -> bool:
    return any(kind.__name__ == _MIXING for kind in type(part).__mro__)
