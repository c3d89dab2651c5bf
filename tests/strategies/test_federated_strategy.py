"""What users of a trainer see: rounds as steps, resuming, failures, nothing that leaks from one client to another."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from lightning_privacy._lightning import Callback, ModelCheckpoint, Trainer
from lightning_privacy.errors import CheckpointError, ConfigurationError, UnsupportedError
from lightning_privacy.federated.algorithms import Algorithm, Scaffold
from lightning_privacy.federated.cohorts import CohortSampler
from lightning_privacy.federated.failures import SimulatedFailures
from lightning_privacy.federated.keyed import generator as keyed
from lightning_privacy.federated.partitions import DirichletPartition, IIDPartition
from lightning_privacy.federated.server import FedAdam
from lightning_privacy.federated.tally import Tally
from lightning_privacy.strategies import FederatedStrategy
from lightning_privacy.strategies._federated_checks import check_optimizers

FOUR = IIDPartition(4)


def strategy(**options: Any) -> FederatedStrategy:
    return FederatedStrategy(**{"partition": FOUR, "cohort_size": 2, "seed": 5} | options)


class Recorder(Callback):
    def __init__(self) -> None:
        self.cohorts: list[list[int]] = []
        self.gradients: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.cohorts.append(batch.cohort)

    def on_before_optimizer_step(self, trainer: Trainer, module: Any, optimizer: Any) -> None:
        self.gradients.append(float(sum(p.grad.square().sum() for p in module.parameters())))


def test_rounds_are_steps_and_the_rest_of_lightning_works(tools, tmp_path):
    recorder, module = Recorder(), tools.Regression()
    trainer = tools.trainer(
        strategy=strategy(rounds_per_epoch=3),
        max_epochs=2,
        callbacks=[recorder, ModelCheckpoint(tmp_path, monitor="val_loss", save_last=True)],
        enable_checkpointing=True,
        accumulate_grad_batches=2,
        gradient_clip_val=0.5,
    )
    trainer.fit(
        module, DataLoader(tools.data(), batch_size=4, shuffle=True), DataLoader(tools.data(8, 1), batch_size=8)
    )
    assert trainer.global_step == 6
    assert trainer.current_epoch == 2
    assert [len(cohort) for cohort in recorder.cohorts] == [2] * 6
    assert all(math.isfinite(gradient) and gradient > 0 for gradient in recorder.gradients)
    assert {"train_loss_epoch", "val_loss", "federated/loss", "federated/clients"} <= trainer.callback_metrics.keys()
    # Settings of a client's steps come back to the trainer when the fit is over.
    assert (trainer.accumulate_grad_batches, trainer.gradient_clip_val) == (2, 0.5)
    assert (tmp_path / "last.ckpt").exists()


def test_the_loss_that_is_logged_is_the_mean_over_all_local_batches(tools):
    module, seen = tools.Regression(), []
    usual = module.loss

    def loss(batch: Any) -> Any:
        found = usual(batch)
        seen.append((float(found.detach()), len(batch[0])))
        return found

    module.loss = loss
    trainer = tools.fit(strategy(), module, batch_size=5, max_epochs=1)
    expected = sum(value * size for value, size in seen) / sum(size for _, size in seen)
    assert float(trainer.callback_metrics["train_loss_epoch"]) == pytest.approx(expected, rel=1e-5)


def test_accumulation_and_clipping_are_those_of_a_clients_step(tools):
    dataset = tools.data()
    parts = tools.parts(IIDPartition(1), dataset, 5)
    module = tools.Regression()
    reference = tools.Regression()
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    half = len(dataset) // 2
    generator = keyed(5, "order", 0, 0, 0)
    order = torch.from_numpy(parts[0])[torch.randperm(len(dataset), generator=generator)]
    for rows in (order[:half], order[half:]):
        (reference.loss([tensor[rows] for tensor in dataset.tensors]) / 2).backward()
    nn.utils.clip_grad_norm_(reference.parameters(), 0.01)
    optimizer.step()
    tools.fit(
        FederatedStrategy(partition=IIDPartition(1), seed=5),
        module,
        dataset,
        batch_size=half,
        max_epochs=1,
        accumulate_grad_batches=2,
        gradient_clip_val=0.01,
    )
    torch.testing.assert_close(tools.flat(module), tools.flat(reference), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ["moments", "buffers", "randomness"])
def test_p39_nothing_of_one_client_reaches_another(tools, kind):
    """Two clients with other data first: what the last one sends must not depend on who was trained before it."""

    def delta_of_last(clients_before: int) -> torch.Tensor:
        found = []
        module = tools.Regression(
            lambda parameters: torch.optim.Adam(parameters, lr=0.05),
            norm=kind == "buffers",
            dropout=0.5 if kind == "randomness" else 0.0,
        )

        class Keep(Algorithm):
            def after_client(self, local: Any, update: Any) -> None:
                if local.client == 3:
                    found.append((update.delta.clone(), random.random(), np.random.rand()))

        class Chosen(CohortSampler):
            def choose(self, generator: Any, num_clients: int) -> Any:
                return np.arange(4 - 1 - clients_before, 4)

            def expected_size(self, num_clients: int) -> float:
                return clients_before + 1.0

        tools.fit(
            strategy(client_sampling=Chosen(), algorithm=Keep(), local_epochs=3), module, batch_size=3, max_epochs=1
        )
        return found[0]

    alone, after_others = delta_of_last(0), delta_of_last(3)
    assert torch.equal(alone[0], after_others[0])
    assert alone[1:] == after_others[1:]


def test_the_global_generators_are_left_alone(tools):
    torch.manual_seed(0)
    module = tools.Regression(dropout=0.5)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    tools.fit(strategy(), module, max_epochs=1, num_sanity_val_steps=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("stateful", [False, True])
def test_p43_a_resumed_run_is_the_uninterrupted_one(tools, tmp_path, stateful):
    def fit(epochs: int, ckpt_path: Any = None) -> tuple[Any, Trainer]:
        make = (lambda p: torch.optim.SGD(p, lr=0.1)) if stateful else (lambda p: torch.optim.Adam(p, lr=0.02))
        module = tools.Regression(make, norm=True, dropout=0.3)
        trainer = tools.trainer(
            strategy=strategy(
                server_optimizer=FedAdam(lr=0.05),
                algorithm=Scaffold() if stateful else None,
                personal=["net.4"],
                persistent_optimizer=not stateful,
                rounds_per_epoch=3,
            ),
            max_epochs=epochs,
        )
        trainer.fit(module, DataLoader(tools.data(), batch_size=4, shuffle=True), ckpt_path=ckpt_path)
        return module, trainer

    whole, trainer = fit(4)
    _, stopped = fit(2)
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    resumed, again = fit(4, tmp_path / "half.ckpt")
    assert again.global_step == trainer.global_step == 12
    assert torch.equal(tools.flat(resumed), tools.flat(whole))
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_resuming_in_the_middle_of_an_epoch_goes_on_with_the_next_round(tools, tmp_path):
    def fit(ckpt_path: Any = None) -> tuple[Any, Trainer, Recorder]:
        module, recorder = tools.Regression(), Recorder()
        saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = tools.trainer(
            strategy=strategy(rounds_per_epoch=4), max_epochs=2, callbacks=[recorder, saver], enable_checkpointing=True
        )
        trainer.fit(module, DataLoader(tools.data(), batch_size=4), ckpt_path=ckpt_path)
        return module, trainer, recorder

    whole, _, all_rounds = fit()
    resumed, trainer, rest = fit(tmp_path / "step=6.ckpt")
    assert trainer.global_step == 8
    assert rest.cohorts == all_rounds.cohorts[6:]
    assert torch.equal(tools.flat(resumed), tools.flat(whole))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"partition": IIDPartition(6)}, "clients"),
        ({"seed": 6}, "fingerprint|clients|seed"),
        ({"algorithm": Scaffold()}, "algorithm"),
    ],
)
def test_resuming_as_another_run_is_refused(tools, tmp_path, change, named):
    trainer = tools.fit(strategy(), tools.Regression(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    with pytest.raises(CheckpointError, match=named):
        tools.trainer(strategy=strategy(**change), max_epochs=2).fit(
            tools.Regression(), DataLoader(tools.data(), batch_size=64), ckpt_path=tmp_path / "run.ckpt"
        )


def test_resuming_from_a_run_that_was_not_federated_is_refused(tools, tmp_path):
    plain = tools.trainer(max_epochs=1)
    plain.fit(tools.Regression(), DataLoader(tools.data(), batch_size=8))
    plain.save_checkpoint(tmp_path / "plain.ckpt")
    with pytest.raises(CheckpointError, match="not of a federated run"):
        tools.trainer(strategy=strategy(), max_epochs=2).fit(
            tools.Regression(), DataLoader(tools.data(), batch_size=64), ckpt_path=tmp_path / "plain.ckpt"
        )


class _Fails(nn.Module):
    """Raises, or gives NaN, where an example's first entry says so."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if bool((inputs[:, 0] > 50).any()):
            raise RuntimeError("no such sensor")
        return torch.where(inputs > 40, torch.full_like(inputs, math.nan), inputs)


def failing(tools: Any, clients: list[int], value: float) -> tuple[Any, TensorDataset]:
    module, dataset = tools.Regression(), tools.data()
    module.net.insert(0, _Fails())
    for client in clients:
        dataset.tensors[0][tools.parts(FOUR, dataset, 5)[client][0], 0] = value
    return module, dataset


@pytest.mark.parametrize(("value", "reason"), [(100.0, "RuntimeError: no such sensor"), (45.0, "not finite")])
def test_p41_a_client_that_fails_is_left_out_and_named(tools, value, reason):
    module, dataset = failing(tools, [2], value)
    federated = strategy(cohort_size=None)
    with pytest.warns(UserWarning, match=f"3 of 4 clients .client 2: .*{reason}"):
        tools.fit(federated, module, dataset, max_epochs=1)
    assert tools.flat(module).isfinite().all()
    assert federated.history[0]["client"] == [0, 1, 3]
    reference = tools.Regression()
    reference.net.insert(0, _Fails())
    good = torch.utils.data.Subset(dataset, np.concatenate([tools.parts(FOUR, dataset, 5)[c] for c in (0, 1, 3)]))
    assert len(good) == 18


@pytest.mark.parametrize("value", [100.0, 45.0])
def test_p41_a_round_without_enough_clients_ends_the_run(tools, value):
    module, dataset = failing(tools, [0, 1, 2, 3], value)
    before = tools.flat(module)
    with pytest.raises(ConfigurationError, match="0 of 4 clients are left, fewer than min_clients=1"):
        tools.fit(strategy(cohort_size=None), module, dataset, max_epochs=1)
    assert torch.equal(tools.flat(module), before)


def test_simulated_failures_leave_the_others(tools):
    federated = strategy(cohort_size=None, failures=SimulatedFailures(dropout=0.3, nan=0.2, error=0.2))
    with pytest.warns(UserWarning, match="goes on with"):
        tools.fit(federated, tools.Regression(), max_epochs=4)
    kinds = [reason for entry in federated.history for reason in entry["failures"].values()]
    assert kinds
    assert all(entry["clients"] + len(entry["failures"]) == 4 for entry in federated.history)


def test_personal_entries_never_reach_the_global_model(tools):
    module = tools.Regression()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    tools.fit(strategy(personal=["net.3"]), module, max_epochs=2)
    after = module.state_dict()
    assert torch.equal(after["net.3.weight"], before["net.3.weight"])
    assert not torch.equal(after["net.0.weight"], before["net.0.weight"])


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, "BatchNorm1d", [nn.modules.batchnorm._BatchNorm]], ids=str)
def test_fed_bn_keeps_layers_of_a_kind_with_the_clients(tools, kind):
    """Statistics, scales and shifts are each client's own, and go on where they were; the rest is averaged."""
    module, federated = tools.Regression(norm=True), strategy(cohort_size=None, personal=kind)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    tools.fit(federated, module, max_epochs=2, batch_size=3)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]) == name.startswith("net.1."), name
    kept = federated._federation.stores.personal
    assert set(kept) == {0, 1, 2, 3}
    assert set(kept[0]) == {name for name in before if name.startswith("net.1.")}
    assert not torch.equal(kept[0]["net.1.running_mean"], kept[1]["net.1.running_mean"])
    assert int(kept[0]["net.1.num_batches_tracked"]) == 4  # two batches in each of two rounds


def test_one_personal_name_needs_no_list(tools):
    module = tools.Regression()
    before = module.net[3].weight.clone()
    tools.fit(strategy(personal="net.3"), module, max_epochs=1)
    assert torch.equal(module.net[3].weight, before)


@pytest.mark.parametrize("exact", [False, True])
def test_a_client_without_a_loss_has_no_part_in_the_mean_loss(exact):
    tally = Tally(size=2, num_counters=0, device=torch.device("cpu"), exact=exact)
    for weight, loss in ((1.0, 0.5), (2.0, math.nan), (3.0, 1.5)):
        tally.add(torch.ones(2), weight=weight, increments=[], extras={}, loss=loss)
    assert tally.finish(lambda vector: None).loss == pytest.approx((0.5 + 4.5) / 4)


def test_batch_norm_statistics_are_averaged_and_counted(tools):
    module, federated = tools.Regression(norm=True), strategy(cohort_size=None, local_epochs=2)
    tools.fit(federated, module, max_epochs=1, batch_size=3)
    norm = module.net[1]
    assert int(norm.num_batches_tracked) == 4  # two epochs of two batches, the same for every client
    assert norm.num_batches_tracked.dtype == torch.int64
    assert bool((norm.running_var >= 0).all())
    assert not torch.equal(norm.running_mean, torch.zeros_like(norm.running_mean))


def test_a_schedule_by_epochs_moves_the_clients_learning_rate(tools):
    rates = []

    class Module(tools.Regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            rates.append(self.client.param_groups[0]["lr"])
            return super().training_step(batch, batch_idx)

        def configure_optimizers(self) -> Any:
            self.client = torch.optim.SGD(self.parameters(), lr=0.1)
            return [self.client], [torch.optim.lr_scheduler.ExponentialLR(self.client, gamma=0.5)]

    tools.fit(strategy(cohort_size=1), Module(), max_epochs=3)
    assert rates == pytest.approx([0.1, 0.05, 0.025])


def test_exact_sums_do_not_depend_on_the_order(tools):
    deltas = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    sums = []
    for order in (range(6), reversed(range(6))):
        tally = Tally(size=50, num_counters=0, device=torch.device("cpu"), exact=True)
        for index in order:
            tally.add(deltas[index], weight=float(index + 1), increments=[], extras={}, loss=0.1)
        sums.append(tally.finish(lambda vector: None).mean())
    assert torch.equal(sums[0], sums[1])
    weights = torch.arange(1.0, 7.0)
    torch.testing.assert_close(sums[0], (weights @ deltas) / weights.sum(), rtol=1e-5, atol=1e-7)


def batch_schedule(parameters: Any) -> Any:
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


@pytest.mark.parametrize(
    ("optimizer", "trainer", "named"),
    [
        (batch_schedule, {}, "interval='step'"),
        (lambda p: torch.optim.LBFGS(p), {}, "LBFGS"),
        (None, {"overfit_batches": 1}, "overfit_batches"),
        (None, {"reload_dataloaders_every_n_epochs": 1}, "reload_dataloaders_every_n_epochs"),
        (None, {"sync_batchnorm": True}, "sync_batchnorm"),
    ],
    ids=["batch schedule", "lbfgs", "overfit", "reload", "sync"],
)
def test_what_rounds_do_not_have_is_refused(tools, optimizer, trainer, named):
    with pytest.raises(UnsupportedError, match=named):
        tools.fit(strategy(), tools.Regression(optimizer), **trainer)


def test_two_optimizers_are_refused(tools):
    def two(parameters: Any) -> Any:
        chosen = list(parameters)
        return [torch.optim.SGD(chosen[:1], lr=0.1), torch.optim.SGD(chosen[1:], lr=0.1)]

    with pytest.raises(RuntimeError, match="multiple optimizers"):  # Lightning says so first
        tools.fit(strategy(), tools.Regression(two))
    optimizers = two(tools.Regression().parameters())
    with pytest.raises(UnsupportedError, match="2 optimizers"):
        check_optimizers(optimizers, [])


def test_manual_optimisation_is_refused(tools):
    module = tools.Regression()
    module.automatic_optimization = False
    with pytest.raises(UnsupportedError, match="automatic_optimization=False"):
        tools.fit(strategy(), module)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"cohort_size": 9}, "cohort_size must be at most the number of clients, 4, got 9"),
        ({"partition": DirichletPartition(4, alpha=0.5)}, "labels"),
        ({"personal": ["head"]}, "personal has 'head'"),
    ],
)
def test_what_does_not_fit_the_data_or_the_module_is_refused(tools, options, named):
    dataset = TensorDataset(torch.zeros(24, 3, dtype=torch.float64))
    data = dataset if "labels" in named else tools.data()
    with pytest.raises(ConfigurationError, match=named):
        tools.fit(strategy(**options), tools.Regression(), data)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"local_epochs": 0}, "local_epochs"),
        ({"local_epochs": 1, "local_steps": 1}, "local_epochs=1 and local_steps=1"),
        ({"rounds_per_epoch": 0}, "rounds_per_epoch"),
        ({"partition": "iid"}, "partition must be a Partition"),
        ({"client_sampling": "lottery"}, "client_sampling"),
        ({"min_clients": 0}, "min_clients"),
    ],
)
def test_arguments_out_of_range_are_named(options, named):
    with pytest.raises(ConfigurationError, match=named):
        strategy(**options)


def test_a_sampler_that_would_get_lost_is_refused(tools):
    loader = DataLoader(tools.data(), batch_size=4, sampler=WeightedRandomSampler([1.0] * 24, 24))
    with pytest.raises(UnsupportedError, match="WeightedRandomSampler"):
        tools.trainer(strategy=strategy()).fit(tools.Regression(), loader)
