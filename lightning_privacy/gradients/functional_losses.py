"""Losses of torch whose mean is divided by a count of the batch, wherever a training step calls them.

Example:
    >>> import torch
    >>> from torch.nn import functional as F
    >>> arguments = torch.randn(3, 2), torch.tensor([0, 1, 1]), torch.ones(2)
    >>> refuse_coupled_loss(F.cross_entropy, arguments, {}, rows=3)
    Traceback (most recent call last):
        ...
    lightning_privacy.errors.UnsupportedError: cross_entropy with weight and reduction='mean' divides by ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_privacy.errors import UnsupportedError

__all__ = ["COUNTING_LOSSES", "refuse_coupled_loss"]

COUNTING_LOSSES: frozenset[Callable[..., Any]] = frozenset({F.cross_entropy, F.nll_loss})
"""Those that divide their mean by the weights, or the number, of the targets that count."""

_SIGNATURES = {loss: inspect.signature(loss) for loss in COUNTING_LOSSES}


def refuse_coupled_loss(
    loss: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, rows: int | None
) -> None:
    """Refuse a call in which one example changes the divisor of all.

    Args:
        loss: one of :data:`COUNTING_LOSSES`.
        args: its positional arguments.
        kwargs: its keyword arguments.
        rows: examples of the batch, if that is known.

    Raises:
        UnsupportedError: it averages, and has weights or, in some examples more than in others, ignored targets.
    """
    call = _SIGNATURES[loss].bind(*args, **kwargs)
    call.apply_defaults()
    given = call.arguments
    averages = given["reduction"] == "mean" and given["reduce"] is None and given["size_average"] is None
    target = given["target"]
    if not averages or target.is_floating_point() or torch.compiler.is_compiling():
        return  # probabilities are divided by the number of examples, whatever their weights
    if given["weight"] is not None:
        cause = "weight and reduction='mean' divides by the weights of the classes in the batch"
    elif _ignores_unevenly(target == given["ignore_index"], rows):
        cause = "ignored targets and reduction='mean' divides by the number of the others in the batch"
    else:
        return
    raise UnsupportedError(
        f"{loss.__name__} with {cause}, so one example changes what the others contribute; use reduction='none' and "
        "average over the examples: loss(..., reduction='none').mean(), which gives ignored targets 0"
    )


def _ignores_unevenly(ignored: Tensor, rows: int | None) -> bool:
    """Return whether the examples differ in how many of their targets are ignored."""
    if not bool(ignored.any()):
        return False
    if not rows or ignored.numel() % rows:
        return True
    # As many in each, such as the last token of every text, leave the divisor to the number of examples.
    counts = ignored.reshape(rows, -1).sum(1)
    return bool((counts != counts[0]).any())
