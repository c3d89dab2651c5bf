"""What a transform sees of a batch: the inputs, what follows them, and the labels where they are mixed.

Example:
    >>> import torch
    >>> sample = Sample(torch.arange(6.0).reshape(3, 2))
    >>> rows = torch.tensor([2])
    >>> sample.put(rows, Sample(torch.zeros(1, 2))).inputs
    tensor([[0., 1.],
            [2., 3.],
            [0., 0.]])
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_privacy.errors import ConfigurationError

__all__ = ["KINDS", "Follower", "Sample"]

KINDS = ("mask", "boxes", "points")
"""What can follow an image: class numbers of pixels, boxes as x1, y1, x2, y2, and points as x, y."""


@dataclass(frozen=True)
class Follower:
    """Something that moves with the image.

    Args:
        kind: one of :data:`KINDS`.
        values: ``(B, H, W)`` or ``(B, C, H, W)`` for masks, ``(B, N, 4)`` for boxes, ``(B, N, 2)`` for points.
    """

    kind: str
    values: Tensor


@dataclass(frozen=True)
class Sample:
    """The part of a batch that is augmented.

    Args:
        inputs: ``(B, ...)``.
        followers: what moves with them.
        labels: for transforms that mix examples.
    """

    inputs: Tensor
    followers: tuple[Follower, ...] = ()
    labels: Tensor | None = None

    def rows(self, rows: Tensor) -> Sample:
        """Some of the rows; ``rows`` are their numbers, on the CPU."""
        chosen = rows.to(self.inputs.device, non_blocking=True)
        return replace(
            self,
            inputs=self.inputs.index_select(0, chosen),
            followers=tuple(replace(item, values=item.values.index_select(0, chosen)) for item in self.followers),
            labels=None if self.labels is None else self.labels.index_select(0, chosen),
        )

    def put(self, rows: Tensor, changed: Sample) -> Sample:
        """The same with some of its rows changed; it is not changed itself.

        Raises:
            ConfigurationError: The changed rows have another shape.
        """
        if changed.inputs.shape[1:] != self.inputs.shape[1:]:
            raise ConfigurationError(
                f"some rows of the batch have shape {tuple(changed.inputs.shape[1:])} after their transforms and "
                f"others {tuple(self.inputs.shape[1:])}: all transforms that are chosen from must give one shape"
            )
        chosen = rows.to(self.inputs.device, non_blocking=True)
        followers = tuple(
            replace(own, values=own.values.index_copy(0, chosen, other.values.to(own.values.dtype)))
            for own, other in zip(self.followers, changed.followers, strict=True)
        )
        inputs = self.inputs.index_copy(0, chosen, changed.inputs.to(self.inputs.dtype))
        return replace(self, inputs=inputs, followers=followers)

    @staticmethod
    def collected(parts: list[tuple[Tensor, Sample]]) -> Sample:
        """One sample out of disjoint parts of its rows, given with their numbers."""
        order = torch.cat([rows for rows, _ in parts]).argsort()
        shapes = {tuple(part.inputs.shape[1:]) for _, part in parts}
        if len(shapes) > 1:
            raise ConfigurationError(
                f"the examples of a batch have the shapes {sorted(shapes)} after the transforms of their groups: give "
                "all groups transforms that end in one shape"
            )
        whole = Sample(
            torch.cat([part.inputs for _, part in parts]),
            tuple(
                Follower(each[0].kind, torch.cat([item.values for item in each]))
                for each in zip(*(part.followers for _, part in parts), strict=True)
            ),
        )
        return whole.rows(order)
