"""What each example of a batch adds to the gradient of one parameter.

A clipped gradient sum needs two things of every parameter: the squared norm of each example's gradient, and, once
the clip factors are known, the factor-weighted sum over examples. A :class:`Contribution` answers both; which of
them needs the per-example gradient in memory is its own affair.

:class:`Dense` holds the per-example gradients. What stands for them in another form is in
:mod:`~lightning_privacy.gradients.outer` and :mod:`~lightning_privacy.gradients.convolution`.

Example:
    >>> import torch
    >>> gradients = Dense(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    >>> gradients.squared_norms()
    tensor([25.,  1.])
    >>> merge([gradients, gradients]).squared_norms()  # of a parameter that was used twice
    tensor([100.,   4.])
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "Contribution",
    "Dense",
    "examples_at_once",
    "has_cheap_sync",
    "merge",
    "selected_rows",
    "squared_row_norms",
]

# Elements that temporary tensors have at most where work is done in parts: on a CPU they should stay in its cache,
# on other devices a part must be large enough to keep them busy.
_PART_ELEMENTS = 2**19
_DEVICE_PART_ELEMENTS = 2**26
# Length over which squares are added up in one go.
_BLOCK = 512


class Contribution(ABC):
    """Per-example gradients of one parameter, in whatever form is cheapest."""

    @abstractmethod
    def squared_norms(self) -> Tensor:
        """Return the squared L2 norm of each example's gradient, shape ``(B,)``."""

    @abstractmethod
    def add_weighted_sum(self, out: Tensor, weights: Tensor) -> None:
        """Add ``sum_i weights_i g_i`` to ``out``, which has the shape of the parameter."""

    @abstractmethod
    def per_example(self) -> Tensor:
        """Return the gradients themselves, shape ``(B, *parameter.shape)``."""

    @abstractmethod
    def without(self, rejected: Tensor) -> Contribution:
        """Return the same contribution with the examples where ``rejected`` (bool, ``(B,)``) is set made zero."""

    @abstractmethod
    def tensors(self) -> list[Tensor]:
        """Return what :meth:`add_weighted_sum` will compute with, which may belong to others."""

    def folded(self, rows_each: int) -> Contribution:
        """Return the contribution of examples that have ``rows_each`` rows of this one each, next to each other."""
        values = self.per_example()
        return Dense(values.reshape(values.shape[0] // rows_each, rows_each, *values.shape[1:]).sum(1))

    def joined(self, others: Sequence[Contribution]) -> Contribution | None:
        """Return the sum with contributions of the same class, or None when they have to be instantiated for it."""
        return None


def squared_row_norms(values: Tensor) -> Tensor:
    """Return the squared norms of the rows of ``values``, right to a few roundings whatever their length.

    One pass over a row of millions of float32 rounds to 1e-4, which would be the error of the clipping bound.

    Args:
        values: shape ``(B, D)``.

    Returns:
        Shape ``(B,)``.
    """
    if values.shape[1] <= _BLOCK:
        short: Tensor = torch.linalg.vector_norm(values, dim=1).square()
        return short
    blocks = values.shape[1] // _BLOCK
    body = values[:, : blocks * _BLOCK].reshape(values.shape[0], blocks, _BLOCK)
    parts: Tensor = torch.linalg.vector_norm(body, dim=2)
    total: Tensor = torch.linalg.vector_norm(parts, dim=1).square()
    if values.shape[1] > blocks * _BLOCK:
        total = total + torch.linalg.vector_norm(values[:, blocks * _BLOCK :], dim=1).square()
    return total


def examples_at_once(elements_each: int, device: torch.device) -> int:
    """Return over how many examples to work at a time, at least 1.

    Args:
        elements_each: size of the temporary tensors that an example needs.
        device: where they are.
    """
    most = _PART_ELEMENTS if has_cheap_sync(device) else _DEVICE_PART_ELEMENTS
    return max(1, most // max(1, elements_each))


def has_cheap_sync(device: torch.device) -> bool:
    """Return whether Python may look at values on ``device`` without waiting for work that is under way."""
    return device.type == "cpu"


def selected_rows(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask of rows, shape ``(B,)``, in a shape that goes with ``like``, whose first dimension is B."""
    return mask.view(-1, *([1] * (like.dim() - 1)))


class Dense(Contribution):
    """Instantiated per-example gradients, shape ``(B, *parameter.shape)``."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def squared_norms(self) -> Tensor:
        """See :meth:`Contribution.squared_norms`."""
        # A scalar parameter has one number per example: the extra dimension keeps the flattening valid.
        return squared_row_norms(self.values.unsqueeze(-1).flatten(1))

    def add_weighted_sum(self, out: Tensor, weights: Tensor) -> None:
        """See :meth:`Contribution.add_weighted_sum`."""
        if self.values.dim() == 1:
            out.add_(torch.dot(self.values, weights))
            return
        out.view(-1).addmv_(self.values.flatten(1).t(), weights)

    def per_example(self) -> Tensor:
        """See :meth:`Contribution.per_example`."""
        return self.values

    def without(self, rejected: Tensor) -> Dense:
        """See :meth:`Contribution.without`."""
        return Dense(self.values.masked_fill(selected_rows(rejected, self.values), 0))

    def tensors(self) -> list[Tensor]:
        """See :meth:`Contribution.tensors`."""
        return [self.values]


def merge(contributions: Sequence[Contribution]) -> Contribution:
    """Return the contribution of a parameter that was used several times in one step.

    The gradients of the uses add up before the norm is taken, so their norms do not.

    Args:
        contributions: one per use, all over the same examples.
    """
    if len(contributions) == 1:
        return contributions[0]
    if len({type(item) for item in contributions}) == 1:
        joined = contributions[0].joined(contributions[1:])
        if joined is not None:
            return joined
    total = contributions[0].per_example().clone()
    for item in contributions[1:]:
        total += item.per_example()
    return Dense(total)
