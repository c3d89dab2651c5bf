"""Ledgers of clients, against a composition for each of them."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_privacy.accounting import GaussianRelease, PrivacyLedger, SampledGaussian
from lightning_privacy.federated.client_ledgers import ClientLedgers
from lightning_privacy.federated.example_costs import ClientCost


def alone(rate, count):
    """Epsilon of so many steps, from a ledger of their own."""
    ledger = PrivacyLedger(delta=1e-5)
    ledger.charge(SampledGaussian(1.0, rate), count)
    return ledger.epsilon(exact=True)


def charged(steps):
    """Ledgers of clients with (rate, counts)."""
    ledgers = ClientLedgers(delta=1e-5, budget=None)
    for client, (rate, counts) in steps.items():
        for count in counts:
            ledgers.charge(client, SampledGaussian(1.0, rate), rate, count, "steps")
    return ledgers


@pytest.mark.parametrize("seed", range(3))
def test_the_largest_is_that_of_all_compositions(seed):
    generator = np.random.default_rng(seed)
    rates, counts = generator.choice([0.05, 0.1, 0.3], 6), generator.integers(1, 60, (6, 2)).tolist()
    steps = {10 - client: (float(rates[client]), counts[client]) for client in range(6)}
    ledgers = charged(steps)
    expected = {client: alone(rate, sum(counts)) for client, (rate, counts) in steps.items()}
    assert ledgers.clients == sorted(steps)
    for client, epsilon in expected.items():
        assert ledgers.epsilon(client, exact=True) == epsilon
    assert ledgers.epsilon(exact=True) == max(expected.values())
    assert expected[ledgers.weakest()] == max(expected.values())
    assert ledgers.epsilon_bound() >= max(expected.values())


def test_few_steps_at_a_high_rate_may_cost_more_than_many_at_a_low_one_and_less():
    for counts, weakest in [(2, 1), (400, 2)]:
        ledgers = charged({1: (0.5, [2]), 2: (0.1, [counts])})
        assert ledgers.weakest() == weakest
        assert max((1, 2), key=lambda client: ledgers.epsilon(client, exact=True)) == weakest


def test_before_any_charge_there_is_nothing():
    ledgers = ClientLedgers(delta=1e-5, budget=1.0)
    assert ledgers.clients == []
    assert ledgers.weakest() is None
    assert ledgers.epsilon() == ledgers.epsilon(3) == ledgers.epsilon_bound() == 0.0
    ledgers.ledger(3).charge(GaussianRelease(1.0))
    assert ledgers.ledger(3).history == []  # who asks before a charge gets a ledger that nothing is kept of
    assert ledgers.ledger(3).unit == "example"


def test_the_history_has_labels_and_adds_up():
    ledgers = charged({4: (0.1, [3, 5])})
    ledgers.charge(4, SampledGaussian(1.0, 0.1), 0.1, 2, "later")
    step = SampledGaussian(1.0, 0.1)
    assert ledgers.ledger(4).history == [(step, 8, "steps"), (step, 2, "later")]
    assert ledgers.ledger(5).history == []


def test_caveats_are_in_ledgers_of_before_and_after_once():
    ledgers = charged({1: (0.1, [1])})
    ledgers.add_caveat("limit")
    ledgers.add_caveat("limit")
    ledgers.charge(2, SampledGaussian(1.0, 0.1), 0.1, 1, "steps")
    assert ledgers.caveats == ("limit",)
    for client in (1, 2, 3):
        assert ledgers.ledger(client).caveats == ("limit",)


def test_p30_a_budget_is_asked_for_each_client():
    rate, budget = 0.2, 3.0
    most = PrivacyLedger(delta=1e-5, budget=budget).affordable(SampledGaussian(1.0, rate), 1000)
    ledgers = ClientLedgers(delta=1e-5, budget=budget)
    assert ledgers.affords(ClientCost(SampledGaussian(1.0, rate), rate, most))
    assert not ledgers.affords(ClientCost(SampledGaussian(1.0, rate), rate, most + 1))
    without = ClientLedgers(delta=1e-5, budget=None)
    assert without.affords(ClientCost(SampledGaussian(1.0, rate), rate, 10**6))
