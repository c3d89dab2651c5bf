"""What a transform of a batch is: a function of each row and of that row's own random numbers.

Nothing may pass from one example to another: under differential privacy the gradient of an example must depend on that
example alone, and no clipping bounds what an example does through the others.

Example:
    >>> import torch
    >>> class Negate(PerExample):
    ...     def augment(self, inputs, draws):
    ...         flipped = rowwise(draws.chance(0.5), inputs)
    ...         return torch.where(flipped, -inputs, inputs)
    >>> Negate()(torch.ones(4, 2), Draws(torch.arange(4))).abs().sum().item()
    8.0
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_privacy.data.augmentation.draws import Draws
from lightning_privacy.data.augmentation.sample import Follower, Sample
from lightning_privacy.errors import ConfigurationError

__all__ = ["Geometric", "PerExample", "check_images", "rowwise"]


def rowwise(values: Tensor, like: Tensor) -> Tensor:
    """One value for each row, shaped ``(B, 1, 1, ...)`` and on the device of ``like``, to be broadcast against it."""
    values = values.to(like.device, non_blocking=True)
    return values.view(-1, *[1] * (like.dim() - 1))


class PerExample(nn.Module):
    """Augments each row of a batch by itself.

    Sub-classes write :meth:`augment`. Called without ``draws``, it takes its randomness from torch's generator.
    """

    per_example = True
    """Whether each row of the result depends on the same row of the batch alone; False for MixUp and its like."""

    @abstractmethod
    def augment(self, inputs: Tensor, draws: Draws) -> Tensor:
        """Return the augmented batch.

        Args:
            inputs: ``(B, ...)``; it is not changed.
            draws: the rows' random numbers.
        """

    def run(self, sample: Sample, draws: Draws) -> Sample:
        """Augment a part of a batch, with what follows it."""
        return replace(sample, inputs=self.augment(sample.inputs, draws))

    @override
    def forward(self, inputs: Tensor, draws: Draws | None = None) -> Tensor:
        return self.augment(inputs, Draws.from_generator(len(inputs)) if draws is None else draws)


class Geometric(PerExample):
    """Moves pixels about: masks, boxes and key points follow the image.

    Sub-classes draw the parameters of a batch in :meth:`sample`; the other methods apply them.
    """

    @abstractmethod
    def sample(self, inputs: Tensor, draws: Draws) -> Any:
        """The parameters for images ``(B, C, H, W)``."""

    @abstractmethod
    def move_images(self, images: Tensor, parameters: Any) -> Tensor:
        """Images ``(B, C, H, W)``, of any type."""

    @abstractmethod
    def move_masks(self, masks: Tensor, parameters: Any) -> Tensor:
        """Masks ``(B, C, H, W)`` of class numbers, which are not interpolated."""

    @abstractmethod
    def move_points(self, points: Tensor, parameters: Any) -> Tensor:
        """Points ``(B, N, 2)`` as x and y, in pixels from the upper left corner of the image."""

    @abstractmethod
    def out_size(self, parameters: Any) -> tuple[int, int]:
        """Height and width of the result."""

    @override
    def augment(self, inputs: Tensor, draws: Draws) -> Tensor:
        check_images(inputs, type(self).__name__)
        return self.move_images(inputs, self.sample(inputs, draws))

    @override
    def run(self, sample: Sample, draws: Draws) -> Sample:
        check_images(sample.inputs, type(self).__name__)
        parameters = self.sample(sample.inputs, draws)
        followers = tuple(self._follow(item, parameters) for item in sample.followers)
        return replace(sample, inputs=self.move_images(sample.inputs, parameters), followers=followers)

    def _follow(self, item: Follower, parameters: Any) -> Follower:
        values = item.values
        if item.kind == "points":
            moved = self.move_points(values.to(torch.float32), parameters).to(values.dtype)
        elif item.kind == "boxes":
            moved = _moved_boxes(self, values, parameters)
        else:
            flat = values.unsqueeze(1) if values.dim() == 3 else values
            moved = self.move_masks(flat, parameters)
            moved = moved.squeeze(1) if values.dim() == 3 else moved
        return Follower(item.kind, moved)


def check_images(inputs: Any, name: str) -> None:
    """Refuse what is no batch of images.

    Raises:
        ConfigurationError: It is not a tensor ``(B, C, H, W)``.
    """
    if not isinstance(inputs, Tensor) or inputs.dim() != 4:
        got = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ConfigurationError(
            f"{name} needs a batch of images (B, C, H, W), got {got}; where images are elsewhere in the batch, "
            "say where with input_key"
        )


def _moved_boxes(transform: Geometric, boxes: Tensor, parameters: Any) -> Tensor:
    """Boxes ``(B, N, 4)`` as x1, y1, x2, y2: the smallest that hold the moved corners, cut off at the image's edges."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    corners = torch.stack([x1, y1, x2, y1, x2, y2, x1, y2], -1).reshape(len(boxes), -1, 2)
    moved = transform.move_points(corners.to(torch.float32), parameters).reshape(*boxes.shape[:2], 4, 2)
    height, width = transform.out_size(parameters)
    limit = torch.tensor([width, height], dtype=moved.dtype, device=moved.device)
    low, high = moved.amin(2), moved.amax(2)
    ends = torch.cat([torch.minimum(low.clamp(min=0), limit), torch.minimum(high.clamp(min=0), limit)], -1)
    return ends.to(boxes.dtype)
