"""A mode of torch in which every call of a function goes past what follows parameters.

Example:
    >>> import torch
    >>> class Telling:
    ...     rows = None
    ...     def __init__(self, parameter):
    ...         self.tracked = {id(parameter): None}
    ...
    ...     def called(self, function, args, kwargs):
    ...         print("with a parameter:", function.__name__)
    ...         return function(*args, **kwargs)
    ...
    ...     def untouched(self, function, args, kwargs):
    ...         return function(*args, **kwargs)
    >>> scale = torch.ones(2)
    >>> with FunctionMode(Telling(scale)):
    ...     total = torch.add(torch.zeros(2).exp(), scale)
    with a parameter: add
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch.overrides import TorchFunctionMode

from lightning_privacy.gradients.functional_losses import COUNTING_LOSSES, refuse_coupled_loss

__all__ = ["FunctionListener", "FunctionMode", "uncompiled"]

_NO_KEYWORDS: dict[str, Any] = {}
_SEQUENCES = frozenset({tuple, list})


class FunctionListener(Protocol):
    """What is told of the calls."""

    @property
    def tracked(self) -> Container[int]:
        """The tensors, by ``id``, that calls are searched for."""

    @property
    def rows(self) -> int | None:
        """Rows of the batch, where their number is known."""

    def called(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Stand in for a function that was called with something that is tracked."""

    def untouched(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Stand in for any other."""


class FunctionMode(TorchFunctionMode):
    """Sees every call of a function of torch; most have nothing to do with parameters and must cost little."""

    def __init__(self, owner: FunctionListener) -> None:
        super().__init__()
        self._owner = owner

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        owner = self._owner
        tracked = owner.tracked
        kwargs = kwargs or _NO_KEYWORDS
        if func in COUNTING_LOSSES and torch.is_grad_enabled():
            refuse_coupled_loss(func, args, kwargs, rows=owner.rows)
        for value in args:
            if id(value) in tracked or (type(value) in _SEQUENCES and any(id(item) in tracked for item in value)):
                return owner.called(func, args, kwargs)
        for value in kwargs.values():
            if id(value) in tracked or (type(value) in _SEQUENCES and any(id(item) in tracked for item in value)):
                return owner.called(func, args, kwargs)
        return owner.untouched(func, args, kwargs)


def uncompiled() -> AbstractContextManager[object]:
    """Return a context in which compiled functions run as they were written; a compiled graph can't be followed."""
    # What nobody has imported has compiled nothing.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
