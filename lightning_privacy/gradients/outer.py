"""Gradients that are sums of outer products, kept as their factors.

``g_i = sum_t left_it right_it^T`` is the gradient of every linear map and of every embedding (whose left factor is a
one-hot row). Its norm comes from two T x T Gram matrices (Goodfellow 2015 for T = 1; Li et al. 2022, "Large Language
Models Can Be Strong Differentially Private Learners", section 4, for T > 1) or from the instantiated gradient,
whichever costs less. Instantiated gradients stay in memory for the sum if they take no more of it than the factors;
otherwise they exist a few examples at a time.

Example:
    >>> import torch
    >>> left, right = torch.ones(2, 1, 3), torch.tensor([[[1.0, 2.0]], [[0.0, 1.0]]])
    >>> Outer([Pair(left, right)], (3, 2)).squared_norms()
    tensor([15.,  3.])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from lightning_privacy.gradients.contributions import (
    Contribution,
    Dense,
    examples_at_once,
    has_cheap_sync,
    selected_rows,
    squared_row_norms,
)

__all__ = ["Outer", "Pair", "checked_gram_norms"]

# What it costs to write an element, take its norm and sum it up, in multiply-adds of a matrix product (measured on
# x86 with oneDNN and MKL; only speed depends on it).
_MEMORY_COST = 25.0
# The same without the sum, for a few examples that stay in cache.
_CACHED_COST = 10.0
# Above this many elements a per-example gradient is not instantiated while there is another way.
_MAX_ELEMENTS = 2**26
# Gram norms below this share of what they would be without cancellation are computed again, from the gradient.
_CANCELLATION = 1e-4


@dataclass(frozen=True, slots=True)
class Pair:
    """Factors of ``sum_t left_t right_t^T``.

    Args:
        left: ``(B, T, p)`` floating point, or ``(B, T)`` integer row numbers standing for one-hot rows of length p.
        right: ``(B, T, d)`` floating point.
    """

    left: Tensor
    right: Tensor

    @property
    def one_hot(self) -> bool:
        """Whether ``left`` holds row numbers."""
        return bool(self.left.dtype in (torch.int32, torch.int64))


class Outer(Contribution):
    """A sum of outer products over T positions, and over any number of uses of the parameter.

    Args:
        pairs: the factors of each use.
        shape: ``(p, d)``, the parameter's shape.
    """

    def __init__(self, pairs: Sequence[Pair], shape: tuple[int, int]) -> None:
        self.pairs = list(pairs)
        self.shape = shape
        self._instantiated: Dense | None = None

    def squared_norms(self) -> Tensor:
        """See :meth:`Contribution.squared_norms`."""
        if len(self.pairs) == 1 and self.pairs[0].right.shape[1] == 1:
            return self._single_position_norms(self.pairs[0])
        if len(self.pairs) == 1 and self.pairs[0].one_hot:
            return _lookup_norms(self.pairs[0])
        if not self._instantiation_is_cheaper():
            return self._gram_norms()
        if not self._fits():
            return self._norms_in_parts()
        self._instantiated = Dense(self.per_example())
        self.pairs = []
        return self._instantiated.squared_norms()

    def add_weighted_sum(self, out: Tensor, weights: Tensor) -> None:
        """See :meth:`Contribution.add_weighted_sum`."""
        if self._instantiated is not None:
            self._instantiated.add_weighted_sum(out, weights)
            return
        for pair in self.pairs:
            scale = weights.view(-1, 1, 1)
            if pair.one_hot:
                out.index_add_(0, pair.left.flatten(), (pair.right * scale).flatten(0, 1))
            elif pair.left.shape[2] <= pair.right.shape[2]:
                out.addmm_((pair.left * scale).flatten(0, 1).t(), pair.right.flatten(0, 1))
            else:
                out.addmm_(pair.left.flatten(0, 1).t(), (pair.right * scale).flatten(0, 1))

    def per_example(self) -> Tensor:
        """See :meth:`Contribution.per_example`."""
        if self._instantiated is not None:
            return self._instantiated.values
        total: Tensor | None = None
        for pair in self.pairs:
            if pair.one_hot:
                batch = pair.left.shape[0]
                values = pair.right.new_zeros(batch * self.shape[0], self.shape[1])
                offset = torch.arange(batch, device=pair.left.device).view(-1, 1) * self.shape[0]
                values.index_add_(0, (pair.left + offset).flatten(), pair.right.flatten(0, 1))
                values = values.view(batch, *self.shape)
            else:
                values = torch.bmm(pair.left.transpose(1, 2), pair.right)
            total = values if total is None else total.add_(values)
        if total is None:
            raise ValueError("an outer contribution needs at least one pair")
        return total

    def without(self, rejected: Tensor) -> Contribution:
        """See :meth:`Contribution.without`."""
        if self._instantiated is not None:
            return self._instantiated.without(rejected)
        kept = []
        for pair in self.pairs:
            left = pair.left if pair.one_hot else pair.left.masked_fill(selected_rows(rejected, pair.left), 0)
            kept.append(Pair(left, pair.right.masked_fill(selected_rows(rejected, pair.right), 0)))
        return Outer(kept, self.shape)

    def tensors(self) -> list[Tensor]:
        """See :meth:`Contribution.tensors`."""
        if self._instantiated is not None:
            return self._instantiated.tensors()
        return [factor for pair in self.pairs for factor in (pair.left, pair.right)]

    def folded(self, rows_each: int) -> Contribution:
        """See :meth:`Contribution.folded`."""
        if self._instantiated is not None:
            return self._instantiated.folded(rows_each)
        pairs = []
        for left, right in ((pair.left, pair.right) for pair in self.pairs):
            size = (left.shape[0] // rows_each, rows_each * left.shape[1])
            pairs.append(Pair(left.reshape(*size, *left.shape[2:]), right.reshape(*size, right.shape[2])))
        return Outer(pairs, self.shape)

    def joined(self, others: Sequence[Contribution]) -> Outer | None:
        """See :meth:`Contribution.joined`."""
        uses = [self, *(other for other in others if isinstance(other, Outer))]
        if any(use._instantiated is not None for use in uses):
            return None
        pairs = [pair for use in uses for pair in use.pairs]
        kinds = ([pair for pair in pairs if pair.one_hot], [pair for pair in pairs if not pair.one_hot])
        return Outer([_concatenated(kind) for kind in kinds if kind], self.shape)

    def _reach(self) -> Tensor:
        """Return what each example's norm would be if none of its positions cancelled another, shape ``(B,)``."""
        total: Tensor | None = None
        for pair in self.pairs:
            lengths = torch.linalg.vector_norm(pair.right, dim=2)
            if not pair.one_hot:
                lengths = lengths * torch.linalg.vector_norm(pair.left, dim=2)
            total = lengths.sum(1) if total is None else total + lengths.sum(1)
        if total is None:
            raise ValueError("an outer contribution needs at least one pair")
        return total

    def _chosen_norms(self, chosen: Tensor) -> Tensor:
        """Return the squared norms of the examples numbered in ``chosen`` from their instantiated gradients."""
        pairs = [Pair(pair.left[chosen], pair.right[chosen]) for pair in self.pairs]
        return Dense(Outer(pairs, self.shape).per_example()).squared_norms()

    @staticmethod
    def _single_position_norms(pair: Pair) -> Tensor:
        right: Tensor = torch.linalg.vector_norm(pair.right, dim=(1, 2)).square()
        if not pair.one_hot:
            right = right * torch.linalg.vector_norm(pair.left, dim=(1, 2)).square()
        return right

    def _gram_norms(self) -> Tensor:
        total: Tensor | None = None
        for index, first in enumerate(self.pairs):
            for second in self.pairs[index:]:
                term = (_left_products(first, second) * _products(first.right, second.right)).sum((1, 2))
                term = term if first is second else 2 * term
                total = term if total is None else total + term
        if total is None:
            raise ValueError("an outer contribution needs at least one pair")
        return checked_gram_norms(total, self._reach(), self._chosen_norms)

    def _norms_in_parts(self) -> Tensor:
        """Instantiate the gradients of a few examples at a time, for their norms only."""
        examples = self.pairs[0].right.shape[0]
        step = examples_at_once(self.shape[0] * self.shape[1], self.pairs[0].right.device)
        norms = [self.pairs[0].right.new_zeros(0)]
        for start in range(0, examples, step):
            pairs = [Pair(pair.left[start : start + step], pair.right[start : start + step]) for pair in self.pairs]
            norms.append(Dense(Outer(pairs, self.shape).per_example()).squared_norms())
        return torch.cat(norms)

    def _fits(self) -> bool:
        """Return whether all instantiated gradients take no more memory than the factors."""
        instantiated = self.pairs[0].right.shape[0] * self.shape[0] * self.shape[1]
        factors = sum(factor.numel() for pair in self.pairs for factor in (pair.left, pair.right))
        return instantiated <= min(factors, _MAX_ELEMENTS)

    def _instantiation_is_cheaper(self) -> bool:
        """Compare multiply-adds per example, for norm and sum, with those of Gram matrices."""
        # Checking Gram norms means looking at them.
        if not has_cheap_sync(self.pairs[0].right.device):
            return True
        elements = self.shape[0] * self.shape[1]
        dense = sum(pair.right.shape[1] for pair in self.pairs if not pair.one_hot)
        gram = float(dense * elements)
        for first, second in combinations_with_replacement(self.pairs, 2):
            products = first.right.shape[1] * second.right.shape[1]
            width = self.shape[1] + (0 if first.one_hot or second.one_hot else self.shape[0])
            gram += products * (width + _MEMORY_COST)
        kept, in_parts = dense + _MEMORY_COST, 2 * dense + _CACHED_COST
        return (kept if self._fits() else in_parts) * elements < gram


def _lookup_norms(pair: Pair) -> Tensor:
    """Return the squared norms of one-hot products: positions that looked up the same row are added up, once each."""
    batch, positions = pair.left.shape
    same = pair.left.unsqueeze(2) == pair.left.unsqueeze(1)
    first = same.to(torch.uint8).argmax(2)  # the first position with the same row
    first = first + torch.arange(batch, device=first.device).view(-1, 1) * positions
    sums = pair.right.new_zeros(batch * positions, pair.right.shape[2])
    sums.index_add_(0, first.flatten(), pair.right.flatten(0, 1))
    return squared_row_norms(sums.view(batch, positions * pair.right.shape[2]))


def _concatenated(pairs: Sequence[Pair]) -> Pair:
    # One product over all positions, where a layer that is called step by step would need one for each two steps.
    if len(pairs) == 1:
        return pairs[0]
    return Pair(torch.cat([pair.left for pair in pairs], 1), torch.cat([pair.right for pair in pairs], 1))


def _products(first: Tensor, second: Tensor) -> Tensor:
    return torch.bmm(first, second.transpose(1, 2))


def _left_products(first: Pair, second: Pair) -> Tensor:
    """Return ``<left_t, left_s>`` for all positions, shape ``(B, T, S)``."""
    if first.one_hot and second.one_hot:
        return (first.left.unsqueeze(2) == second.left.unsqueeze(1)).to(first.right.dtype)
    if first.one_hot:
        # Column numbers first.left of second's rows: (B, S, T), transposed.
        index = first.left.unsqueeze(1).expand(-1, second.left.shape[1], -1)
        return second.left.gather(2, index).transpose(1, 2)
    if second.one_hot:
        return first.left.gather(2, second.left.unsqueeze(1).expand(-1, first.left.shape[1], -1))
    return _products(first.left, second.left)


def checked_gram_norms(squared: Tensor, reach: Tensor, instantiated: Callable[[Tensor], Tensor]) -> Tensor:
    """Return squared norms from Gram matrices, those of badly conditioned examples recomputed.

    A Gram norm is a sum with rounding errors of about ``reach**2`` machine epsilons. Where an example's positions
    nearly cancel, that hides a gradient above the bound, and its factor would be too large.

    Args:
        squared: shape ``(B,)``, squared norms from Gram matrices.
        reach: shape ``(B,)``, the sum over positions of the norms of what each adds.
        instantiated: takes numbers of examples and returns their squared norms from instantiated gradients.
    """
    # In float32 that leaves an error below 0.1% of the norm in the worst case not recomputed.
    doubtful = (squared < _CANCELLATION * reach.square()).nonzero().flatten()
    for place in range(len(doubtful)):  # one by one: the gradients may be large
        example = doubtful[place : place + 1]
        squared[example] = instantiated(example)
    return squared
