"""A client of a Flower federation: made once, it trains and evaluates for as many messages as its process gets."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_privacy._lightning import LightningDataModule, LightningModule
from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.federated.algorithms import Algorithm, LocalTraining
from lightning_privacy.federated.batches import batch_source
from lightning_privacy.federated.client_clipping import clip_delta
from lightning_privacy.federated.contexts import ClientContext
from lightning_privacy.federated.flower_records import put_tensors
from lightning_privacy.federated.keyed import generator, kept_randomness, seed_client
from lightning_privacy.federated.local import LocalLoop
from lightning_privacy.federated.update import ClientUpdate
from lightning_privacy.strategies._clients import SiloClients, _check_sampler
from lightning_privacy.strategies._federated_checks import check_module, check_prepared
from lightning_privacy.strategies._flower_module import (
    LogCollector,
    UntrainedStep,
    client_optimizer,
    clip_of,
    size_of,
    without_trainer,
)
from lightning_privacy.strategies._flower_settings import FlowerSettings

__all__ = ["ClientOptions", "ClientReply", "FlowerClient", "Task"]

_VOTES = "votes"


@dataclass(frozen=True)
class ClientOptions:
    """How a client's steps are made; what a trainer would be told.

    Args:
        accumulate_grad_batches: Batches of an optimizer step.
        gradient_clip_val: Bound of a step's gradients; None for none.
        gradient_clip_algorithm: ``"norm"`` or ``"value"``.
        device: Where the client trains; None for the accelerator, or the CPU where there is none.
    """

    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: str | None = None
    device: str | torch.device | None = None

    def place(self) -> torch.device:
        """The device."""
        if self.device is not None:
            return torch.device(self.device)
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


@dataclass(frozen=True)
class Task:
    """What a server asks of a client in a round.

    Args:
        round_number: From 0.
        client: Number of the client, from 0; it keys everything random.
        fingerprint: The server's settings.
        max_delta_norm: With client privacy, the clipping norm of this round.
    """

    round_number: int
    client: int
    fingerprint: str
    max_delta_norm: float | None = None


@dataclass
class ClientReply:
    """What a client sends.

    Args:
        tensors: The delta, by the name ``delta``; nothing after a failure or an evaluation.
        increments: Of the model's counters.
        metrics: Figures by name. With client privacy the client's vote and nothing else.
        failure: Why there is no update; None where there is one.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    increments: list[float] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    failure: str | None = None


class FlowerClient:
    """Trains a module on one silo's data, round after round, without a Trainer.

    Args:
        module: The user's; trained in place.
        data: A DataModule, a train loader, or train and validation loader.
        settings: Of the federation.
        options: Of this client.

    Raises:
        ConfigurationError: There is no train loader, or it has no batch.
        UnsupportedError: The module or the loader needs what only a trainer has.
    """

    def __init__(self, module: LightningModule, data: Any, settings: FlowerSettings, options: ClientOptions) -> None:
        check_module(module)
        self._settings = settings
        self._module = module
        self._datamodule = data if isinstance(data, LightningDataModule) else None
        check_prepared(self._datamodule, settings.plan)
        self._loader, self._validation = _loaders(data)
        check_prepared(getattr(self._loader, "dataset", None), settings.plan)
        device = options.place()
        with without_trainer(module):
            module.prepare_data()
            module.setup("fit")
            module.configure_model()
        module.to(device)
        self._collector = LogCollector(module)
        step = UntrainedStep(module, self._datamodule, "training_step", device, self._collector)
        self._loop = LocalLoop(
            step,
            epochs=settings.local_epochs,
            steps=settings.local_steps,
            accumulate=options.accumulate_grad_batches,
            clip=clip_of(module, options.gradient_clip_val, options.gradient_clip_algorithm),
        )
        self._device = device
        self._model = settings.flat_model(module)
        self._source = batch_source(self._loader) if _keyed(self._loader) else None
        self.num_examples = SiloClients.sizes_of(self._loader)[0]
        if self.num_examples == 0:
            raise ConfigurationError(
                "the train loader of this client has no example; a client without data can't train"
            )
        settings.plan.algorithm.begin(self._model, 1)

    def train(self, weights: Mapping[str, Tensor], task: Task, memory: dict[str, Tensor]) -> ClientReply:
        """Train from the weights of a round.

        Args:
            weights: The global model's parameters and buffers by name.
            task: What the server asks.
            memory: What the client keeps from round to round; changed in place.

        Raises:
            ConfigurationError: The server has other settings or another model.
        """
        self._check(task)
        plan, model = self._settings.plan, self._model
        began = time.perf_counter()
        self._module.train()
        put_tensors(self._module, weights)
        model.remember()
        optimizer = client_optimizer(self._module, task.round_number // self._settings.rounds_per_epoch)
        local = LocalTraining(task.client, task.round_number, self.num_examples, model, optimizer, memory)

        def epoch_of(epoch: int) -> Iterator[Any]:
            return iter(self._epoch(task, epoch))

        def train_again(algorithm: Algorithm) -> float | None:
            again = LocalTraining(
                task.client,
                task.round_number,
                self.num_examples,
                model,
                client_optimizer(self._module, task.round_number // self._settings.rounds_per_epoch),
            )
            found = self._loop.run(again, epoch_of, algorithm)
            return None if found is None else float(found)

        local.train_again = train_again
        with kept_randomness(), torch.enable_grad():
            seed_client(plan.seed, task.round_number, task.client)
            optimizer.zero_grad()
            plan.algorithm.before_client(local)
            loss = self._loop.run(local, epoch_of, plan.algorithm)
            update = ClientUpdate(task.client, model.delta(), num_examples=self.num_examples, num_steps=local.num_steps)
            increments = model.increments()
            plan.algorithm.after_client(local, update)
            context = ClientContext(plan.seed, task.round_number, task.client, self.num_examples, memory=memory)
            for transform in plan.transforms:
                update.delta = transform.on_client(update.delta, context)
        logged = self._collector.means()
        if not update.is_finite():
            return ClientReply(failure="its update is not finite")
        if task.max_delta_norm is not None:
            # The last step of all, and nothing that is not bounded goes with it: no losses, no numbers of examples.
            clipped, vote = clip_delta(update.delta, task.max_delta_norm)
            return ClientReply({"delta": clipped}, [], {_VOTES: float(vote)})
        metrics = {f"logged/{name}": value for name, value in logged.items()} | {
            "loss": math.nan if loss is None else float(loss),
            "num_examples": float(self.num_examples),
            "num_steps": float(update.num_steps),
            "seconds": time.perf_counter() - began,
            **{name: float(value) for name, value in context.log.items()},
        }
        return ClientReply({"delta": update.delta}, increments, metrics)

    @torch.no_grad()
    def evaluate(self, weights: Mapping[str, Tensor], task: Task) -> ClientReply:
        """What ``validation_step`` logs of the global model on this client's validation data.

        Args:
            weights: The global model's parameters and buffers by name.
            task: What the server asks.

        Raises:
            ConfigurationError: There is no validation loader, or the server has other settings or another model.
        """
        self._check(task)
        if self._validation is None:
            raise ConfigurationError(
                "this client has no validation loader: give a DataModule with val_dataloader, or a pair of loaders; or "
                "set evaluate=False in server_app"
            )
        put_tensors(self._module, weights)
        self._module.eval()
        step = UntrainedStep(self._module, self._datamodule, "validation_step", self._device, self._collector)
        self._collector.means()
        examples = 0
        with kept_randomness():
            seed_client(self._settings.plan.seed, task.round_number, task.client)
            for index, batch in enumerate(self._validation):
                step.output(batch, index)
                examples += size_of(batch)
        return ClientReply(metrics=self._collector.means() | {"num_examples": float(examples)})

    def _check(self, task: Task) -> None:
        if task.fingerprint != self._settings.fingerprint:
            raise ConfigurationError(
                f"the server runs with other settings than this client: {task.fingerprint} there, "
                f"{self._settings.fingerprint} here; give both apps the same FederatedStrategy"
            )
        if (task.max_delta_norm is None) != (self._settings.plan.privacy is None):
            raise ConfigurationError("client privacy is on at one side of the federation only")

    def _epoch(self, task: Task, epoch: int) -> Iterable[Any]:
        """Batches of a local epoch: in an order of our own where the loader only shuffles, else as it gives them."""
        if self._source is None:
            loader: Iterable[Any] = self._loader
            return loader
        order = generator(self._settings.plan.seed, "order", task.round_number, task.client, epoch)
        return self._source.epoch(np.arange(self.num_examples), order)


def _keyed(loader: Any) -> bool:
    """Whether a loader goes over its examples once in any order, so that a keyed order may take its place."""
    try:
        _check_sampler(loader)
    except (UnsupportedError, AttributeError):
        return False
    return isinstance(loader, DataLoader) and isinstance(loader.dataset, Sized)


def _loaders(data: Any) -> tuple[Any, Any]:
    """Train and validation loader; None for the latter where there is none."""
    if isinstance(data, LightningDataModule):
        data.prepare_data()
        data.setup("fit")
        kind = type(data)
        if kind.train_dataloader is LightningDataModule.train_dataloader:
            raise ConfigurationError(
                f"{kind.__name__} has no train_dataloader, so a client has nothing to train on; define it"
            )
        own = kind.val_dataloader is not LightningDataModule.val_dataloader
        train, validation = data.train_dataloader(), data.val_dataloader() if own else None
    else:
        train, validation = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    if train is None or not hasattr(train, "__iter__"):
        raise ConfigurationError(
            f"a client's data must be a LightningDataModule with train_dataloader, a loader, or a pair (train loader, "
            f"validation loader), got a train loader of type {type(train).__name__}"
        )
    if isinstance(validation, list | tuple) and not isinstance(validation, DataLoader):
        raise UnsupportedError(f"val_dataloader gives {len(validation)} loaders; a Flower client evaluates on one")
    return train, validation
