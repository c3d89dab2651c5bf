"""Trains the clients of one process in a round several at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from typing_extensions import override

from lightning_privacy._lightning import LightningModule, Trainer
from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.federated.algorithms import LocalTraining
from lightning_privacy.federated.flat import copy_all
from lightning_privacy.federated.secure_tally import SecureTally
from lightning_privacy.federated.stacked_local import StackedLoop
from lightning_privacy.federated.tally import Tally
from lightning_privacy.strategies._client_step import gradient_clip
from lightning_privacy.strategies._client_trainer import ClientTrainer, Started, Trained
from lightning_privacy.strategies._local_settings import LocalSettings
from lightning_privacy.strategies._round_result import ClientReport
from lightning_privacy.strategies._stacked_step import StackedStep

__all__ = ["VectorizedTrainer"]


class VectorizedTrainer(ClientTrainer):
    """As :class:`ClientTrainer`; the local steps of ``plan.vectorize`` clients are taken at once.

    A client whose data can't be loaded has failed, as ever. An error in the step itself is one of all clients that
    train at once, and ends the fit.

    Args:
        *args: As for ClientTrainer.
        trainer: The trainer.
        module: The user's.
        settings: Of a client's steps.

    Raises:
        UnsupportedError: Something needs the clients one after the other.
    """

    def __init__(self, *args: Any, trainer: Trainer, module: LightningModule, settings: LocalSettings) -> None:
        super().__init__(*args)
        if settings.accumulate_grad_batches != 1:
            raise UnsupportedError(
                f"vectorize with Trainer(accumulate_grad_batches={settings.accumulate_grad_batches}): the clients of a "
                "stack end their epochs at different batches; make the batch larger, or set vectorize=False"
            )
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise UnsupportedError(
                f"vectorize with precision={trainer.precision!r}: one loss scale would be for all clients of a stack; "
                "use 'bf16-mixed' or 32, or set vectorize=False"
            )
        self._module = module
        self._step = StackedStep(trainer, module)
        self._stacked = StackedLoop(
            module,
            self.optimizer,
            self._step,
            stack=self._step.stack,
            seen=self._step.seen,
            clip=gradient_clip(module, settings.gradient_clip_val, settings.gradient_clip_algorithm),
        )

    @override
    def _train_all(
        self, cohort: Sequence[int], round_number: int, tally: Tally | SecureTally, trained: Trained
    ) -> None:
        for first in range(0, len(cohort), self.plan.vectorize):
            self._train_stack(cohort[first : first + self.plan.vectorize], round_number, tally, trained)

    def _train_stack(
        self, clients: Sequence[int], round_number: int, tally: Tally | SecureTally, trained: Trained
    ) -> None:
        started: list[Started] = []
        batches: list[list[tuple[int, Any]]] = []
        weights: list[list[Tensor]] = []
        for client in clients:
            report = ClientReport(client, self.clients.num_examples(client))
            trained.reports.append(report)
            with self.attempt(report, trained):
                begun = self.start(client, round_number, report)
                if begun is not None:
                    batches.append(self._batches(begun.local))
                    weights.append([p.detach().clone() for p in self._stacked.parameters])
                    started.append(begun)
        if not started:
            return
        began = time.perf_counter()
        self._step.forget()
        result = self._stacked.run([each.local for each in started], batches, weights, self.plan.algorithm)
        share = (time.perf_counter() - began) / len(started)
        for place, begun in enumerate(started):
            begun.began = time.perf_counter() - share
            with self.attempt(begun.report, trained):
                copy_all(self._stacked.parameters, result.weights[place])
                self._step.log(place, batches[place], self._module.log)
                self.finish(begun, result.losses[place], tally)
                trained.touched.append(begun.report.client)

    def _batches(self, local: LocalTraining) -> list[tuple[int, Any]]:
        """The batches of a client's local training with their numbers; fetched while its generators are seeded."""
        found: list[tuple[int, Any]] = []
        epoch = 0
        while True:
            before = len(found)
            for index, batch in enumerate(self.epoch(local, epoch)):
                found.append((index, batch))
                if self.loop.steps is not None and len(found) == self.loop.steps:
                    return found
            if len(found) == before:
                raise ConfigurationError(f"client {local.client} has no batch")
            epoch += 1
            if self.loop.epochs is not None and epoch == self.loop.epochs:
                return found
