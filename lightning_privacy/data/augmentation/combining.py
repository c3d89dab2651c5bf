"""Transforms made of others: one after the other, with a probability, one of several, or the same for every row.

Example:
    >>> import torch
    >>> from lightning_privacy.data.augmentation.draws import Draws
    >>> from lightning_privacy.data.augmentation.geometric import Flip
    >>> often = Sometimes([Flip(1.0)], probability=0.75)
    >>> rows = torch.tensor([0.0, 1.0]).expand(400, 1, 1, 2)
    >>> 260 < int(often(rows, Draws(torch.arange(400)))[:, 0, 0, 0].sum()) < 340
    True
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_privacy.data.augmentation.base import PerExample
from lightning_privacy.data.augmentation.draws import Draws
from lightning_privacy.data.augmentation.sample import Sample
from lightning_privacy.errors import ConfigurationError

__all__ = ["Alike", "Chain", "OneOf", "Sometimes"]


class Chain(PerExample):
    """Transforms one after the other.

    Args:
        transforms: each gets random numbers of its own.

    Example:
        >>> len(Chain([]).transforms)
        0
    """

    def __init__(self, transforms: Sequence[PerExample]) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)

    @property
    def parts(self) -> list[PerExample]:
        """The transforms."""
        return [part for part in self.transforms if isinstance(part, PerExample)]

    @override
    def run(self, sample: Sample, draws: Draws) -> Sample:
        for number, transform in enumerate(self.parts):
            rows = len(sample.inputs)
            sample = transform.run(sample, draws.child(number))
            if len(sample.inputs) != rows:
                raise ConfigurationError(
                    f"the transform {type(transform).__name__} made {len(sample.inputs)} rows out of {rows}: a "
                    "transform gives one row for each; several views of an example are made with "
                    "AugmentationDataModule(views=...)"
                )
        return sample

    @override
    def augment(self, inputs: Tensor, draws: Draws) -> Tensor:
        return self.run(Sample(inputs), draws).inputs


class Sometimes(Chain):
    """Transforms that each row goes through with some probability.

    Args:
        transforms: what to do.
        probability: from 0 to 1.

    Example:
        >>> Sometimes([], probability=0.5).probability
        0.5
    """

    def __init__(self, transforms: Sequence[PerExample], *, probability: float = 0.5) -> None:
        super().__init__(transforms)
        if not 0 <= probability <= 1:
            raise ConfigurationError(f"probability must be from 0 to 1, got {probability!r}")
        self.probability = float(probability)

    @override
    def run(self, sample: Sample, draws: Draws) -> Sample:
        chosen = draws.chance(self.probability)
        if bool(chosen.all()):
            return super().run(sample, draws)
        rows = chosen.nonzero()[:, 0]
        if len(rows) == 0:
            return sample
        return sample.put(rows, super().run(sample.rows(rows), draws.of(rows)))


class OneOf(PerExample):
    """One of several transforms, chosen for each row.

    Args:
        transforms: to choose from.
        weights: how likely each is; equally where not given.

    Example:
        >>> OneOf([Chain([]), Chain([])], weights=[1, 3]).weights.tolist()
        [0.25, 0.75]
    """

    def __init__(self, transforms: Sequence[PerExample], *, weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)
        given = torch.tensor(weights if weights is not None else [1.0] * len(transforms), dtype=torch.float64)
        if len(given) != len(transforms) or len(given) == 0 or bool((given < 0).any()) or float(given.sum()) <= 0:
            raise ConfigurationError(f"weights must be one number >= 0 for each transform, got {weights!r}")
        self.weights = given / given.sum()

    @override
    def run(self, sample: Sample, draws: Draws) -> Sample:
        ends = self.weights.cumsum(0)[:-1].to(torch.float32)
        choices = torch.bucketize(draws.uniform(), ends, right=True)
        for number, transform in enumerate(self.transforms):
            if not isinstance(transform, PerExample):
                continue
            rows = (choices == number).nonzero()[:, 0]
            if len(rows):
                sample = sample.put(rows, transform.run(sample.rows(rows), draws.of(rows).child(number)))
        return sample

    @override
    def augment(self, inputs: Tensor, draws: Draws) -> Tensor:
        return self.run(Sample(inputs), draws).inputs


class Alike(PerExample):
    """The same function for every row, with nothing random in it; it may not look from one row to another.

    Args:
        function: of a batch ``(B, ...)``.
        name: for messages.
        moves: whether it moves pixels, so that nothing could follow the image.

    Example:
        >>> Alike(torch.neg, "neg")(torch.ones(2)).tolist()
        [-1.0, -1.0]
    """

    def __init__(self, function: Callable[[Tensor], Tensor], name: str, *, moves: bool = False) -> None:
        super().__init__()
        self.function, self.name, self.moves = function, name, moves

    @override
    def run(self, sample: Sample, draws: Draws) -> Sample:
        if self.moves and sample.followers:
            raise ConfigurationError(
                f"{self.name} moves pixels, and masks, boxes or points can't follow it on the device: do it in the "
                "data set, or use where='workers'"
            )
        return super().run(sample, draws)

    @override
    def augment(self, inputs: Tensor, draws: Draws) -> Tensor:
        return self.function(inputs)
