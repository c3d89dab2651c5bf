"""MixUp and CutMix: each input becomes a mixture of two examples, and its label too.

They are refused under differential privacy: the gradient of a mixture belongs to two examples at once, so that clipping
it bounds what neither of them does.

Example:
    >>> import torch
    >>> from lightning_privacy.data.augmentation.draws import Draws
    >>> from lightning_privacy.data.augmentation.sample import Sample
    >>> sample = Sample(torch.rand(4, 1, 2, 2), labels=torch.arange(4) % 3)
    >>> mixed = MixUp(num_classes=3).run(sample, Draws(torch.arange(4)))
    >>> mixed.labels.shape, mixed.labels.sum(1).round(decimals=4).tolist()
    (torch.Size([4, 3]), [1.0, 1.0, 1.0, 1.0])
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from lightning_privacy._validate import positive
from lightning_privacy.data.augmentation.base import PerExample, check_images, rowwise
from lightning_privacy.data.augmentation.draws import Draws
from lightning_privacy.data.augmentation.sample import Sample
from lightning_privacy.errors import ConfigurationError

__all__ = ["CutMix", "MixUp"]


class _Mixing(PerExample):
    per_example = False

    def __init__(self, *, alpha: float = 1.0, num_classes: int | None = None) -> None:
        super().__init__()
        self.alpha = positive(alpha=alpha)
        self.num_classes = num_classes

    @abstractmethod
    def mix(self, inputs: Tensor, partners: Tensor, share: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Mixed inputs, and the share of its own that each row has kept, ``(B,)``."""

    @override
    def run(self, sample: Sample, draws: Draws) -> Sample:
        if sample.followers or sample.labels is None:
            what = "masks, boxes or points can't be mixed" if sample.followers else "it mixes labels too"
            raise ConfigurationError(
                f"{type(self).__name__}: {what}; give AugmentationDataModule(target_key=...), the field of the class "
                "numbers, and no follow"
            )
        rows = len(sample.inputs)
        generator = np.random.default_rng(int(draws.of_batch().keys[0]) & (2**63 - 1))
        share = torch.from_numpy(generator.beta(self.alpha, self.alpha, rows)).to(torch.float32)
        partners = torch.from_numpy(generator.permutation(rows))
        mixed, kept = self.mix(sample.inputs, partners.to(sample.inputs.device), share, draws)
        labels = self._one_hot(sample.labels)
        weights = rowwise(kept, labels)
        mixed_labels = labels * weights + labels[partners.to(labels.device)] * (1 - weights)
        return replace(sample, inputs=mixed, labels=mixed_labels)

    def _one_hot(self, labels: Tensor) -> Tensor:
        if labels.is_floating_point():
            return labels
        if self.num_classes is None:
            raise ConfigurationError(
                f"{type(self).__name__} needs num_classes, as the labels are class numbers: {type(self).__name__}"
                "(num_classes=...)"
            )
        return F.one_hot(labels.long(), self.num_classes).to(torch.float32)

    @override
    def augment(self, inputs: Tensor, draws: Draws) -> Tensor:
        raise ConfigurationError(f"{type(self).__name__} mixes labels too: call run with a sample that has them")


class MixUp(_Mixing):
    """Weighted means of two examples and of their labels (Zhang et al., "mixup", 2018). Not under DP.

    Labels become ``(B, num_classes)``, which ``cross_entropy`` takes.

    Args:
        alpha: both parameters of the Beta distribution of the weight.
        num_classes: how many classes there are, where labels are class numbers.

    Example:
        >>> MixUp(num_classes=10).per_example
        False
    """

    @override
    def mix(self, inputs: Tensor, partners: Tensor, share: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        weights = rowwise(share, inputs).to(inputs.dtype)
        return inputs * weights + inputs[partners] * (1 - weights), share


class CutMix(_Mixing):
    """A rectangle of another image, and its share of that image's label (Yun et al., "CutMix", 2019). Not under DP.

    Args:
        alpha: both parameters of the Beta distribution of the share that stays.
        num_classes: how many classes there are, where labels are class numbers.

    Example:
        >>> CutMix(num_classes=10).per_example
        False
    """

    @override
    def mix(self, inputs: Tensor, partners: Tensor, share: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        check_images(inputs, type(self).__name__)
        height, width = inputs.shape[-2:]
        half = (1 - share).sqrt() / 2
        middle = draws.uniform(0.0, 1.0, 2)
        top = ((middle[:, 0] - half) * height).round().clamp(0, height)
        bottom = ((middle[:, 0] + half) * height).round().clamp(0, height)
        left = ((middle[:, 1] - half) * width).round().clamp(0, width)
        right = ((middle[:, 1] + half) * width).round().clamp(0, width)
        rows = torch.arange(height, device=inputs.device).view(1, 1, -1, 1)
        columns = torch.arange(width, device=inputs.device).view(1, 1, 1, -1)
        ends = [rowwise(end, inputs) for end in (top, bottom, left, right)]
        inside = ((rows >= ends[0]) & (rows < ends[1])) & ((columns >= ends[2]) & (columns < ends[3]))
        kept = 1 - (bottom - top) * (right - left) / (height * width)
        return torch.where(inside, inputs[partners], inputs), kept
