"""Stands before every optimizer: no step on a gradient that is not the private one.

Example:
    >>> import torch
    >>> from lightning_privacy.gradients.engine import PrivateGradients
    >>> from lightning_privacy.mechanisms.noise import NoiseSource
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> engine = PrivateGradients(
    ...     model, max_grad_norm=1.0, noise_multiplier=1.0, expected_batch_size=4, noise=NoiseSource()
    ... )
    >>> engine.attach()
    >>> guard = StepGuard(engine)
    >>> guard.watch([optimizer])
    >>> optimizer.step()
    Traceback (most recent call last):
        ...
    lightning_privacy.errors.PrivacyViolation: SGD was about to step on a gradient that is not ...
    >>> guard.remove()
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_privacy.errors import PrivacyViolation
from lightning_privacy.gradients.engine import PrivateGradients

__all__ = ["StepGuard"]


class StepGuard:
    """Checks before each step of the optimizers that what they step on is private, and was not used before.

    Lightning hands an optimizer a closure that runs forward and backward inside ``step``; the check comes
    after that closure. The optimizers themselves stay what they are: subclass, state and schedulers.

    Args:
        engine: Where private gradients come from.
    """

    def __init__(self, engine: PrivateGradients) -> None:
        self._engine = engine
        self._handles: list[RemovableHandle] = []
        self._watched: list[Optimizer] = []
        self._used: set[int] = set()
        self._used_release = 0

    def watch(self, optimizers: Iterable[Optimizer]) -> None:
        """Check every step these optimizers take, until :meth:`remove`; those watched already are left alone."""
        for optimizer in optimizers:
            if not any(optimizer is known for known in self._watched):
                self._watched.append(optimizer)
                self._handles.append(optimizer.register_step_pre_hook(self._before_step))
                self._handles.append(optimizer.register_step_post_hook(self._after_step))

    def remove(self) -> None:
        """Take the checks off again; does nothing the second time."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._watched.clear()
        self._used.clear()

    def check_backward(self) -> None:
        """Raise where the batch at hand had no backward.

        Raises:
            PrivacyViolation: A backward is still expected.
        """
        if self._engine.pending:
            raise PrivacyViolation(
                "no backward happened for this batch: training_step returned None, or a loss that depends "
                "on no parameter. Skipping a batch because of its content is a release that nobody accounts "
                "for; return a loss for every batch."
            )

    @property
    def stepped(self) -> bool:
        """Whether an optimizer has stepped on the last private gradient."""
        return self._used_release == self._engine.released and bool(self._used)

    def check(self, optimizer: Optimizer) -> None:
        """Raise unless ``optimizer`` may step now.

        Raises:
            PrivacyViolation: No private gradient was made for this step, it was replaced, or the optimizer
                holds a parameter that is not the module's.
        """
        name = type(optimizer).__name__
        engine = self._engine
        held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for parameter in held:
            if not engine.knows(parameter):
                raise PrivacyViolation(
                    f"{name} holds a tensor of shape {tuple(parameter.shape)} that is no parameter of "
                    "the module: its gradient is not private. Register it in a submodule before "
                    "training starts."
                )
        private = {id(parameter) for parameter in held if not engine.is_public(parameter)}
        if not private:
            return
        self.check_backward()
        if self._used_release != engine.released:
            self._used, self._used_release = set(), engine.released
        if not engine.is_private() or private & self._used:
            raise PrivacyViolation(
                f"{name} was about to step on a gradient that is not the private one: p.grad was assigned "
                "anew, or the same gradient was used twice. Change gradients in place (p.grad.mul_(...)), "
                "and step once."
            )

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        # args[0] is the optimizer itself; a closure comes second or by name.
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self.check(optimizer)
            return None
        checked = self._checked(closure, optimizer)
        if "closure" in kwargs:
            return args, {**kwargs, "closure": checked}
        return (args[0], checked, *args[2:]), kwargs

    def _checked(self, closure: Callable[[], Any], optimizer: Optimizer) -> Callable[[], Any]:
        def run() -> Any:
            result = closure()
            self.check(optimizer)
            return result if shown is None else next(shown)

        # The loss is a function of the private data without noise. Torch's own optimizers hand it on, unread, but
        # L-BFGS, which ends its search where it stops to change: it gets numbers that fall for ever, and decides by
        # the private gradient alone. Others may set their step by it: they get no number at all.
        shown: Iterator[float] | None = None
        if isinstance(optimizer, torch.optim.LBFGS):
            shown = itertools.count(0.0, -1.0)
        elif not type(optimizer).__module__.startswith("torch.optim."):
            shown = itertools.repeat(float("nan"))
        return run

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._used.update(id(parameter) for group in optimizer.param_groups for parameter in group["params"])
