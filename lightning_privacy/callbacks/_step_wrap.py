"""Takes the output of a module's ``training_step`` and returns another in its place, for the time of a fit.

The wrap is an instance attribute. A deep copy or a pickle of the module (weight averaging, spawned processes) has the
class's own step in its place, so that it never trains by the objective of a callback it doesn't have.

Example:
    >>> import copy
    >>> from lightning_privacy._lightning import LightningModule
    >>> class Module(LightningModule):
    ...     def training_step(self, batch, batch_idx):
    ...         return batch
    >>> module = Module()
    >>> wrap_training_step(module, lambda module, batch, output: output + 1)
    >>> module.training_step(1, 0), copy.deepcopy(module).training_step(1, 0)
    (2, 1)
    >>> unwrap_training_step(module)
    >>> module.training_step(1, 0)
    1
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from lightning_privacy._lightning import LightningModule
from lightning_privacy.errors import ConfigurationError

__all__ = ["carry_training_step", "unwrap_training_step", "wrap_training_step"]

Transform = Callable[[Any, Any, Any], Any]
"""Called with module, batch and the output of the module's own step; returns the output that Lightning sees."""

_STEP = "training_step"


class _WrappedStep:
    """The instance attribute that stands for a module's training step."""

    def __init__(self, module: LightningModule, transform: Transform, *, rehearses: bool = False) -> None:
        self.module = module
        self.rehearses = rehearses
        self.transform = transform
        # An instance method of the user's own is what "original" means then.
        self.previous = vars(module).get(_STEP)
        self.original: Callable[..., Any] = module.training_step
        # Lightning looks at the signature of what the user wrote.
        self.__wrapped__ = self.original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        batch = args[0] if args else next(iter(kwargs.values()))
        return self.transform(self.module, batch, self.original(*args, **kwargs))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if self.rehearses:  # a rehearsal copies its module for each run, and throws the copies away
            copied = _WrappedStep.__new__(_WrappedStep)
            vars(copied).update(vars(self))
            copied.module = memo.get(id(self.module), self.module)
            copied.original = copied.__wrapped__ = partial(type(copied.module).training_step, copied.module)
            return copied
        if self.previous is not None:
            return copy.deepcopy(self.previous, memo)
        # The copy of the module is in the memo before its attributes are copied.
        return partial(type(self.module).training_step, memo.get(id(self.module), self.module))

    def __reduce__(self) -> tuple[Any, ...]:
        if self.previous is not None:
            return _same, (self.previous,)
        return partial, (type(self.module).training_step, self.module)


def _same(value: Any) -> Any:
    return value


def wrap_training_step(module: LightningModule, transform: Transform) -> None:
    """Have ``transform`` change what the module's training step returns, until :func:`unwrap_training_step`.

    Args:
        module: The module.
        transform: See :data:`Transform`.

    Raises:
        ConfigurationError: Another callback does so already.
    """
    if _find(module)[0] is not None:
        raise ConfigurationError(
            "two callbacks of this trainer (GroupDRO, Reweighing, AdversarialDebiasing) change the loss that is "
            "trained, each in its own way; leave one of them out"
        )
    vars(module)[_STEP] = _WrappedStep(module, transform)


def unwrap_training_step(module: LightningModule) -> None:
    """Undo :func:`wrap_training_step`; does nothing to a module that is not wrapped."""
    wrapped, outer = _find(module)
    if wrapped is None:
        return
    if outer is not None:
        outer.previous = wrapped.previous
    elif wrapped.previous is None:
        del vars(module)[_STEP]
    else:
        vars(module)[_STEP] = wrapped.previous


def _find(module: LightningModule) -> tuple[_WrappedStep | None, Any]:
    """The wrap, and what stands before it: private gradients intercept the step too, and put back what was there."""
    outer, found = None, vars(module).get(_STEP)
    while found is not None and not isinstance(found, _WrappedStep):
        outer, found = found, getattr(found, "previous", None)
    return found, outer


def carry_training_step(module: LightningModule, copied: LightningModule) -> None:
    """Wrap a copy as its original is: for a rehearsal of the step that is going to be trained with."""
    wrapped, _ = _find(module)
    if wrapped is not None:
        vars(copied)[_STEP] = _WrappedStep(copied, wrapped.transform, rehearses=True)
