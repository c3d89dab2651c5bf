"""Local training of one client by DP-SGD: Poisson draws of its own examples, clipped and noisy gradients.

Example:
    >>> import torch
    >>> from torch import nn
    >>> from lightning_privacy.federated.algorithms import Algorithm, LocalTraining
    >>> from lightning_privacy.federated.example_privacy import ExamplePrivacy
    >>> from lightning_privacy.federated.flat import FlatModel
    >>> layer, data = nn.Linear(1, 1), torch.ones(8, 1)
    >>> model, privacy = FlatModel(layer), ExamplePrivacy(delta=1e-3, noise_multiplier=1.0)
    >>> privacy.plan([8], batch_size=4, steps=[2])
    >>> loop = PrivateLocalLoop(lambda batch, index: layer(batch).mean(), layer, privacy, most_rows=4, trainings=1)
    >>> privacy.charge([0])
    >>> local = LocalTraining(0, 0, 8, model, torch.optim.SGD(layer.parameters(), lr=0.1))
    >>> with loop.attached():
    ...     _ = loop.run(local, lambda chosen: (data[rows] for rows in chosen), Algorithm())
    >>> local.num_steps, privacy.ledger(0).history[0][1]
    (2, 2)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_privacy._validate import positive_int
from lightning_privacy.errors import PrivacyViolation, UnsupportedError
from lightning_privacy.federated.algorithms.algorithm import Algorithm, LocalTraining
from lightning_privacy.federated.example_privacy import ExamplePrivacy
from lightning_privacy.federated.local import drop_gradients
from lightning_privacy.gradients import PrivateGradients
from lightning_privacy.gradients.buffer_watch import BufferWatch
from lightning_privacy.gradients.layout import Layouts

__all__ = ["PrivateLocalLoop"]


class PrivateLocalLoop:
    """The local loop of clients whose examples are private, the same for every client.

    Args:
        loss_of: Maps (batch, its number in the local training) to the loss, a mean over the examples of the batch.
        module: Whose gradients are made private.
        privacy: Says which examples a step has, and knows what was paid for.
        most_rows: A draw with more examples goes through the module in several batches.
        trainings: How often an algorithm runs this loop for a client in a round.
        clip: Called with the optimizer before each step, when gradients are private.

    Raises:
        UnsupportedError: The module has a layer that mixes examples, such as BatchNorm, or one without a rule.
    """

    def __init__(
        self,
        loss_of: Callable[[Any, int], Tensor | None],
        module: nn.Module,
        privacy: ExamplePrivacy,
        *,
        most_rows: int,
        trainings: int,
        clip: Callable[[Optimizer], None] | None = None,
    ) -> None:
        self._loss_of = loss_of
        self._module = module
        self._privacy = privacy
        self._most_rows = positive_int(most_rows=most_rows)
        self._trainings = positive_int(trainings=trainings)
        self._clip = clip
        self._engine = PrivateGradients(
            module,
            max_grad_norm=1.0,  # the policy knows better
            noise_multiplier=privacy.noise_multiplier,
            expected_batch_size=1.0,  # set for each client
            clipping=privacy.clipping,
            noise=privacy.noise,
        )

    def use_layouts(self, layouts: Layouts) -> None:
        """Say where the examples are in the outputs of the layers, as the probe found it."""
        self._engine.use_layouts(layouts)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Have the module's gradients private in the block, and as they were after it."""
        self._engine.attach()
        try:
            yield
        finally:
            self._engine.detach()

    def run(
        self, local: LocalTraining, batches_of: Callable[[Sequence[Tensor]], Iterable[Any]], algorithm: Algorithm
    ) -> Tensor | None:
        """Train a client for the steps that were paid for it; inside :meth:`attached`.

        Args:
            local: The client; its ``num_steps`` counts up.
            batches_of: Gives batches of the client's data, by positions in it.
            algorithm: May change gradients, in place, before a step.

        Returns:
            The mean loss over the batches, on the device and without noise; None when every draw was empty.

        Raises:
            PrivacyViolation: A step was not paid for, or something stepped on a gradient that is not private.
            UnsupportedError: ``training_step`` left a batch out or changed a buffer.
        """
        privacy, client, engine = self._privacy, local.client, self._engine
        engine.discard()
        engine.expected_batch_size = privacy.expected_batch_size(client)
        watch = BufferWatch(self._module)
        numbers = [privacy.begin_step(client) for _ in range(privacy.steps(client) // self._trainings)]
        draws = [torch.split(torch.from_numpy(privacy.draw(client, number)), self._most_rows) for number in numbers]
        batches = iter(batches_of([rows for draw in draws for rows in draw if len(rows)]))
        losses: list[Tensor] = []
        index = 0
        for number, draw in zip(numbers, draws, strict=True):
            step = privacy.noise_step(client, number)
            rows_of = [len(rows) for rows in draw if len(rows)]
            if not rows_of:
                engine.release_noise(step=step)  # leaving it out would tell that the draw was empty
            for place, rows in enumerate(rows_of, start=1):
                engine.arm(batch_size=rows, step=step, closes_step=place == len(rows_of))
                loss = self._loss_of(next(batches), index)
                if loss is None:
                    raise UnsupportedError(
                        "training_step returned None: which batches are left out would depend on private examples; "
                        "return a loss for every batch"
                    )
                loss.backward()  # type: ignore[no-untyped-call]
                losses.append(loss.detach())
                index += 1
            _refuse_changed(watch)
            self._step(local, algorithm)
        return torch.stack(losses).mean() if losses else None

    def _step(self, local: LocalTraining, algorithm: Algorithm) -> None:
        if self._clip is not None:
            self._clip(local.optimizer)
        algorithm.before_step(local)
        if not self._engine.is_private():
            raise PrivacyViolation(
                f"client {local.client} was about to step on something else than its private gradient: change p.grad "
                "in place only, and call backward once, on the loss that training_step returns"
            )
        local.optimizer.step()
        self._engine.consume()
        drop_gradients(local.optimizer)
        local.num_steps += 1


def _refuse_changed(watch: BufferWatch) -> None:
    """Refuse buffers and frozen parameters that took something of the examples."""
    for name in watch.changed():
        raise UnsupportedError(
            f"'{name}', which no gradient trains, changed in a local step: what it takes from the examples is neither "
            "bounded nor noised, and would be sent to the server. Keep data out of it, or use a layer without running "
            "statistics (GroupNorm, LayerNorm)"
        )
