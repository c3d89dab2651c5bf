"""Which precisions a private fit can run in, and a loss scale that doesn't depend on the data.

Gradients in half precision are scaled up so that they don't vanish. The scale is undone before clipping, and put on
the private gradient again, which Lightning's precision plugin then divides by it. A scale that moves with overflow
would be a function of the private data that nobody accounts for, and a step skipped for it another: so it is fixed.
An example whose gradient overflows adds nothing, like any that is not finite.

Example:
    >>> fixed_loss_scale(batch_size=64)
    1024.0
"""

from __future__ import annotations

import math
from typing import Any

import torch

from lightning_privacy._lightning import pl
from lightning_privacy.errors import UnsupportedError

__all__ = ["LossScale", "check_precision", "fixed_loss_scale"]

_SUPPORTED = ("32-true", "64-true", "bf16-true", "bf16-mixed", "16-mixed")

# Gradients of the outputs of a mean loss are about one over the batch size. Times this and the batch size they leave
# room for a thousand times larger ones below the end of float16, 65504, and for 1e-8 of them above its start, 6e-8.
_OUTPUT_GRADIENT = 16.0
_LARGEST_SCALE = 65536.0
_NEVER = 2**31 - 1


def check_precision(trainer: Any) -> None:
    """Refuse precisions in which what is clipped is not what is released.

    Args:
        trainer: The trainer, in ``setup``.

    Raises:
        UnsupportedError: Naming the precision, the reason and the way out.
    """
    plugin = trainer.precision_plugin
    precisions = pl.plugins.precision
    way_out = f"Use precision={', '.join(map(repr, _SUPPORTED[:-1]))} or {_SUPPORTED[-1]!r}."
    if trainer.precision == "16-true":
        raise UnsupportedError(
            "Trainer(precision='16-true') is not supported: float16 without a scaled loss loses small gradients to "
            f"zero and large ones to infinity. {way_out}"
        )
    known = (precisions.Precision, precisions.DoublePrecision, precisions.HalfPrecision, precisions.MixedPrecision)
    if type(plugin) not in known or trainer.precision not in _SUPPORTED:
        raise UnsupportedError(
            f"Trainer(precision={trainer.precision!r}) with {type(plugin).__name__} is not supported: it may change "
            f"gradients past the clipping. {way_out}"
        )
    if trainer.precision == "16-mixed" and plugin.scaler is None:
        raise UnsupportedError(
            "precision '16-mixed' has no gradient scaler, and float16 gradients without one vanish: leave scaler=None "
            "out of MixedPrecision, which then makes one"
        )


def fixed_loss_scale(batch_size: int) -> float:
    """Return the power of two the loss is multiplied by in float16.

    Args:
        batch_size: Most examples of a micro-batch.
    """
    return float(min(_LARGEST_SCALE, 2.0 ** math.ceil(math.log2(_OUTPUT_GRADIENT * batch_size))))


class LossScale:
    """Fixes the scale of the precision plugin's gradient scaler for one fit.

    Args:
        trainer: The trainer.
        batch_size: Most examples of a micro-batch.
    """

    def __init__(self, trainer: Any, batch_size: int) -> None:
        self._plugin = trainer.precision_plugin
        self._scaler = getattr(self._plugin, "scaler", None)
        self.value = 1.0
        """What the loss is multiplied by before backward, and the gradient divided by after it."""
        if self._scaler is not None:
            self.value = fixed_loss_scale(batch_size)

    def fix(self) -> None:
        """Put a scaler in place whose scale stays."""
        if self._scaler is not None:
            self._plugin.scaler = torch.amp.GradScaler(
                device=self._plugin.device, init_scale=self.value, growth_interval=_NEVER
            )

    def restore(self) -> None:
        """Put the user's scaler back."""
        if self._scaler is not None:
            self._plugin.scaler = self._scaler
