"""Local training of one client: the loop between receiving the global weights and sending a change of them.

Example:
    >>> import torch
    >>> from torch import nn
    >>> from lightning_privacy.federated.algorithms import Algorithm, LocalTraining
    >>> from lightning_privacy.federated.flat import FlatModel
    >>> layer = nn.Linear(1, 1, bias=False)
    >>> model = FlatModel(layer)
    >>> model.remember()
    >>> local = LocalTraining(0, 0, 4, model, torch.optim.SGD(layer.parameters(), lr=0.5))
    >>> loop = LocalLoop(lambda batch, index: (layer(batch) - 1).square().mean(), epochs=3)
    >>> mean_loss = loop.run(local, lambda epoch: iter([torch.ones(4, 1)]), Algorithm())
    >>> local.num_steps, round(layer.weight.item(), 3)
    (3, 1.0)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import repeat
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from lightning_privacy._validate import positive_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.algorithms.algorithm import Algorithm, LocalTraining

__all__ = ["LocalLoop", "check_local_work", "drop_gradients", "plain_step"]


def check_local_work(local_epochs: int | None, local_steps: int | None) -> None:
    """Raise unless one of the two is a whole number above 0 and the other None.

    Raises:
        ConfigurationError: Otherwise.
    """
    if (local_epochs is None) == (local_steps is None):
        raise ConfigurationError(
            f"give one of local_epochs and local_steps, got local_epochs={local_epochs!r} and "
            f"local_steps={local_steps!r}"
        )
    if local_epochs is not None:
        positive_int(local_epochs=local_epochs)
    if local_steps is not None:
        positive_int(local_steps=local_steps)


class LocalLoop:
    """The local loop, the same for every client.

    Args:
        loss_of: Maps (batch, number of the batch in its epoch) to the loss, a scalar; None skips the batch.
        epochs: Local epochs; or
        steps: local optimizer steps, over as many epochs as that takes.
        accumulate: Batches per optimizer step; the last step of an epoch may have fewer, as in Lightning.
        clip: Called with the optimizer before each step, when gradients are complete.
        scaler: Scales losses against underflow in half precision.

    Raises:
        ConfigurationError: Neither or both of ``epochs`` and ``steps``, or one below 1.
    """

    def __init__(
        self,
        loss_of: Callable[[Any, int], Tensor | None],
        *,
        epochs: int | None = None,
        steps: int | None = None,
        accumulate: int = 1,
        clip: Callable[[Optimizer], None] | None = None,
        scaler: GradScaler | None = None,
    ) -> None:
        check_local_work(epochs, steps)
        self.epochs = epochs
        self.steps = steps
        self.accumulate = positive_int(accumulate_grad_batches=accumulate)
        self._loss_of = loss_of
        self._clip = clip
        self._scaler = scaler

    def num_batches(self, batches_per_epoch: int) -> int:
        """Batches a client goes through, given those of its epoch: what its work is measured by."""
        if self.steps is not None:
            return self.steps * min(self.accumulate, batches_per_epoch)
        return (self.epochs or 1) * batches_per_epoch

    def num_steps(self, batches_per_epoch: int) -> int:
        """Optimizer steps a client takes in a round, given the batches of its epoch."""
        if self.steps is not None:
            return self.steps
        return (self.epochs or 1) * -(-batches_per_epoch // self.accumulate)

    def run(
        self, local: LocalTraining, epoch_of: Callable[[int], Iterable[Any]], algorithm: Algorithm
    ) -> Tensor | None:
        """Train.

        Args:
            local: The client; its ``num_steps`` counts up.
            epoch_of: Gives the batches of an epoch by its number.
            algorithm: May change gradients before a step.

        Returns:
            The mean loss over the batches, on the device; None when every batch was skipped.
        """
        losses: list[Tensor] = []
        step = plain_step(local.optimizer)
        adjusts = type(algorithm).before_step is not Algorithm.before_step
        epoch = 0
        while not self._done(local, epoch):
            index = -1
            for index, (batch, ends_step) in enumerate(self._batches(epoch_of(epoch))):
                loss = self._loss_of(batch, index)
                if loss is not None:
                    self._backward(loss)
                    losses.append(loss.detach())
                if ends_step:
                    self._step(local, algorithm if adjusts else None, step)
                    if self.steps is not None and local.num_steps >= self.steps:
                        break
            if index < 0:
                raise ConfigurationError(f"client {local.client} has no batch")
            epoch += 1
        return torch.stack(losses).mean() if losses else None

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Any]) -> float:
        """The mean loss over batches, without training; NaN when every one was skipped."""
        losses = [loss for index, batch in enumerate(batches) if (loss := self._loss_of(batch, index)) is not None]
        return float(torch.stack(losses).mean()) if losses else float("nan")

    def _batches(self, batches: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
        """Each batch with whether the optimizer steps after it."""
        if self.accumulate == 1:
            return zip(batches, repeat(True), strict=False)
        return _with_last(batches, self.accumulate)

    def _done(self, local: LocalTraining, epoch: int) -> bool:
        if self.epochs is not None:
            return epoch >= self.epochs
        return self.steps is not None and local.num_steps >= self.steps

    def _backward(self, loss: Tensor) -> None:
        if self.accumulate > 1:
            loss = loss / self.accumulate
        if self._scaler is not None:
            loss = self._scaler.scale(loss)
        loss.backward()  # type: ignore[no-untyped-call]

    def _step(self, local: LocalTraining, algorithm: Algorithm | None, step: Callable[[], object]) -> None:
        optimizer = local.optimizer
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)
        if self._clip is not None:
            self._clip(optimizer)
        if algorithm is not None:
            algorithm.before_step(local)
        if self._scaler is None:
            step()
        else:
            self._scaler.step(optimizer)
            self._scaler.update()
        drop_gradients(optimizer)
        local.num_steps += 1


def plain_step(optimizer: Optimizer) -> Callable[[], object]:
    """What ``optimizer.step()`` does, without the profiler's range around it, where nobody would notice.

    The range takes as long as a third of a small client's step. Hooks, a profiler or a ``step`` put in the place of the
    optimizer's own (by a scheduler) keep it.

    Args:
        optimizer: A client's.
    """
    own = type(optimizer).step
    hooks = (
        optimizer._optimizer_step_pre_hooks,
        optimizer._optimizer_step_post_hooks,
        _global_optimizer_pre_hooks,
        _global_optimizer_post_hooks,
    )
    noticed = "step" in vars(optimizer) or any(hooks) or torch._C._autograd._profiler_enabled()
    if noticed or not getattr(own, "hooked", False):
        return optimizer.step
    return partial(own.__wrapped__, optimizer)  # type: ignore[attr-defined]


def drop_gradients(optimizer: Optimizer) -> None:
    """What ``optimizer.zero_grad()`` does, without the profiler's range around it, which costs more than the work."""
    if type(optimizer).zero_grad is not Optimizer.zero_grad:
        optimizer.zero_grad()
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def _with_last(batches: Iterable[Any], accumulate: int) -> Iterator[tuple[Any, bool]]:
    """Each batch with whether it is the last of ``accumulate`` or of all."""
    iterator = iter(batches)
    done = object()
    batch, number = next(iterator, done), 1
    while batch is not done:
        following = next(iterator, done)
        yield batch, number % accumulate == 0 or following is done
        batch, number = following, number + 1
