"""Example-level privacy inside clients, through a fit."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from torch import nn
from torch.utils.data import DataLoader

from lightning_privacy._lightning import pl
from lightning_privacy.accounting import PrivacyLedger, SampledGaussian
from lightning_privacy.callbacks import DifferentialPrivacy
from lightning_privacy.errors import CheckpointError, ConfigurationError, UnsupportedError
from lightning_privacy.federated import ClientPrivacy, Ditto, ExamplePrivacy, FedProx, IIDPartition, Scaffold
from lightning_privacy.federated.aggregation import QFFL, WeightedMean
from lightning_privacy.federated.algorithms import Algorithm
from lightning_privacy.federated.failures import SimulatedFailures
from lightning_privacy.federated.keyed import derive_seed
from lightning_privacy.federated.partitions import FilePartition
from lightning_privacy.mechanisms import NoiseSource
from lightning_privacy.mechanisms.noise import SeededNoiseWarning
from lightning_privacy.sampling import PoissonSampler
from lightning_privacy.strategies import FederatedStrategy

THREE = IIDPartition(3)
SEED = 17


def seeded() -> NoiseSource:
    with pytest.warns(SeededNoiseWarning):
        return NoiseSource(seed=SEED)


def private(seed: bool = False, **options: Any) -> ExamplePrivacy:
    chosen = {"delta": 1e-5, "noise_multiplier": 1.0, "max_grad_norm": 0.5, "probe": False} | options
    return ExamplePrivacy(**chosen, noise=seeded() if seed else None)


def strategy(privacy: ExamplePrivacy | None, **options: Any) -> FederatedStrategy:
    return FederatedStrategy(**{"partition": THREE, "seed": 5, "example_privacy": privacy} | options)


def gradient(module: nn.Module, inputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Of one example, by autograd alone."""
    loss = nn.functional.mse_loss(module.net(inputs[None]), target[None])
    return torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, list(module.parameters()))])


def by_hand(tools: Any, sizes: list[int], batch: int, rounds: int, *, sigma: float, bound: float, mu: float) -> Any:
    """Rounds of DP-SGD in every client, written from the definition; the noise and the draws of the seeded source."""
    module, dataset, noise = tools.Regression(), tools.data(), seeded()
    parts = tools.parts(THREE, dataset, 5)
    assert [len(part) for part in parts] == sizes
    x = tools.flat(module)
    steps_taken = [0, 0, 0]
    for _ in range(rounds):
        total = torch.zeros_like(x)
        for client, part in enumerate(parts):
            w = x.clone()
            expected = min(batch, len(part))
            sampler = PoissonSampler(
                len(part),
                sample_rate=expected / len(part),
                steps=100,
                seed=derive_seed(noise.bernoulli_seed("draws inside clients"), "draws", client),
            )
            for _ in range(-(-len(part) // batch) * 2):
                step = steps_taken[client]
                nn.utils.vector_to_parameters(w, module.parameters())
                summed = noise.normals(
                    w.numel(), std=sigma * bound / expected, step=client << 24 | step, dtype=torch.float64
                )
                for position in sampler.draw(step):
                    g = gradient(module, *(tensor[part[position]] for tensor in dataset.tensors))
                    summed = summed + g * min(1.0, bound / float(g.norm())) / expected
                w = w - 0.1 * (summed + mu * (w - x))
                steps_taken[client] += 1
            total += len(part) * (w - x)
        x = x + total / sum(sizes)
    return x


@pytest.mark.parametrize("mu", [0.0, 0.3], ids=["fedavg", "fedprox"])
def test_local_steps_are_those_of_a_loop_by_hand(tools, mu):
    """Batches of 2 of 8 examples: some draws are empty, some have to be cut in two."""
    module, privacy = tools.Regression(), private(seed=True, noise_multiplier=0.7, max_grad_norm=0.2)
    federated = strategy(privacy, local_epochs=2, algorithm=FedProx(mu) if mu else None)
    tools.fit(federated, module, batch_size=2, max_epochs=3)
    expected = by_hand(tools, [8, 8, 8], 2, 3, sigma=0.7, bound=0.2, mu=mu)
    torch.testing.assert_close(tools.flat(module), expected, rtol=1e-10, atol=1e-12)
    draws = [privacy.draw(client, step) for client in range(3) for step in range(24)]
    assert {0, 3} <= {len(draw) for draw in draws}


def test_every_client_has_a_ledger_of_its_own_size(tools, tmp_path):
    """Against dp_accounting itself; who was not drawn has spent nothing."""
    path = tmp_path / "parts.json"
    path.write_text(json.dumps({"0": list(range(4)), "1": list(range(4, 16)), "2": [16, 17, 18]}))
    privacy = private()
    federated = strategy(privacy, partition=FilePartition(path, cover=False), cohort_size=1, local_epochs=2)
    tools.fit(federated, tools.Regression(), batch_size=4, max_epochs=4)
    trained = [entry["client"][0] for entry in federated.history]
    for client, (size, steps) in enumerate([(4, 2), (12, 6), (3, 2)]):
        rounds = trained.count(client)
        assert privacy.participations(client) == rounds
        ledger = privacy.ledger(client)
        assert sum(count for _, count, _ in ledger.history) == rounds * steps
        if rounds:
            accountant = PLDAccountant(NeighboringRelation.REPLACE_SPECIAL)
            step = PoissonSampledDpEvent(min(1.0, 4 / size), GaussianDpEvent(1.0))
            accountant.compose(SelfComposedDpEvent(step, rounds * steps))
            assert privacy.epsilon(client, exact=True) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-6)
    each = [privacy.epsilon(client, exact=True) for client in range(3)]
    assert privacy.epsilon(exact=True) == max(each)
    assert federated.history[-1]["example_epsilon"] >= max(each)
    assert f"client {each.index(max(each))}" in privacy.summary()


def test_a_client_without_budget_takes_no_part(tools, tmp_path):
    """Small clients spend more in a round, and sit out when the others go on; then training ends."""
    path = tmp_path / "parts.json"
    path.write_text(json.dumps({"0": [0, 1], "1": list(range(2, 24))}))
    privacy = private(epsilon=4.0, noise_multiplier=1.2, delta=1e-3)
    federated = strategy(privacy, partition=FilePartition(path), local_steps=1)
    trainer = tools.fit(federated, tools.Regression(), batch_size=4, max_epochs=80)
    took_part = [entry["client"] for entry in federated.history]
    assert took_part[0] == [0, 1]
    assert took_part[-1] == [1]
    rounds = [privacy.participations(client) for client in (0, 1)]
    for rate, count in zip((1.0, 4 / 22), rounds, strict=True):
        ledger, step = PrivacyLedger(delta=1e-3, budget=4.0), SampledGaussian(1.2, rate)
        assert ledger.affords(step, count)
        assert not ledger.affords(step, count + 1)
    assert rounds[0] < rounds[1]
    assert trainer.global_step == len(took_part) == rounds[1] < 80
    assert not any(entry["failures"] for entry in federated.history)
    for client in (0, 1):
        assert privacy.epsilon(client, exact=True) <= 4.0
        assert not privacy.affords(client)


def test_an_algorithm_that_trains_twice_pays_twice(tools):
    privacy = private()
    tools.fit(strategy(privacy, algorithm=Ditto(0.1)), tools.Regression(), batch_size=4, max_epochs=2)
    assert [privacy.ledger(client).history[0][1] for client in range(3)] == [2 * 2 * 2] * 3


def test_simulated_absence_costs_nothing(tools):
    privacy, failures = private(), SimulatedFailures(dropout=0.5)
    federated = strategy(privacy, failures=failures)
    with pytest.warns(UserWarning, match="goes on with"):
        tools.fit(federated, tools.Regression(), max_epochs=6)
    present = [client for entry in federated.history for client in entry["client"]]
    assert 0 < len(present) < 18
    assert [privacy.participations(client) for client in range(3)] == [present.count(client) for client in range(3)]


def test_p43_a_resumed_run_is_the_uninterrupted_one(tools, tmp_path):
    def fit(epochs: int, path: Any = None) -> tuple[Any, Any, ExamplePrivacy]:
        privacy, module = private(seed=True), tools.Regression()
        trainer = tools.trainer(strategy=strategy(privacy, cohort_size=2, rounds_per_epoch=2), max_epochs=epochs)
        trainer.fit(module, DataLoader(tools.data(), batch_size=4), ckpt_path=path)
        return module, trainer, privacy

    whole, _, full = fit(4)
    _, stopped, _ = fit(2)
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _, rest = fit(4, tmp_path / "half.ckpt")
    assert torch.equal(tools.flat(resumed), tools.flat(whole))
    for client in range(3):
        assert rest.ledger(client).epsilon() == full.ledger(client).epsilon()
        assert rest.participations(client) == full.participations(client)


def test_p26_what_was_done_after_the_checkpoint_is_charged(tools, tmp_path):
    """The journal knows the rounds that a run made after the checkpoint it is resumed from."""
    first = private()
    trainer = tools.trainer(strategy=strategy(first), max_epochs=2, default_root_dir=tmp_path)
    loader = DataLoader(tools.data(), batch_size=4)
    trainer.fit(tools.Regression(), loader)
    trainer.save_checkpoint(tmp_path / "early.ckpt")
    trainer.fit_loop.max_epochs = 5
    trainer.fit(tools.Regression(), loader)  # three more rounds, and then the process dies
    second = private()
    again = tools.trainer(strategy=strategy(second), max_epochs=3, default_root_dir=tmp_path)
    again.fit(tools.Regression(), loader, ckpt_path=tmp_path / "early.ckpt")
    taken = first.ledger(0).history[0][1]
    assert sum(count for _, count, _ in second.ledger(0).history) == taken + 2


@pytest.mark.parametrize("began_private", [False, True])
def test_p26_privacy_can_neither_begin_nor_end_in_the_middle(tools, tmp_path, began_private):
    options = {True: strategy(private()), False: strategy(None)}
    trainer = tools.fit(options[began_private], tools.Regression(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    with pytest.raises(CheckpointError, match="example privacy began or ended"):
        tools.trainer(strategy=options[not began_private], max_epochs=2).fit(
            tools.Regression(), DataLoader(tools.data(), batch_size=64), ckpt_path=tmp_path / "run.ckpt"
        )


def test_both_kinds_of_privacy_hold_each_for_its_unit(tools):
    examples, clients = private(), ClientPrivacy(delta=1e-5, noise_multiplier=1.0, max_delta_norm=0.1)
    federated = strategy(examples, client_privacy=clients, client_sampling="poisson", cohort_size=2, seed=None)
    tools.fit(federated, tools.Regression(), max_epochs=4)
    assert sum(count for _, count, _ in clients.ledger.history) == 4
    assert clients.ledger.unit == "client"
    present = [client for entry in federated.history for client in entry["client"]]
    assert [privacy_count(examples, client) for client in range(3)] == [present.count(client) for client in range(3)]
    assert all(examples.ledger(client).unit == "example" for client in range(3))


def privacy_count(privacy: ExamplePrivacy, client: int) -> int:
    return sum(count for _, count, _ in privacy.ledger(client).history)


class Watching(nn.Module):
    """Keeps a mean of what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(3, dtype=torch.float64))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.seen = 0.9 * self.seen + 0.1 * inputs.detach().mean(0)
        return inputs


def test_p37_batch_norm_and_other_statistics_are_refused(tools):
    with pytest.raises(UnsupportedError, match="BatchNorm1d"):
        tools.fit(strategy(private()), tools.Regression(norm=True), max_epochs=1)
    module = tools.Regression()
    module.net.insert(0, Watching())
    before = tools.flat(module)
    with pytest.raises(UnsupportedError, match=r"net\.0\.seen.*neither bounded nor noised"):
        tools.fit(strategy(private()), module, max_epochs=1)
    assert torch.equal(tools.flat(module), before)


class Coupled:
    """Mixin: the mean of a batch is taken off before the loss."""

    def loss(self, batch: Any) -> torch.Tensor:
        found = self.net(batch[0])
        return nn.functional.mse_loss(found - found.mean(0), batch[1])


def test_p03_a_step_that_mixes_examples_is_found_by_the_probe(tools):
    module = type("Mixing", (Coupled, tools.Regression), {})()
    with pytest.raises(UnsupportedError, match="example"):
        tools.fit(strategy(private(probe=True)), module, max_epochs=1)
    tools.fit(strategy(private(probe=True)), tools.Regression(), max_epochs=1)


def test_gradients_are_as_they_were_after_a_round(tools):
    """What the server's optimizer and validation see is the module itself."""
    module = tools.Regression()
    tools.fit(strategy(private(), algorithm=Scaffold(), aggregator=WeightedMean(weighted=False)), module, max_epochs=2)
    module.loss([tensor[:4] for tensor in tools.data().tensors]).backward()
    assert all(p.grad is not None for p in module.parameters())


def test_p31_what_acts_on_the_clients_losses_is_told(tools):
    privacy = private()
    stop = pl.callbacks.EarlyStopping("federated/loss", patience=100, check_on_train_epoch_end=True)
    with pytest.warns(UserWarning, match=r"federated/loss.*without noise"):
        tools.fit(strategy(privacy), tools.Regression(), max_epochs=1, callbacks=[stop])
    assert "EarlyStopping" in privacy.summary()
    assert "train loss" in privacy.summary()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"aggregator": QFFL(1.0, learning_rate=0.1)}, "QFFL needs the loss"),
        ({"vectorize": True}, "vectorize=32 is not supported here: example_privacy"),
        ({"example_privacy": 1.0}, "must be an ExamplePrivacy"),
    ],
)
def test_what_does_not_go_together_is_refused(options, named):
    with pytest.raises(ConfigurationError, match=named):
        strategy(**{"privacy": options.pop("example_privacy", private())} | options)


def test_a_batch_that_is_left_out_is_refused(tools):
    module = tools.Regression()
    module.training_step = lambda batch, batch_idx: None
    with pytest.raises(UnsupportedError, match="returned None"):
        tools.fit(strategy(private()), module, max_epochs=1)


def test_a_gradient_put_in_place_of_the_private_one_is_refused(tools):
    class Replaces(Algorithm):
        def before_step(self, local: Any) -> None:
            for parameter in local.model.parameters:
                parameter.grad = torch.ones_like(parameter)

    with pytest.raises(Exception, match="something else than its private gradient"):
        tools.fit(strategy(private(), algorithm=Replaces()), tools.Regression(), max_epochs=1)


def test_the_callback_names_example_privacy(tools):
    callback = DifferentialPrivacy(delta=1e-5, noise_multiplier=1.0)
    with pytest.raises(UnsupportedError, match="example_privacy=ExamplePrivacy"):
        tools.fit(strategy(None), tools.Regression(), callbacks=[callback])
