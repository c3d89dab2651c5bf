"""Contributions to parameters that are put together from others.

- :class:`Blocks`: a parameter whose rows belong to different maps, as the packed projection of an attention layer.
- :class:`Reshaped`: a parameter with more dimensions than the matrix that its gradient is.

Example:
    >>> import torch
    >>> from lightning_privacy.gradients.contributions import Dense
    >>> blocks = Blocks([Dense(torch.ones(2, 1, 4)), Dense(2 * torch.ones(2, 3, 4))], (1, 3))
    >>> blocks.squared_norms()
    tensor([52., 52.])
    >>> tuple(blocks.per_example().shape)
    (2, 4, 4)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_privacy.gradients.contributions import Contribution, merge

__all__ = ["Blocks", "Reshaped"]


class Blocks(Contribution):
    """The rows of a parameter, cut into consecutive blocks with a contribution each.

    Args:
        parts: contribution to each block, over the same examples.
        sizes: rows of each block.
    """

    def __init__(self, parts: Sequence[Contribution], sizes: Sequence[int]) -> None:
        self.parts, self.sizes = list(parts), list(sizes)

    def squared_norms(self) -> Tensor:
        """See :meth:`Contribution.squared_norms`."""
        return torch.stack([part.squared_norms() for part in self.parts]).sum(0)

    def add_weighted_sum(self, out: Tensor, weights: Tensor) -> None:
        """See :meth:`Contribution.add_weighted_sum`."""
        first = 0
        for part, size in zip(self.parts, self.sizes, strict=True):
            part.add_weighted_sum(out.narrow(0, first, size), weights)
            first += size

    def per_example(self) -> Tensor:
        """See :meth:`Contribution.per_example`."""
        return torch.cat([part.per_example() for part in self.parts], 1)

    def without(self, rejected: Tensor) -> Blocks:
        """See :meth:`Contribution.without`."""
        return Blocks([part.without(rejected) for part in self.parts], self.sizes)

    def tensors(self) -> list[Tensor]:
        """See :meth:`Contribution.tensors`."""
        return [tensor for part in self.parts for tensor in part.tensors()]

    def folded(self, rows_each: int) -> Blocks:
        """See :meth:`Contribution.folded`."""
        return Blocks([part.folded(rows_each) for part in self.parts], self.sizes)

    def joined(self, others: Sequence[Contribution]) -> Blocks | None:
        """See :meth:`Contribution.joined`."""
        uses = [self, *(other for other in others if isinstance(other, Blocks))]
        if any(use.sizes != self.sizes for use in uses):
            return None
        columns = zip(*(use.parts for use in uses), strict=True)
        return Blocks([merge(column) for column in columns], self.sizes)


class Reshaped(Contribution):
    """A contribution whose parameter has another shape, of as many elements.

    Args:
        inner: contribution to the parameter, seen in the shape ``inner_shape``.
        inner_shape: the shape that ``inner`` sees.
        shape: the parameter's own shape.
    """

    def __init__(self, inner: Contribution, inner_shape: tuple[int, ...], shape: tuple[int, ...]) -> None:
        self.inner, self.inner_shape, self.shape = inner, inner_shape, shape

    def squared_norms(self) -> Tensor:
        """See :meth:`Contribution.squared_norms`."""
        return self.inner.squared_norms()

    def add_weighted_sum(self, out: Tensor, weights: Tensor) -> None:
        """See :meth:`Contribution.add_weighted_sum`."""
        self.inner.add_weighted_sum(out.view(self.inner_shape), weights)

    def per_example(self) -> Tensor:
        """See :meth:`Contribution.per_example`."""
        values = self.inner.per_example()
        return values.reshape(values.shape[0], *self.shape)

    def without(self, rejected: Tensor) -> Reshaped:
        """See :meth:`Contribution.without`."""
        return Reshaped(self.inner.without(rejected), self.inner_shape, self.shape)

    def tensors(self) -> list[Tensor]:
        """See :meth:`Contribution.tensors`."""
        return self.inner.tensors()

    def folded(self, rows_each: int) -> Reshaped:
        """See :meth:`Contribution.folded`."""
        return Reshaped(self.inner.folded(rows_each), self.inner_shape, self.shape)

    def joined(self, others: Sequence[Contribution]) -> Reshaped | None:
        """See :meth:`Contribution.joined`."""
        uses = [self, *(other for other in others if isinstance(other, Reshaped))]
        if any(use.inner_shape != self.inner_shape for use in uses):
            return None
        return Reshaped(merge([use.inner for use in uses]), self.inner_shape, self.shape)
