"""Client-level privacy through a fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from torch.utils.data import DataLoader

from lightning_privacy.callbacks import DifferentialPrivacy
from lightning_privacy.errors import CheckpointError, ConfigurationError, UnsupportedError
from lightning_privacy.federated.aggregation import CoordinateMedian, WeightedMean
from lightning_privacy.federated.algorithms import Algorithm, FedNova, Scaffold
from lightning_privacy.federated.client_privacy import ClientPrivacy
from lightning_privacy.federated.partitions import IIDPartition
from lightning_privacy.mechanisms import NoiseSource
from lightning_privacy.mechanisms.noise import SeededNoiseWarning
from lightning_privacy.strategies import FederatedStrategy

SIX = IIDPartition(6)
ROUNDS = 4


def private(sigma: float | None = 1.0, bound: float = 0.05, seed: int | None = None, **options: Any) -> ClientPrivacy:
    if seed is not None:
        with pytest.warns(SeededNoiseWarning):
            options["noise"] = NoiseSource(seed=seed)
    return ClientPrivacy(**{"delta": 1e-5, "noise_multiplier": sigma, "max_delta_norm": bound} | options)


def strategy(privacy: ClientPrivacy, **options: Any) -> FederatedStrategy:
    return FederatedStrategy(
        **{"partition": SIX, "cohort_size": 3, "client_sampling": "poisson", "client_privacy": privacy} | options
    )


class Deltas(Algorithm):
    """Keeps what clients would send."""

    def __init__(self) -> None:
        self.rounds: dict[int, list[torch.Tensor]] = {}

    def after_client(self, local: Any, update: Any) -> None:
        self.rounds.setdefault(local.round_number, []).append(update.delta.clone())


def test_p36_clipped_as_a_whole_summed_without_weights_over_the_expected_cohort(tools):
    """Against a loop by hand, with noise too small to see; cohorts of changing size, also empty ones."""
    spy, module = Deltas(), tools.Regression()
    x = tools.flat(module)
    federated = strategy(private(1e-9, bound=0.02), seed=3, algorithm=spy, local_epochs=3)
    tools.fit(federated, module, max_epochs=12)
    sizes = {len(spy.rounds.get(number, [])) for number in range(12)}
    assert len(sizes) > 2
    for number in range(12):
        clipped = [delta * min(1.0, 0.02 / float(delta.norm())) for delta in spy.rounds.get(number, [])]
        if clipped:
            x = x + sum(clipped) / 3
    torch.testing.assert_close(tools.flat(module), x, rtol=1e-6, atol=1e-8)


def test_epsilon_is_that_of_dp_accounting(tools):
    privacy = private(0.9)
    tools.fit(strategy(privacy), tools.Regression(), max_epochs=ROUNDS)
    accountant = PLDAccountant(NeighboringRelation.REPLACE_SPECIAL)
    accountant.compose(SelfComposedDpEvent(PoissonSampledDpEvent(0.5, GaussianDpEvent(0.9)), ROUNDS))
    assert privacy.ledger.epsilon(exact=True) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)
    assert privacy.ledger.unit == "client"


def test_noise_is_chosen_for_the_rounds_of_the_trainer(tools):
    privacy = private(None, epsilon=4.0)
    tools.fit(strategy(privacy, rounds_per_epoch=2), tools.Regression(), max_epochs=3)
    assert 3.9 < privacy.ledger.epsilon(exact=True) <= 4.0
    assert sum(count for _, count, _ in privacy.ledger.history) == 6


def test_p30_training_ends_before_the_budget_is_broken(tools):
    privacy = private(3.0, epsilon=3.0)
    trainer = tools.fit(strategy(privacy), tools.Regression(), max_epochs=50)
    assert 0 < trainer.global_step < 50
    assert privacy.ledger.epsilon(exact=True) <= 3.0


def test_the_noise_in_the_model_is_as_large_as_charged(tools):
    """Clients that don't move: what the model did is noise alone. 80 rounds of 21 normals: the standard deviation is
    within 12% but for a chance of 1e-11."""
    moved: list[torch.Tensor] = []

    class Watch(Algorithm):
        def after_round(self, aggregate: Any, extras: Any, num_received: int) -> Any:
            moved.append(aggregate.clone())
            return aggregate

    tools.fit(
        strategy(private(2.0, bound=0.5), algorithm=Watch(), rounds_per_epoch=80),
        tools.Regression(lambda parameters: torch.optim.SGD(parameters, lr=0.0)),
        max_epochs=1,
    )
    found = torch.stack(moved)
    assert float(found.std()) == pytest.approx(2.0 * 0.5 / 3, rel=0.12)


def test_cohorts_are_drawn_in_secret_unless_a_seed_was_given(tools):
    def cohorts(**options: Any) -> list[list[int]]:
        federated = strategy(private(), rounds_per_epoch=12, **options)
        tools.fit(federated, tools.Regression(), max_epochs=1)
        return [entry["client"] for entry in federated.history]

    # Twelve Poisson draws of half of six clients agree by chance with probability 2^-72.
    assert cohorts() != cohorts()
    assert cohorts(seed=1) == cohorts(seed=1)


def test_p37_buffers_that_are_constants_get_no_noise_and_statistics_stay_variances(tools):
    class Module(tools.Regression):
        def __init__(self) -> None:
            super().__init__(norm=True)
            self.register_buffer("table", torch.arange(4.0, dtype=torch.float64))

    module = Module()
    with pytest.warns(UserWarning, match=r"running statistics of 'net\.1'.*personal=\[torch\.nn\.BatchNorm2d\]"):
        tools.fit(strategy(private(5.0, bound=2.0)), module, max_epochs=3, batch_size=2)
    assert torch.equal(module.table, torch.arange(4.0, dtype=torch.float64))
    assert bool((module.net[1].running_var >= 0).all())
    assert int(module.net[1].num_batches_tracked) == 0
    assert not torch.equal(module.net[1].running_mean, torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("adaptive", [False, True])
def test_p43_a_resumed_run_goes_on_with_ledger_and_norm(tools, tmp_path, adaptive):
    def fit(epochs: int, path: Any = None) -> tuple[Any, Any, ClientPrivacy]:
        privacy, module = private(1.0, seed=4, adaptive=adaptive), tools.Regression()
        trainer = tools.trainer(strategy=strategy(privacy, seed=3, rounds_per_epoch=2), max_epochs=epochs)
        trainer.fit(module, DataLoader(tools.data(), batch_size=4), ckpt_path=path)
        return module, trainer, privacy

    whole, _, full = fit(4)
    _, stopped, _ = fit(2)
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _, rest = fit(4, tmp_path / "half.ckpt")
    assert torch.equal(tools.flat(resumed), tools.flat(whole))
    assert rest.ledger.epsilon(exact=True) == full.ledger.epsilon(exact=True)
    assert rest.max_delta_norm == full.max_delta_norm


@pytest.mark.parametrize("began_private", [False, True])
def test_p26_privacy_can_neither_begin_nor_end_in_the_middle(tools, tmp_path, began_private):
    options: dict[bool, Any] = {True: strategy(private(), seed=3), False: strategy(None, seed=3)}  # type: ignore[arg-type]
    trainer = tools.fit(options[began_private], tools.Regression(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    with pytest.raises(CheckpointError, match="client privacy began or ended"):
        tools.trainer(strategy=options[not began_private], max_epochs=2).fit(
            tools.Regression(), DataLoader(tools.data(), batch_size=64), ckpt_path=tmp_path / "run.ckpt"
        )


@pytest.mark.parametrize("algorithm", [Scaffold(), FedNova()])
def test_algorithms_that_send_more_than_a_delta_are_refused(tools, algorithm):
    with pytest.raises(ConfigurationError, match=f"{type(algorithm).__name__} sums"):
        tools.fit(strategy(private(), algorithm=algorithm), tools.Regression())


@pytest.mark.parametrize("aggregator", [WeightedMean(), CoordinateMedian()])
def test_p36_weights_and_other_aggregators_are_refused(tools, aggregator):
    with pytest.raises(ConfigurationError, match="can't be used with client privacy"):
        tools.fit(strategy(private(), aggregator=aggregator), tools.Regression())


def test_p41_a_client_that_sends_nan_adds_nothing(tools):
    dataset = tools.data()
    dataset.tensors[0][tools.parts(SIX, dataset, 3)[2][0], 0] = float("nan")
    module = tools.Regression()
    with pytest.warns(UserWarning, match="client 2"):
        tools.fit(strategy(private(), seed=3, client_sampling="all", cohort_size=None), module, dataset, max_epochs=2)
    assert tools.flat(module).isfinite().all()


def test_the_ledger_says_what_is_not_covered(tools):
    privacy = private()
    tools.fit(strategy(privacy), tools.Regression(), max_epochs=1)
    text = privacy.summary()
    assert "who was in which cohort" in text
    assert "federated/loss" in text
    assert "federated/cosine" in text
    assert "seed of the cohorts was given" not in text


@pytest.mark.parametrize(("options", "said"), [({"seed": 1}, True), ({"client_sampling": "all", "seed": 1}, False)])
def test_the_ledger_says_where_cohorts_can_be_computed(tools, options, said):
    privacy = private()
    sampling = {"cohort_size": None} if "client_sampling" in options else {}
    tools.fit(strategy(privacy, **options, **sampling), tools.Regression(), max_epochs=1)
    assert ("seed of the cohorts was given" in privacy.summary()) == said


def test_the_callback_for_examples_names_what_to_use_with_rounds(tools):
    callback = DifferentialPrivacy(delta=1e-5, noise_multiplier=1.0)
    with pytest.raises(UnsupportedError, match=r"client_privacy=ClientPrivacy.*single examples.*strategy='ddp'"):
        tools.fit(FederatedStrategy(partition=SIX), tools.Regression(), callbacks=[callback])
