from __future__ import annotations

import pytest

from lightning_privacy.accounting.budget import BudgetGate
from lightning_privacy.accounting.pld import exact_epsilon
from lightning_privacy.accounting.releases import (
    GaussianRelease,
    LaplaceRelease,
    NonPrivate,
    SampledGaussian,
)

STEP = SampledGaussian(4.0, 0.05)
DELTA = 1e-5


def _check_largest(gate: BudgetGate, counts: dict, release, answer: int) -> None:
    """The answer fits, and one more does not."""

    def epsilon(more: int) -> float:
        changed = {**counts, release: counts.get(release, 0) + more}
        return exact_epsilon(tuple(changed.items()), delta=DELTA)

    assert answer == 0 or epsilon(answer) <= gate.budget
    assert epsilon(answer + 1) > gate.budget


@pytest.mark.parametrize("budget", [0.05, 0.5, 1.5])
@pytest.mark.parametrize("counts", [{}, {STEP: 40}, {LaplaceRelease(0.02): 1, STEP: 7}])
def test_largest_is_the_largest(budget: float, counts: dict) -> None:
    gate = BudgetGate(delta=DELTA, budget=budget)
    answer = gate.largest(counts, STEP, limit=10**9)
    _check_largest(gate, counts, STEP, answer)
    assert gate.evaluations <= 16


def test_largest_is_cut_at_the_limit_with_few_evaluations() -> None:
    gate = BudgetGate(delta=DELTA, budget=1.5)
    assert gate.largest({}, STEP, limit=100) == 100
    assert gate.evaluations <= 4


@pytest.mark.parametrize(
    ("release", "budget"), [(LaplaceRelease(0.3), 1.0), (GaussianRelease(6.0), 2.0), (LaplaceRelease(0.3), 0.2)]
)
def test_largest_of_other_kinds(release, budget: float) -> None:
    gate = BudgetGate(delta=DELTA, budget=budget)
    _check_largest(gate, {}, release, gate.largest({}, release, limit=1000))


def test_a_limit_far_out_of_reach_is_not_composed() -> None:
    gate = BudgetGate(delta=DELTA, budget=0.5)
    gate._breaks.append({STEP: 10**15})  # as after a charge of so many was refused
    answer = gate.largest({}, STEP, limit=10**18)
    _check_largest(gate, {}, STEP, answer)
    assert max(counts[STEP] for counts in gate._breaks) < 100 * answer


def test_asking_again_costs_nothing() -> None:
    gate = BudgetGate(delta=DELTA, budget=0.5)
    answer = gate.largest({}, STEP, limit=10**6)
    evaluations = gate.evaluations
    for done in range(0, answer + 1, 7):
        assert gate.largest({STEP: done}, STEP, limit=10**6) == answer - done
        assert gate.fits({STEP: done})
    assert not gate.fits({STEP: answer + 1})
    assert gate.evaluations == evaluations


def test_fits_step_by_step_agrees_with_the_exact_figure() -> None:
    # Of tens of thousands of steps some hundred lie where only the exact figure can tell.
    step = SampledGaussian(60.0, 0.02)
    gate = BudgetGate(delta=DELTA, budget=0.2)
    last = BudgetGate(delta=DELTA, budget=0.2).largest({}, step, limit=10**6)
    assert last > 20_000
    count = int(0.97 * last)
    while gate.fits({step: count + 1}):
        count += 1
    assert count == last
    assert gate.evaluations <= 30


def test_fits_with_two_kinds_in_turn() -> None:
    # The Laplace release comes once; were it counted among what comes next, every look ahead would fail.
    kinds = (SampledGaussian(20.0, 0.02), SampledGaussian(60.0, 0.02))
    gate = BudgetGate(delta=DELTA, budget=0.25)
    counts = {LaplaceRelease(0.1): 1, kinds[0]: 1, kinds[1]: 1}
    turn = 0
    while True:
        ahead = counts | {kinds[turn % 2]: counts[kinds[turn % 2]] + 1}
        if not gate.fits(ahead):
            break
        counts, turn = ahead, turn + 1
    assert exact_epsilon(tuple(counts.items()), delta=DELTA) <= 0.25
    assert exact_epsilon(tuple(ahead.items()), delta=DELTA) > 0.25
    assert turn > 2000
    assert gate.evaluations <= 30


def test_what_is_not_private_never_fits() -> None:
    gate = BudgetGate(delta=DELTA, budget=100.0)
    assert not gate.fits({NonPrivate("x"): 1})
    assert gate.largest({}, GaussianRelease(0), limit=5) == 0
    assert gate.largest({NonPrivate("x"): 1}, STEP, limit=5) == 0


def test_a_state_that_is_over_budget_affords_nothing() -> None:
    gate = BudgetGate(delta=DELTA, budget=0.1)
    assert gate.largest({LaplaceRelease(0.5): 1}, STEP, limit=50) == 0
    assert not gate.fits({LaplaceRelease(0.5): 1, STEP: 1})
