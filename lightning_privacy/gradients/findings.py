"""What the layers found out about the examples of one micro-batch, until it is clipped and summed.

Example:
    >>> import torch
    >>> from torch import nn
    >>> from lightning_privacy.gradients.contributions import Dense
    >>> findings, weight = Findings(), nn.Parameter(torch.zeros(2))
    >>> findings.add(weight, Dense(torch.tensor([[3.0, 4.0], [0.0, 1.0]])), only_use=True)
    >>> findings.squared_norms()
    tensor([25.,  1.])
    >>> total = torch.zeros(2)
    >>> findings.add_weighted_sum(weight, total, torch.tensor([0.2, 1.0]))
    >>> total
    tensor([0.6000, 1.8000])
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_privacy.errors import PrivacyViolation
from lightning_privacy.gradients.contributions import Contribution, merge

__all__ = ["Findings"]


class Findings:
    """Contributions by parameter, and the norms of the examples over all parameters."""

    def __init__(self) -> None:
        self._norms: Tensor | None = None
        self._contributions: dict[int, list[Contribution]] = {}
        self._merged: dict[int, Contribution] = {}
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
            self._add_norms(contribution.squared_norms())
            self._measured.extend((tensor, tensor._version) for tensor in contribution.tensors())
        else:
            self._deferred[id(parameter)] = None

    def squared_norms(self) -> Tensor | None:
        """Return the squared gradient norm of each example, shape ``(B,)``; call once, when all is in.

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
            self._add_norms(self._merged[key].squared_norms())
        return self._norms

    def reject(self, rejected: Tensor) -> None:
        """Make the examples where ``rejected`` (bool, ``(B,)``) is set add exactly nothing."""
        # A weight of 0 is not enough: 0 * inf is not 0.
        self._merged = {key: contribution.without(rejected) for key, contribution in self._merged.items()}

    def add_weighted_sum(self, parameter: nn.Parameter, total: Tensor, weights: Tensor) -> None:
        """Add ``sum_i weights_i g_i`` of one parameter to ``total``, which has its shape.

        Args:
            parameter: the parameter.
            total: changed in place.
            weights: shape ``(B,)``.
        """
        contribution = self._merged.get(id(parameter))
        if contribution is None:
            return
        if total.dtype in (torch.float16, torch.bfloat16):
            part = torch.zeros_like(total, dtype=torch.float32)
            contribution.add_weighted_sum(part, weights.float())
            total.add_(part)
        else:
            contribution.add_weighted_sum(total, weights.to(total.dtype))

    def _add_norms(self, squared: Tensor) -> None:
        self._norms = squared if self._norms is None else self._norms + squared
