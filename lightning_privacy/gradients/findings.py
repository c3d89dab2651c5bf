"""What the layers found out about the examples of one micro-batch, until it is clipped and summed.

Example:
    >>> import torch
    >>> from torch import nn
    >>> from lightning_privacy.gradients.contributions import Dense
    >>> weight = nn.Parameter(torch.zeros(2))
    >>> findings = Findings({id(weight): 0})
    >>> findings.add(weight, Dense(torch.tensor([[3.0, 4.0], [0.0, 1.0]])), only_use=True)
    >>> findings.squared_norms()
    tensor([[25.],
            [ 1.]])
    >>> total = torch.zeros(2)
    >>> findings.add_weighted_sum(weight, total, torch.tensor([0.2, 1.0]))
    >>> total
    tensor([0.6000, 1.8000])
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_privacy.errors import PrivacyViolation
from lightning_privacy.gradients.contributions import Contribution, merge

__all__ = ["Findings"]


class Findings:
    """Contributions by parameter, and the norms of the examples over groups of parameters.

    Args:
        groups: number of the group, from 0, of each parameter, by its ``id``.
    """

    def __init__(self, groups: Mapping[int, int]) -> None:
        self._groups = groups
        self._norms: dict[int, Tensor] = {}
        self._contributions: dict[int, list[Contribution]] = {}
        self._merged: dict[int, Contribution] = {}
        self._rejected: Tensor | None = None
        self._deferred: dict[int, None] = {}  # ordered, so that sums round the same in every run
        self._measured: list[tuple[Tensor, int]] = []  # with the version at the time of the norm

    def add(self, parameter: nn.Parameter, contribution: Contribution, *, only_use: bool) -> None:
        """Take in what a layer found for one parameter.

        Args:
            parameter: the parameter.
            contribution: its per-example gradients from one use.
            only_use: no other use in this step's forward; then the norm is due now, while data is in cache.
        """
        self._contributions.setdefault(id(parameter), []).append(contribution)
        if only_use:
            self._add_norms(id(parameter), contribution.squared_norms())
            self._measured.extend((tensor, tensor._version) for tensor in contribution.tensors())
        else:
            self._deferred[id(parameter)] = None

    def squared_norms(self) -> Tensor | None:
        """Return the squared gradient norm of each example over each group, ``(B, G)``; call once, when all is in.

        Returns:
            None where no layer found anything.

        Raises:
            PrivacyViolation: a tensor changed after the norms were taken from it.
        """
        if any(tensor._version != version for tensor, version in self._measured):
            raise PrivacyViolation(
                "an activation or a gradient was modified in place during backward, after the norms of the examples "
                "were taken from it; in tensor hooks and in autograd functions return a new tensor (return grad * 2, "
                "not grad.mul_(2))"
            )
        self._merged = {key: merge(entries) for key, entries in self._contributions.items()}
        for key in self._deferred:
            self._add_norms(key, self._merged[key].squared_norms())
        if not self._norms:
            return None
        any_norms = next(iter(self._norms.values()))
        if len(self._norms) == 1 and len(set(self._groups.values())) == 1:
            return any_norms.unsqueeze(1)
        nothing = torch.zeros_like(any_norms)
        return torch.stack([self._norms.get(group, nothing) for group in range(max(self._groups.values()) + 1)], dim=1)

    def per_example(self, parameter: nn.Parameter) -> Tensor | None:
        """Return the gradients themselves, ``(B, *parameter.shape)``; None where nothing was found. For diagnosis."""
        contribution = self._accepted(parameter)
        return None if contribution is None else contribution.per_example()

    def reject(self, rejected: Tensor) -> None:
        """Make the examples where ``rejected`` (bool, ``(B,)``) is set add exactly nothing."""
        self._rejected = rejected

    def add_weighted_sum(self, parameter: nn.Parameter, total: Tensor, weights: Tensor) -> None:
        """Add ``sum_i weights_i g_i`` of one parameter to ``total``, which has its shape.

        Args:
            parameter: the parameter.
            total: in float32 or better; changed in place.
            weights: shape ``(B,)``.
        """
        contribution = self._accepted(parameter)
        if contribution is None:
            return
        contribution.add_weighted_sum(total, weights.to(total.dtype))

    def _accepted(self, parameter: nn.Parameter) -> Contribution | None:
        contribution = self._merged.get(id(parameter))
        if contribution is None or self._rejected is None:
            return contribution
        # A weight of 0 is not enough: 0 * inf is not 0. Layer by layer, as this takes a copy.
        return contribution.without(self._rejected)

    def _add_norms(self, parameter: int, squared: Tensor) -> None:
        group = self._groups[parameter]
        before = self._norms.get(group)
        self._norms[group] = squared if before is None else before + squared
