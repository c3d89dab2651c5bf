"""What a training step leaves behind in odd places reaches neither the next client nor the released model."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics import CatMetric, MaxMetric, MeanMetric, MinMaxMetric, PearsonCorrCoef

from lightning_privacy.errors import UnsupportedError
from lightning_privacy.federated.client_privacy import ClientPrivacy
from lightning_privacy.federated.partitions import IIDPartition
from lightning_privacy.federated.plain_state import PlainState
from lightning_privacy.strategies import FederatedStrategy
from lightning_privacy.strategies._client_metrics import ClientMetrics

CLIENTS, BOUND = 6, 0.01


def module(tools: Any, kind: str) -> Any:
    class Module(tools.Regression):
        def __init__(self) -> None:
            super().__init__(_Keeping if kind == "group" else None)
            self.register_buffer("center", torch.zeros(1, dtype=torch.float64))
            self.frozen = nn.Parameter(torch.zeros(1, dtype=torch.float64), requires_grad=False)
            self.seen, self.history = 0.0, []
            self.array, self.number = np.zeros(1), np.float64(0)
            self.counts, self.ordered = defaultdict(float), OrderedDict(size=0.0)
            self.gate, self.mean = nn.Identity(), MeanMetric()
            self.save_hyperparameters({"shift": 0.0})

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            size = batch[1].abs().mean().detach()
            with torch.no_grad():
                if kind == "frozen":
                    self.frozen.add_(size)
                elif kind == "reassigned buffer":
                    self.center = self.center + size
                elif kind == "data":
                    self.net[3].bias.data = self.net[3].bias.data + 0 * size
                elif kind == "attribute":
                    self.seen += float(size)
                    self.history.append(size)
                elif kind == "array":
                    self.array += float(size)
                elif kind == "number of numpy":
                    self.number, self.more = self.number + np.float64(size), np.float64(size)
                elif kind == "kinds of dict":
                    self.counts["size"] += float(size)
                    self.ordered["size"] += float(size)
                elif kind == "hyperparameters":
                    self.hparams.shift += float(size)
                elif kind == "mode" and size > 100:
                    self.gate.eval()
                elif kind == "learning rate" and size > 100:
                    self.optimizers().param_groups[0]["lr"] = -5.0
                elif kind == "scheduler" and size > 100 and batch_idx > 0:
                    self.lr_schedulers().step()
                elif kind == "metric":
                    self.mean.update(size)
            if kind == "mode" and not self.gate.training:
                return -nn.functional.mse_loss(self.net(batch[0]), batch[1])
            if kind == "metric":
                return nn.functional.mse_loss(self.net(batch[0]) + self.mean.compute().detach(), batch[1])
            left = float(self.array[0]) + float(self.number) + self.counts["size"] + self.ordered["size"]
            left += self.hparams.shift + getattr(self, "more", 0.0)
            left += 1000 * self.lr_schedulers().last_epoch if kind == "scheduler" else 0
            shift = self.center + self.frozen + self.seen + (sum(self.history) if self.history else 0.0) + left
            return nn.functional.mse_loss(self.net(batch[0]) + shift, batch[1])

        def configure_optimizers(self) -> Any:
            made = super().configure_optimizers()
            return ([made], [torch.optim.lr_scheduler.ExponentialLR(made, -3.0)]) if kind == "scheduler" else made

    return Module()


class _Keeping(torch.optim.SGD):
    """Finds its learning rate in the group, as some optimizers do."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.01)

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            norm = sum(float(p.grad.norm()) for p in group["params"] if p.grad is not None)
            group["found"] = group.get("found", 0.0) + norm
            group["lr"] = 0.01 * group["found"]
        return super().step(closure)


def released(tools: Any, kind: str, target: float, rounds: int = 1) -> dict[str, torch.Tensor]:
    dataset, model = tools.data(), module(tools, kind)
    first = tools.parts(IIDPartition(CLIENTS), dataset, 3)[0]
    dataset.tensors[1][first] = target
    privacy = ClientPrivacy(delta=1e-3, noise_multiplier=1e-9, max_delta_norm=BOUND)
    strategy = FederatedStrategy(
        partition=IIDPartition(CLIENTS), client_sampling="all", client_privacy=privacy, seed=3, local_epochs=2
    )
    tools.fit(strategy, model, dataset, batch_size=2, max_epochs=rounds)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


KINDS = ["plain", "frozen", "reassigned buffer", "data", "attribute", "group", "array", "number of numpy"]
KINDS += ["kinds of dict", "hyperparameters", "mode", "learning rate", "scheduler", "metric"]


@pytest.mark.parametrize("kind", KINDS)
def test_p39_one_client_moves_the_released_model_by_no_more_than_the_bound(tools, kind):
    """One client's data replaced: everything that is saved moves by at most 2 C / N in a round."""
    small, large = released(tools, kind, 0.0), released(tools, kind, 1000.0)
    moved = torch.cat([(small[name] - large[name]).double().reshape(-1) for name in small])
    assert float(moved.norm()) <= 2 * BOUND / CLIENTS * 1.001
    assert float(moved.norm()) > 0


def test_a_frozen_parameter_that_a_step_writes_to_is_put_back(tools):
    model = module(tools, "frozen")
    tools.fit(FederatedStrategy(partition=IIDPartition(CLIENTS), seed=3), model, max_epochs=1)
    assert float(model.frozen) == 0.0


def test_what_is_not_plain_is_left_alone():
    class Owner:
        pass

    owner, other = Owner(), object()
    owner.other, owner.mixed, owner.count = other, [other], 3
    state = PlainState([owner])
    owner.count, owner.mixed = 4, []
    state.restore()
    # What a list holds is put back, whatever it is; what an object holds is its own.
    assert (owner.other, owner.count, owner.mixed) == (other, 3, [other])


def private_fit(tools: Any, model: Any, **options: Any) -> ClientPrivacy:
    privacy = ClientPrivacy(delta=1e-3, noise_multiplier=1e-9, max_delta_norm=BOUND)
    strategy = FederatedStrategy(partition=IIDPartition(CLIENTS), client_privacy=privacy, seed=3)
    tools.fit(strategy, model, **{"max_epochs": 1} | options)
    return privacy


def test_a_client_finds_its_own_optimizer_and_the_servers_stays(tools):
    rates: list[float] = []

    class Module(tools.Regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            group = self.optimizers().param_groups[0]
            rates.append(group["lr"])
            group["lr"] *= 0.5
            return super().training_step(batch, batch_idx)

        def on_train_batch_end(self, *arguments: Any) -> None:
            assert self.optimizers().param_groups[0]["lr"] == 1.0

    tools.fit(FederatedStrategy(partition=IIDPartition(CLIENTS), seed=3), Module(), max_epochs=2)
    assert rates == [0.1] * (2 * CLIENTS)


def test_what_clients_have_counted_is_logged_together(tools):
    class Module(tools.Regression):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.largest = MeanMetric(), MaxMetric()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.mean.update(batch[1])
            self.largest(batch[1])
            assert torch.equal(self.mean.compute(), batch[1].float().mean())
            self.log("mean", self.mean, on_step=False, on_epoch=True)
            self.log("largest", self.largest, on_step=True, on_epoch=True)
            return super().training_step(batch, batch_idx)

    dataset = tools.data()
    model = Module()
    strategy = FederatedStrategy(
        partition=IIDPartition(CLIENTS),
        client_privacy=ClientPrivacy(delta=1e-3, noise_multiplier=1.0, max_delta_norm=BOUND),
        rounds_per_epoch=2,
        seed=3,
    )
    trainer = tools.fit(strategy, model, dataset, max_epochs=1)
    targets = dataset.tensors[1].float()
    assert float(trainer.callback_metrics["mean"]) == pytest.approx(float(targets.mean()), rel=1e-5)
    assert float(trainer.callback_metrics["largest_epoch"]) == pytest.approx(float(targets.max()), rel=1e-6)


def test_lists_of_states_and_counts_add_up_and_what_can_not_is_named():
    module = nn.ModuleDict(
        {"mean": MeanMetric(), "kept": PearsonCorrCoef(), "wrapped": MinMaxMetric(MeanMetric()), "all": CatMetric()}
    )
    module["all"].update(torch.tensor([1.0]))
    metrics = ClientMetrics(module)
    assert metrics.uncovered == ["kept", "wrapped"]
    for value in (2.0, 3.0):
        metrics.begin_client()
        assert module["all"].update_count == 0
        assert module["all"].metric_state["value"] == []
        module["all"].update(torch.tensor([value]))
    metrics.end_round()
    assert module["all"].compute().tolist() == [1.0, 2.0, 3.0]
    assert module["all"].update_count == 3


def test_a_metric_that_goes_on_is_a_caveat(tools):
    model = tools.Regression()
    model.correlation = PearsonCorrCoef()
    caveats = private_fit(tools, model).ledger.caveats
    assert any("metric 'correlation' goes on from client to client" in caveat for caveat in caveats)


@pytest.mark.parametrize("late", [False, True])
def test_a_metric_that_checkpoints_would_hold_is_refused(tools, late):
    class Module(tools.Regression):
        def __init__(self) -> None:
            super().__init__()
            self.mean = MeanMetric()
            self.mean.persistent(not late)

        def on_train_epoch_start(self) -> None:
            self.mean.persistent(True)

    with pytest.raises(UnsupportedError, match=r"metric 'mean' .MeanMetric. are persistent"):
        private_fit(tools, Module())
