"""The same rounds of federated averaging by this package, by hand, by pfl and by Flower.

Each takes rounds of plain SGD over the same data, shared out in the same way; who is drawn in a round differs, all
clients being of one size.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from _federated_turns import Clock
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_privacy.federated import IIDPartition
from lightning_privacy.strategies import FederatedStrategy

__all__ = ["CONTENDERS", "NETWORKS", "Setting"]

_RATE = 0.01
_SEED = 20260701


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3072, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)
    )  # 99,722 parameters


def _cnn() -> nn.Module:
    """Two blocks of two convolutions with pooling and two dense layers, as in pfl's benchmark on CIFAR10."""
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1600, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {"mlp": _mlp, "cnn": _cnn}


@dataclass(frozen=True)
class Setting:
    """A federation.

    Args:
        network: A name of the table of networks.
        clients: How many there are.
        examples: Of each.
        cohort: Clients of a round.
        batch: Examples of a local step.
        threads: Of each contender in all.
    """

    network: str
    clients: int = 1000
    examples: int = 50
    cohort: int = 50
    batch: int = 10
    threads: int = 1

    def build(self) -> nn.Module:
        """The network, the same every time."""
        torch.manual_seed(_SEED)
        return NETWORKS[self.network]()

    @functools.cache  # noqa: B019 - a benchmark has two settings
    def data(self) -> tuple[Tensor, Tensor]:
        """Images of noise of CIFAR10's shape, and classes."""
        generator = torch.Generator().manual_seed(_SEED)
        count = self.clients * self.examples
        return torch.randn(count, 3, 32, 32, generator=generator), torch.randint(0, 10, (count,), generator=generator)

    def parts(self) -> list[Tensor]:
        """Who holds which examples."""
        parts = IIDPartition(self.clients).split(None, self.clients * self.examples, 0)
        return [torch.from_numpy(part) for part in parts]


def by_hand(setting: Setting, rounds: int, clock: Clock) -> None:
    """A loop with nothing to spare: gather a client's examples, cut them into batches, train, add up."""
    inputs, targets = setting.data()
    parts, model = setting.parts(), setting.build()
    parameters = list(model.parameters())
    for number in range(rounds):
        clock.start()
        start = [p.detach().clone() for p in parameters]
        total = [torch.zeros_like(p) for p in parameters]
        optimizer = torch.optim.SGD(parameters, lr=_RATE)
        examples = 0
        for client in torch.randperm(setting.clients, generator=torch.Generator().manual_seed(number))[
            : setting.cohort
        ]:
            with torch.no_grad():
                for parameter, value in zip(parameters, start, strict=True):
                    parameter.copy_(value)
            optimizer.state.clear()
            order = parts[int(client)][torch.randperm(setting.examples)]
            x, y = inputs[order], targets[order]
            for first in range(0, setting.examples, setting.batch):
                optimizer.zero_grad()
                rows = slice(first, first + setting.batch)
                F.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
            with torch.no_grad():
                for summed, parameter, value in zip(total, parameters, start, strict=True):
                    summed.add_(parameter - value, alpha=setting.examples)
            examples += setting.examples
        with torch.no_grad():
            for parameter, value, summed in zip(parameters, start, total, strict=True):
                parameter.copy_(value + summed / examples)
        clock.stop()


class _Classifier(pl.LightningModule):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=_RATE)


class _RoundClock(pl.Callback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_start(self, *_: Any) -> None:
        self.clock.start()

    def on_train_batch_end(self, *_: Any) -> None:
        self.clock.stop()


def ours(setting: Setting, rounds: int, clock: Clock) -> None:
    """``FederatedStrategy`` in ``trainer.fit``."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        strategy=FederatedStrategy(
            partition=IIDPartition(setting.clients), cohort_size=setting.cohort, rounds_per_epoch=rounds
        ),
        callbacks=[_RoundClock(clock)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(_Classifier(setting.build()), DataLoader(TensorDataset(*setting.data()), batch_size=setting.batch))


def pfl(setting: Setting, rounds: int, clock: Clock) -> None:
    """Apple's pfl, without evaluation and without postprocessing, on its tensors in memory."""
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = setting.build()

        def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
            self.train()
            return F.cross_entropy(self.network(inputs), targets)

        def metrics(self, inputs: Tensor, targets: Tensor) -> dict[str, Any]:
            return {}

    class Rounds(TrainingProcessCallback):
        def after_central_iteration(self, *_: Any, **__: Any) -> tuple[bool, Metrics]:
            clock.stop()
            clock.start()
            return False, Metrics()

    inputs, targets = setting.data()
    parts = setting.parts()

    def dataset(user: int) -> Any:
        order = parts[user][torch.randperm(setting.examples)]
        return Dataset([inputs[order], targets[order]])

    federated = FederatedDataset(dataset, get_user_sampler("random", list(range(setting.clients))))
    network = Classifier()
    model = PyTorchModel(network, torch.optim.SGD, torch.optim.SGD(network.parameters(), lr=1.0))
    # pfl asks for the loop of its thread, and a thread that takes turns has none of itself.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    clock.start()
    FederatedAveraging().run(
        # Evaluation at every so many rounds: only the first one, whose time is not counted.
        NNAlgorithmParams(rounds, 10**6, setting.cohort, None),
        SimulatedBackend(federated, federated),
        model,
        NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=_RATE, local_batch_size=setting.batch, local_max_grad_norm=None
        ),
        NNEvalHyperParams(local_batch_size=setting.batch),
        callbacks=[Rounds()],
    )
    loop.close()


def flower(setting: Setting, rounds: int, clock: Clock) -> None:
    """Flower's simulation on Ray, as many actors as threads, each with its data in memory."""
    from _federated_flower import simulate

    clock.start()
    simulate(setting, rounds, _RATE, clock.stop)


CONTENDERS: dict[str, Callable[[Setting, int, Clock], None]] = {
    "ours": ours,
    "hand": by_hand,
    "pfl": pfl,
    "flower": flower,
}
