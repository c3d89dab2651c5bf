"""Calls of layers, intercepted without leaving anything on the module that a copy would carry.

While attached, each layer with parameters of its own has an instance attribute ``forward``. It refers to the engine,
so a deep copy (stochastic weight averaging, an exponential moving average) or a pickle of the module must not take
it along: both put the class's own ``forward`` in its place.

Example:
    >>> import copy
    >>> from torch import nn
    >>> layer = nn.Linear(2, 2)
    >>> intercept(layer, lambda original, args, kwargs: original(*args, **kwargs))
    >>> "forward" in vars(layer), type(vars(copy.deepcopy(layer))["forward"]).__name__
    (True, 'partial')
    >>> release(layer)
    >>> "forward" in vars(layer)
    False
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.autograd import Function

__all__ = ["Handler", "grow_root", "handler_of", "has_own_forward", "intercept", "is_intercepted", "release"]

Handler = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Called as ``handler(original_forward, args, kwargs)`` in place of the layer's forward."""


class _Intercepted:
    """The instance attribute that stands for a method of an intercepted module."""

    def __init__(self, module: nn.Module, handler: Handler, method: str) -> None:
        self.module = module
        self.handler = handler
        self.method = method
        # An instance method of the user's own (a monkey-patch, a previous tool) is what "original" means then.
        self.previous = vars(module).get(method)
        self.original: Callable[..., Any] = getattr(module, method)
        # Frameworks look at the signature of what a user wrote.
        self.__wrapped__ = self.original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.handler(self.original, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # The copy of the module is in the memo before its attributes are copied.
        copied = memo.get(id(self.module), self.module)
        if self.previous is not None:
            return copy.deepcopy(self.previous, memo)
        return partial(getattr(type(self.module), self.method), copied)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.previous is not None:
            return _same, (self.previous,)
        return partial, (getattr(type(self.module), self.method), self.module)


def _same(value: Any) -> Any:
    return value


def intercept(module: nn.Module, handler: Handler, method: str = "forward") -> None:
    """Route calls of a method of ``module`` through ``handler`` until :func:`release`.

    Args:
        module: the layer.
        handler: see :data:`Handler`.
        method: name of the method.
    """
    vars(module)[method] = _Intercepted(module, handler, method)


def is_intercepted(module: nn.Module) -> bool:
    """Return whether calls of ``module`` go through a handler."""
    return isinstance(vars(module).get("forward"), _Intercepted)


def handler_of(module: nn.Module) -> Handler | None:
    """Return what calls of ``module`` go through, or None."""
    intercepted = vars(module).get("forward")
    return intercepted.handler if isinstance(intercepted, _Intercepted) else None


def has_own_forward(module: nn.Module) -> bool:
    """Return whether somebody replaced ``forward`` on this instance; interception, and what a copy has of it, aside."""
    own = vars(module).get("forward")
    if isinstance(own, _Intercepted):
        own = own.previous
    if isinstance(own, partial) and own.func is type(module).forward and own.args == (module,):
        return False
    return own is not None


def release(module: nn.Module) -> None:
    """Undo :func:`intercept`; does nothing to a module that is not intercepted."""
    attributes = vars(module)
    for method, intercepted in list(attributes.items()):
        if not isinstance(intercepted, _Intercepted):
            continue
        if intercepted.previous is None:
            del attributes[method]
        else:
            attributes[method] = intercepted.previous


class _Root(Function):
    """Makes an output computed from detached tensors part of the graph, in place and without arithmetic."""

    @staticmethod
    def forward(ctx: Any, _root: Tensor, output: Tensor) -> Tensor:
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(_ctx: Any, *_gradients: Any) -> tuple[None, None]:
        return None, None


def grow_root(root: Tensor, output: Tensor) -> Tensor:
    """Return ``output`` with ``root`` (a leaf that requires grad) as its only ancestor.

    The first layers of a network see inputs without gradients; with detached weights nothing would make backward
    visit them.

    Args:
        root: scalar leaf that requires grad; it never receives a gradient.
        output: a floating point tensor that does not require grad and is not a view.
    """
    grown: Tensor = _Root.apply(root, output)
    return grown
