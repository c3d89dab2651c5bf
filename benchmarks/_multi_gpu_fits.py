"""Fits of one of several processes: seconds of a step or round, and what it sent.

Lightning trains, so the loader, the draw that processes agree on, the loop and its own messages are in the figures.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from _dp_networks import NETWORKS
from _federated_contenders import NETWORKS as CLIENT_NETWORKS
from _multi_gpu_clock import Clock, figures
from _multi_gpu_place import Place
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_privacy import DifferentialPrivacy
from lightning_privacy.federated import IIDPartition
from lightning_privacy.strategies import FederatedStrategy

__all__ = ["FederatedFits", "StepFits"]

_SEED = 20260701
_KEPT_ROWS = 4096  # rows of data that exist; larger sets go over them again
_CLIENTS_PER_DRAWN = 4


class _Classifier(pl.LightningModule):
    def __init__(self, network: nn.Module, rate: float) -> None:
        super().__init__()
        self.network, self.rate = network, rate

    def training_step(self, batch: Sequence[Tensor]) -> Tensor:
        logits = self.network(batch[0])
        return F.cross_entropy(logits.flatten(0, -2), batch[1].flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.rate)


class _Indices(Dataset[int]):
    """As many examples as wanted; which rows they are is decided where they are gathered."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        return index


@dataclass(frozen=True)
class StepFits:
    """Training steps of one network, with privacy and without.

    Args:
        place: where.
        steps: of a fit whose time is taken.
        warm: before them.
        rounds: fits of each kind.
        batch: examples of a step on one process; the network's by default.
        quick: tiny sizes.
    """

    place: Place
    steps: int
    warm: int
    rounds: int
    batch: int | None
    quick: bool

    def size(self, network: str) -> int:
        """Examples of a step on one process."""
        sizes = NETWORKS[network].sizes(quick=self.quick, device=self.place.device)
        return sizes.batch if self.batch is None else self.batch

    def run(self, network: str, *, scaling: str) -> dict[str, Any]:
        """Return the figures of fits without and with privacy, in turn.

        Args:
            network: a name of the table of networks.
            scaling: ``"weak"``: every process adds a batch; ``"strong"``: they share one.
        """
        processes, batch = self.place.processes, self.size(network)
        total = batch * processes if scaling == "weak" else batch - batch % processes
        clocks: dict[str, list[Clock]] = {"plain": [], "private": []}
        for _ in range(self.rounds):
            for name, found in clocks.items():
                found.append(self._fit(network, total, private=name == "private"))
        rows = {name: figures(found, total, processes, reducer=name == "plain") for name, found in clocks.items()}
        multiple = rows["private"]["milliseconds"] / rows["plain"]["milliseconds"]
        return rows | {"private_over_plain": round(multiple, 3)}

    def _fit(self, network: str, total: int, *, private: bool) -> Clock:
        torch.manual_seed(_SEED)
        entry, place = NETWORKS[network], self.place
        sizes = entry.sizes(quick=self.quick, device=place.device)
        rows = min(total * (self.steps + self.warm), _KEPT_ROWS)
        kept = entry.data(type(sizes)(rows, sizes.width, sizes.positions))
        inputs, targets = (tensor.to(place.own_device()) for tensor in kept)

        def gather(indices: Sequence[int]) -> tuple[Tensor, Tensor]:
            chosen = torch.tensor(indices, device=inputs.device) % rows
            return inputs[chosen], targets[chosen]

        loader = DataLoader(
            _Indices(total * (self.steps + self.warm)),
            # The batch of a private fit is the one of the whole step; Lightning's own is one process's.
            batch_size=total if private else total // place.processes,
            shuffle=True,
            collate_fn=gather,
        )
        clock = Clock(self.warm, place.wait)
        callbacks: list[pl.Callback] = [clock]
        if private:
            callbacks.append(DifferentialPrivacy(delta=1e-5, noise_multiplier=1.0, probe=False))
        with tempfile.TemporaryDirectory() as folder:
            trainer = place.trainer("ddp" if place.processes > 1 else "auto", callbacks, folder)
            clock.fit(trainer, _Classifier(entry.build(sizes), 1e-4), loader)
        return clock


@dataclass(frozen=True)
class FederatedFits:
    """Federated rounds of one network.

    Args:
        place: where.
        steps: rounds of a fit whose time is taken.
        warm: before them.
        rounds: fits of each kind.
        cohort: clients of a round on one process.
        examples: of a client.
        batch: of a local step.
    """

    place: Place
    steps: int
    warm: int
    rounds: int
    cohort: int
    examples: int
    batch: int

    def run(self, network: str, *, scaling: str) -> dict[str, Any]:
        """Return the figures of fits of federated averaging.

        Args:
            network: a name of the table of networks of the federated benchmark.
            scaling: ``"weak"``: every process adds clients to a round; ``"strong"``: they share one cohort.
        """
        total = self.cohort * self.place.processes if scaling == "weak" else self.cohort
        return figures([self._fit(network, total) for _ in range(self.rounds)], total, self.place.processes)

    def _fit(self, network: str, cohort: int) -> Clock:
        torch.manual_seed(_SEED)
        clients = cohort * _CLIENTS_PER_DRAWN
        count = clients * self.examples
        data = TensorDataset(torch.randn(count, 3, 32, 32), torch.randint(10, (count,)))
        strategy = FederatedStrategy(
            partition=IIDPartition(clients), cohort_size=cohort, rounds_per_epoch=self.steps + self.warm
        )
        clock = Clock(self.warm, self.place.wait)
        with tempfile.TemporaryDirectory() as folder:
            trainer = self.place.trainer(strategy, [clock], folder)
            loader = DataLoader(data, batch_size=self.batch, shuffle=True)
            clock.fit(trainer, _Classifier(CLIENT_NETWORKS[network](), 0.01), loader)
        return clock
