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
    >>> local.num_steps, round(float(layer.weight), 3)
    (3, 1.0)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from lightning_privacy._validate import positive_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.algorithms.algorithm import Algorithm, LocalTraining

__all__ = ["LocalLoop", "check_local_work"]


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
        clip: Callable[[torch.optim.Optimizer], None] | None = None,
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

    def run(
        self, local: LocalTraining, epoch_of: Callable[[int], Iterator[Any]], algorithm: Algorithm
    ) -> Tensor | None:
        """Train.

        Args:
            local: The client; its ``num_steps`` counts up.
            epoch_of: Gives the batches of an epoch by its number.
            algorithm: May change gradients before a step.

        Returns:
            The mean loss over the batches, on the device; None when every batch was skipped.
        """
        total: Tensor | None = None
        seen = epoch = 0
        while not self._done(local, epoch):
            batches = 0
            for index, (batch, is_last) in enumerate(_with_last(epoch_of(epoch))):
                batches += 1
                loss = self._loss_of(batch, index)
                if loss is not None:
                    self._backward(loss)
                    total = loss.detach() if total is None else total + loss.detach()
                    seen += 1
                if (index + 1) % self.accumulate == 0 or is_last:
                    self._step(local, algorithm)
                    if self.steps is not None and local.num_steps >= self.steps:
                        break
            if batches == 0:
                raise ConfigurationError(f"client {local.client} has no batch")
            epoch += 1
        return None if total is None else total / seen

    @torch.no_grad()
    def evaluate(self, batches: Iterator[Any]) -> float:
        """The mean loss over batches, without training; NaN when every one was skipped."""
        losses = [loss for index, batch in enumerate(batches) if (loss := self._loss_of(batch, index)) is not None]
        return float(torch.stack(losses).mean()) if losses else float("nan")

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

    def _step(self, local: LocalTraining, algorithm: Algorithm) -> None:
        optimizer = local.optimizer
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)
        if self._clip is not None:
            self._clip(optimizer)
        algorithm.before_step(local)
        if self._scaler is None:
            optimizer.step()
        else:
            self._scaler.step(optimizer)
            self._scaler.update()
        optimizer.zero_grad()
        local.num_steps += 1


def _with_last(batches: Iterator[Any]) -> Iterator[tuple[Any, bool]]:
    """Each batch with whether it is the last."""
    pending: list[Any] = []
    for batch in batches:
        if pending:
            yield pending.pop(), False
        pending.append(batch)
    if pending:
        yield pending.pop(), True
