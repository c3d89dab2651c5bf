"""Automatic clipping: every gradient is normalised, so that the bound needs no tuning.

Example:
    >>> import torch
    >>> from lightning_privacy.gradients.clipping import AutomaticClipping
    >>> AutomaticClipping(gamma=0.5).factors(torch.tensor([[2.25], [0.0], [float("nan")]]))
    tensor([[0.5000],
            [2.0000],
            [0.0000]])
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from typing_extensions import override

from lightning_privacy._validate import positive
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.gradients.clipping.policy import OneBound, zero_unless_finite

__all__ = ["AutomaticClipping"]

# A gradient whose entries are so small that their squares vanish in float32 has a measured norm of 0 and is enlarged
# by C / gamma. A billion entries just below that (1e-19) have a norm of 3e-15; gamma is far above it.
_SMALLEST_GAMMA = 1e-6


class AutomaticClipping(OneBound):
    """``c_i = C / (||g_i|| + gamma)``: AUTO-S of Bu et al., 2023.

    "Automatic Clipping: Differentially Private Deep Learning Made Easier and Stronger".

    What an example adds has the norm ``C ||g_i|| / (||g_i|| + gamma) < C``, so C is the sensitivity. It scales sum
    and noise alike and nothing else, so it acts as a factor on the learning rate (and drops out with Adam): leave it
    at 1. With gamma above 0, small gradients stay smaller than large ones, which convergence needs.

    Args:
        max_grad_norm: C.
        gamma: in the units of the gradient of one example's loss; at least 1e-6.

    Raises:
        ConfigurationError: a number out of its range.

    Example:
        >>> AutomaticClipping()
        AutomaticClipping(max_grad_norm=1.0, gamma=0.01)
    """

    def __init__(self, max_grad_norm: float = 1.0, *, gamma: float = 0.01) -> None:
        super().__init__(max_grad_norm)
        self._gamma = positive(gamma=gamma)
        if self._gamma < _SMALLEST_GAMMA:
            raise ConfigurationError(
                f"gamma must be at least {_SMALLEST_GAMMA:g}, because gradients too small to be measured in float32 "
                f"would be enlarged beyond the bound, got {gamma!r}"
            )

    @override
    def factors(self, squared_norms: Tensor) -> Tensor:
        return zero_unless_finite(self._max_grad_norm / (squared_norms.sqrt() + self._gamma), squared_norms)

    @override
    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "gamma": self._gamma}
