"""Stands guard at a parameter: a gradient that reaches it in the ordinary way was clipped by nobody.

Example:
    >>> import torch, weakref
    >>> class Step:
    ...     def discard(self):
    ...         print("discarded")
    >>> step, weight = Step(), torch.nn.Parameter(torch.ones(2))
    >>> handle = refuse_raw_gradient(weight, "weight", weakref.WeakMethod(step.discard))
    >>> weight.sum().backward()
    Traceback (most recent call last):
        ...
    lightning_privacy.errors.PrivacyViolation: parameter 'weight' received a gradient that no layer explains: ...
    >>> handle.remove()
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_privacy.errors import PrivacyViolation

__all__ = ["refuse_raw_gradient"]

Discard = weakref.WeakMethod[Callable[[], None]]


def refuse_raw_gradient(parameter: nn.Parameter, name: str, discard: Discard) -> RemovableHandle:
    """Make a backward fail in which ``parameter`` receives a gradient of its own.

    Args:
        parameter: a parameter whose layer runs on detached weights, so that none is due.
        name: its name, for the message.
        discard: called first, to drop the step; once its object is gone, so is the guard.

    Returns:
        What takes the guard off again.
    """
    handle: RemovableHandle = parameter.register_hook(  # type: ignore[no-untyped-call]
        partial(_refuse, discard, name)
    )
    return handle


def _refuse(reference: Discard, name: str, _gradient: Tensor) -> None:
    discard = reference()
    if discard is None:
        return
    discard()
    raise PrivacyViolation(
        f"parameter '{name}' received a gradient that no layer explains: it is used outside its own module's forward "
        "(for example F.linear(x, layer.weight), a parameter used directly in training_step, or a penalty on the "
        "weights in the loss). Call the layer itself, move the parameter into a module with a forward, and use the "
        "optimizer's weight_decay instead of a penalty."
    )
