from __future__ import annotations

import pytest

from lightning_privacy.accounting import GaussianRelease, PrivacyLedger, SampledGaussian
from lightning_privacy.callbacks._budget_horizon import BudgetHorizon

STEP = SampledGaussian(2.0, 0.1)


@pytest.mark.parametrize("ahead", [1, 7, 1000])
def test_p30_answers_equal_the_ledgers_whatever_was_worked_out_before(ahead: int) -> None:
    ledger = PrivacyLedger(delta=1e-5, budget=1.5)
    horizon = BudgetHorizon(ledger, STEP)
    reference = PrivacyLedger(delta=1e-5, budget=1.5)
    taken = 0
    while True:
        steps = horizon.steps(needed=6, ahead=ahead)
        assert steps == reference.affordable(STEP, 6)
        if steps == 0:
            break
        ledger.charge(STEP, steps)
        reference.charge(STEP, steps)
        taken += steps
    assert taken == PrivacyLedger(delta=1e-5, budget=1.5).affordable(STEP, 1000)


def test_p30_what_others_charge_is_noticed() -> None:
    ledger = PrivacyLedger(delta=1e-5, budget=1.5)
    horizon = BudgetHorizon(ledger, STEP)
    before = horizon.steps(needed=1000, ahead=1000)
    ledger.charge(GaussianRelease(5.0))
    assert horizon.steps(needed=1000, ahead=1000) == ledger.affordable(STEP, 1000) < before


def test_a_question_is_worked_out_once_for_all_epochs() -> None:
    ledger = PrivacyLedger(delta=1e-5, budget=3.0)
    horizon, asked = BudgetHorizon(ledger, STEP), []
    affordable = ledger.affordable
    ledger.affordable = lambda release, limit: asked.append(limit) or affordable(release, limit)
    for _ in range(10):
        assert horizon.steps(needed=6, ahead=51) == 6
        ledger.charge(STEP, 5)
    assert asked == [51]


def test_without_a_budget_everything_can_be_paid() -> None:
    assert BudgetHorizon(PrivacyLedger(delta=1e-5), STEP).steps(needed=10**9, ahead=1) == 10**9
