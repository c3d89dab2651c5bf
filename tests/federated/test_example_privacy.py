"""Accounts of example-level privacy inside clients, without a fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightning_privacy.accounting import PrivacyLedger, SampledGaussian
from lightning_privacy.accounting.pld import exact_epsilon
from lightning_privacy.errors import CheckpointError, ConfigurationError, PrivacyBudgetExceeded, PrivacyViolation
from lightning_privacy.federated.example_costs import ClientCost, LargestCost
from lightning_privacy.federated.example_journal import ExampleJournal
from lightning_privacy.federated.example_privacy import ExamplePrivacy
from lightning_privacy.gradients.clipping import AdaptiveClipping


def planned(sizes: list[int] | None = None, **options: Any) -> ExamplePrivacy:
    privacy = ExamplePrivacy(**{"delta": 1e-5, "noise_multiplier": 1.0} | options)
    sizes = [10, 40, 100] if sizes is None else sizes
    privacy.plan(sizes, batch_size=10, steps=[-(-size // 10) for size in sizes])
    return privacy


def test_the_rate_is_that_of_the_clients_own_data():
    privacy = planned([4, 40])
    assert [privacy.sample_rate(client) for client in (0, 1)] == [1.0, 0.25]
    assert [privacy.expected_batch_size(client) for client in (0, 1)] == [4.0, 10.0]


def test_draws_are_poisson_and_the_same_step_is_the_same_draw():
    """2,000 draws at rate 1/4 of 40: each example's count is within 6 standard deviations but for 1e-7."""
    privacy = planned([40])
    draws = [privacy.draw(0, step) for step in range(2000)]
    counts = np.bincount(np.concatenate(draws), minlength=40)
    assert np.abs(counts - 500).max() < 6 * np.sqrt(2000 * 0.25 * 0.75)
    sizes = np.array([len(draw) for draw in draws])
    assert sizes.var() == pytest.approx(40 * 0.25 * 0.75, rel=0.25)
    assert np.array_equal(privacy.draw(0, 3), draws[3])
    assert not np.array_equal(planned([40]).draw(0, 3), draws[3])


def test_a_step_nobody_paid_for_is_refused():
    privacy = planned()
    with pytest.raises(PrivacyViolation, match="client 1 is about to make a private step that nobody paid for"):
        privacy.begin_step(1)
    privacy.charge([1])
    assert [privacy.begin_step(1) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(PrivacyViolation, match="nobody paid for"):
        privacy.begin_step(1)
    privacy.charge([1])
    assert privacy.begin_step(1) == 4


def test_no_two_steps_of_any_clients_share_their_noise():
    privacy = planned()
    numbers = {privacy.noise_step(client, step) for client in range(30) for step in range(30)}
    assert len(numbers) == 900
    with pytest.raises(ConfigurationError, match=r"below 2\*\*24"):
        privacy.noise_step(0, 1 << 24)


def test_the_largest_epsilon_is_found_without_composing_all():
    """Against all of them; random sizes and rounds."""
    generator = np.random.default_rng(0)
    privacy = planned(generator.integers(10, 60, size=4).tolist())
    for _ in range(4):
        privacy.charge(sorted(generator.choice(4, size=2, replace=False).tolist()))
    each = [privacy.epsilon(client, exact=True) for client in privacy.clients]
    assert privacy.epsilon(exact=True) == max(each)
    assert privacy.epsilon_bound() >= max(each)


def test_clients_of_one_size_have_one_bound():
    privacy = planned([40, 40])
    privacy.charge([0])
    privacy.charge([0, 1])
    assert privacy.epsilon_bound() == pytest.approx(privacy.epsilon(0, exact=True), rel=0.01)


def test_p30_a_budget_is_never_passed_and_the_answer_is_exact():
    privacy = planned([20], epsilon=6.0)
    most = PrivacyLedger(delta=1e-5, budget=6.0).affordable(SampledGaussian(1.0, 0.5), 100) // 2
    for _ in range(most):
        privacy.charge([0])
    assert privacy.exhausted()
    with pytest.raises(PrivacyBudgetExceeded, match="client 0 can't train another round within epsilon=6"):
        privacy.charge([0])
    assert privacy.ledger(0).count(SampledGaussian(1.0, 0.5)) == 2 * most


def test_few_compositions_answer_for_many_clients(monkeypatch):
    calls = []

    def counted(groups: Any, *, delta: float) -> float:
        calls.append(groups)
        return exact_epsilon(groups, delta=delta)

    monkeypatch.setattr("lightning_privacy.federated.example_costs.exact_epsilon", counted)
    costs = LargestCost(delta=1e-5, budget=8.0)
    rates = [0.02 + 0.001 * number for number in range(40)]
    for count in range(10, 30, 5):
        for rate in reversed(rates):
            assert costs.affords(ClientCost(SampledGaussian(1.0, rate), rate, count))
    assert len(calls) <= 3


def test_state_and_journal_bring_back_what_was_spent(tmp_path):
    first = planned()
    first.charge([0, 2])
    first.keep_journal(tmp_path / "steps.jsonl")
    state = first.state_dict()
    first.charge([0])
    again = planned()
    again.load_state_dict(state)
    assert again.run_id == first.run_id
    again.keep_journal(tmp_path / "steps.jsonl")
    assert [again.ledger(client).history for client in range(3)] != [[]] * 3
    for client in range(3):
        assert again.epsilon(client) == first.epsilon(client)
    with pytest.raises(PrivacyViolation):  # what was paid for the lost round is not there to be used
        again.begin_step(0)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"noise_multiplier": 2.0}, "noise_multiplier"), ({"max_grad_norm": 2.0}, "clipping"), ({"delta": 1e-6}, "delta")],
)
def test_a_state_of_another_privacy_is_refused(options, named):
    before = planned()
    before.charge([0])
    with pytest.raises(CheckpointError, match=named):
        planned(**options).load_state_dict(before.state_dict())
    with pytest.raises(CheckpointError, match="lacks run_id"):
        planned().load_state_dict({key: value for key, value in before.state_dict().items() if key != "run_id"})


def test_a_damaged_journal_is_refused_and_a_cut_line_is_not(tmp_path):
    path = tmp_path / "steps.jsonl"
    ExampleJournal(path, "a").record({1: 4})
    with path.open("a") as file:
        file.write('{"run": "a", "steps": {"1": 1')
    assert ExampleJournal.read(path, "a") == {1: 4}
    ExampleJournal(path, "a").record({1: 8})
    assert ExampleJournal.read(path, "a") == {1: 8}
    path.write_text("nonsense\n" + path.read_text())
    with pytest.raises(CheckpointError, match="line 1 of the journal of private steps"):
        ExampleJournal.read(path, "a")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"delta": 1.5}, "delta"),
        ({"noise_multiplier": -1.0}, "noise_multiplier"),
        ({"noise_multiplier": 0.0, "epsilon": 1.0}, "noise_multiplier=0 can't keep epsilon=1"),
        ({"clipping": "adaptive"}, "moves its bound"),
        ({"clipping": AdaptiveClipping(1.0)}, "moves its bound"),
        ({"clipping": "round"}, "clipping must be one of"),
        ({"noise": 3}, "noise must be a NoiseSource"),
    ],
)
def test_arguments_out_of_range_are_named(options, named):
    with pytest.raises(ConfigurationError, match=named):
        planned(**options)


def test_one_object_is_for_one_federation():
    privacy = planned()
    privacy.charge([0])
    with pytest.raises(ConfigurationError, match="one object is for one federation"):
        privacy.plan([5, 5], batch_size=10, steps=[1, 1])
