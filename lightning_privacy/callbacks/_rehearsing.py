"""A copy of a LightningModule that rehearses a training step: it logs nothing, and its optimizers do not step.

Example:
    >>> from torch import nn
    >>> from torch.optim import SGD
    >>> layer = nn.Linear(2, 1)
    >>> before = layer.weight.clone()
    >>> optimizer = StandingOptimizer(SGD(layer.parameters(), lr=0.1), {})
    >>> layer(torch.ones(1, 2)).sum().backward()
    >>> optimizer.step(), bool((layer.weight == before).all()), optimizer.param_groups[0]["lr"]
    (None, True, 0.1)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from lightning_privacy._lightning import DummyLogger, LightningModule
from lightning_privacy.callbacks._step_wrap import carry_training_step
from lightning_privacy.errors import ConfigurationError, UnsupportedError

__all__ = ["Rehearsing", "StandingOptimizer", "rehearsing_copy"]


class StandingOptimizer(Optimizer):
    """An optimizer's parameter groups, without its steps.

    Args:
        original: the optimizer it stands in for.
        counterparts: parameters to hold in place of the original's, by their ``id``.
    """

    def __init__(self, original: Optimizer, counterparts: Mapping[int, Tensor]) -> None:
        groups = [
            {**group, "params": [counterparts.get(id(p), p) for p in group["params"]]}
            for group in original.param_groups
        ]
        super().__init__(groups, dict(original.defaults))

    @property
    def optimizer(self) -> StandingOptimizer:
        """Itself, where Lightning's wrapper has the wrapped one."""
        return self

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Evaluate the closure, and change nothing."""
        return None if closure is None else closure()

    @contextmanager
    def toggle_model(self, sync_grad: bool = True) -> Iterator[None]:
        """Do nothing else than let the block run; see ``LightningOptimizer``."""
        yield


class _StandingScheduler:
    """A learning-rate scheduler that can be asked and does not move."""

    def __init__(self, original: Any) -> None:
        self._rates = [group["lr"] for group in original.optimizer.param_groups]

    def step(self, *_args: Any, **_kwargs: Any) -> None:
        """Change nothing."""

    def get_last_lr(self) -> list[Any]:
        """Return the present learning rates."""
        return list(self._rates)


class Rehearsing:
    """What a copy of a LightningModule does differently from the original."""

    _standing_optimizers: list[StandingOptimizer]
    _standing_schedulers: list[_StandingScheduler]
    _training: set[int]
    _backward: bool

    def log(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def log_dict(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def print(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    @property
    def logger(self) -> Any:
        return DummyLogger()

    @property
    def loggers(self) -> list[Any]:
        return [DummyLogger()]

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        return self._standing_optimizers[0] if len(self._standing_optimizers) == 1 else self._standing_optimizers

    def lr_schedulers(self) -> Any:
        standing = self._standing_schedulers
        return None if not standing else standing[0] if len(standing) == 1 else standing

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if self._backward:
            self.backward(loss, *args, **kwargs)  # type: ignore[attr-defined]
        for parameter in self._optimized():
            if parameter.grad is None:  # a private gradient would be there for the step to look at
                parameter.grad = torch.zeros_like(parameter)

    def toggle_optimizer(self, optimizer: Any) -> None:
        chosen = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for parameter in self._optimized():
            parameter.requires_grad_(id(parameter) in chosen and id(parameter) in self._training)

    def untoggle_optimizer(self, optimizer: Any) -> None:
        for parameter in self._optimized():
            parameter.requires_grad_(id(parameter) in self._training)

    def _optimized(self) -> list[Any]:
        groups = [group for optimizer in self._standing_optimizers for group in optimizer.param_groups]
        return [parameter for group in groups for parameter in group["params"]]

    def clip_gradients(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def all_gather(self, data: Any, group: Any = None, sync_grads: bool = False) -> Any:
        if sync_grads and self.trainer.world_size > 1:  # type: ignore[attr-defined]
            raise UnsupportedError(
                "training_step gathers tensors of all processes with their gradients (all_gather(sync_grads=True)), so "
                "that examples of one process change the gradients of another's; compute the loss of each process "
                "from its own examples"
            )
        return super().all_gather(data, group, sync_grads)  # type: ignore[misc]


def rehearsing_copy(trainer: Any, module: LightningModule, loader: DataLoader[Any]) -> LightningModule:
    """Copy a module, and have the copy leave no traces.

    Args:
        trainer: The trainer.
        module: The module.
        loader: The user's train loader.

    Returns:
        The copy.

    Raises:
        ConfigurationError: It can't be copied.
    """
    # Data are large, and a trainer is not to be had twice.
    kept = [trainer, loader, loader.dataset, getattr(trainer, "datamodule", None), *trainer.callbacks, *trainer.loggers]
    memo = {id(item): item for item in kept if item is not None}
    try:
        copied = copy.deepcopy(module, memo)
    except Exception as error:
        raise ConfigurationError(
            f"{type(module).__name__} can't be copied, which the independence probe needs so as to leave it untouched "
            f"({type(error).__name__}: {error}): give the attribute that can't be copied a __deepcopy__, or switch the "
            "probe off with DifferentialPrivacy(probe=False) and see to it yourself that no example changes what "
            "another contributes"
        ) from error
    _forget_interception(copied)
    counterparts = {id(own): other for own, other in zip(module.parameters(), copied.parameters(), strict=True)}
    optimizers = [StandingOptimizer(optimizer, counterparts) for optimizer in trainer.optimizers]
    schedulers = [_StandingScheduler(config.scheduler) for config in trainer.lr_scheduler_configs]
    for part in copied.modules():
        if isinstance(part, LightningModule):
            part.__class__ = type(type(part).__name__, (Rehearsing, type(part)), {})
            vars(part).update(
                _standing_optimizers=optimizers,
                _standing_schedulers=schedulers,
                _training={id(p) for p in copied.parameters() if p.requires_grad},
                _backward=True,
            )
    carry_training_step(module, copied)
    return copied


def _forget_interception(module: nn.Module) -> None:
    """Take off what a copy keeps of the layers' sites: a forward of its own that is that of its class."""
    for layer in module.modules():
        forward = vars(layer).get("forward")
        if forward is not None and getattr(forward, "func", None) is type(layer).forward:
            del vars(layer)["forward"]
