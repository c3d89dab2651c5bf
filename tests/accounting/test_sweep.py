"""What several runs cost together, against closed forms and another accountant; and how a run notices its sweep."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.privacy_accountant import NeighboringRelation
from scipy.stats import norm

from lightning_privacy.accounting import (
    GaussianRelease,
    LaplaceRelease,
    NonPrivate,
    PrivacyLedger,
    SampledGaussian,
)
from lightning_privacy.accounting.sweep import SWEEP_CAVEAT, note_sweep, running_sweep, sweep_epsilon
from lightning_privacy.errors import ConfigurationError


def ledger(*groups, delta: float = 1e-5, unit: str = "example") -> PrivacyLedger:
    made = PrivacyLedger(delta=delta, unit=unit)
    for release, count in groups:
        made.charge(release, count)
    return made


def delta_of_gaussian(sigma: float, epsilon: float) -> float:
    """Balle and Wang, 2018, Theorem 8, for sensitivity 1."""
    return norm.cdf(1 / (2 * sigma) - epsilon * sigma) - math.exp(epsilon) * norm.cdf(
        -1 / (2 * sigma) - epsilon * sigma
    )


def test_p32_gaussian_runs_cost_what_one_with_all_their_precision_costs() -> None:
    sigmas = [1.0, 2.0, 4.0, 4.0]
    together = sweep_epsilon([ledger((GaussianRelease(sigma), 1)) for sigma in sigmas])
    joint = sum(sigma**-2 for sigma in sigmas) ** -0.5
    assert delta_of_gaussian(joint, together) == pytest.approx(1e-5, rel=1e-3)


def test_p32_different_runs_against_the_accountant() -> None:
    runs = [
        ledger((LaplaceRelease(0.1), 1), (SampledGaussian(1.5, 0.02), 200)),
        ledger((SampledGaussian(1.5, 0.02), 200)),
        ledger((SampledGaussian(2.5, 0.05), 100)),
        ledger(),
    ]
    accountant = PLDAccountant(NeighboringRelation.REPLACE_SPECIAL)
    for run in runs:
        for release, count in run.groups:
            accountant.compose(release.event(), count)
    # The order of composition moves the last digits.
    assert sweep_epsilon(runs) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-6)
    assert sweep_epsilon(runs) > max(run.epsilon(exact=True) for run in runs)
    assert sweep_epsilon(runs[:1]) == runs[0].epsilon(exact=True)
    assert sweep_epsilon(runs[:2], delta=1e-3) < sweep_epsilon(runs[:2])


def test_a_run_that_is_not_private_makes_the_sweep_so() -> None:
    assert sweep_epsilon([ledger(), ledger((NonPrivate("no noise"), 1))]) == math.inf
    assert sweep_epsilon([ledger(), ledger()]) == 0.0


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([], "at least one"),
        ([ledger(), ledger(unit="client")], "client"),
        ([ledger(), ledger(delta=1e-6)], "pass delta="),
    ],
    ids=["none", "units", "deltas"],
)
def test_what_does_not_compose_is_refused(runs, message) -> None:
    with pytest.raises(ConfigurationError, match=message):
        sweep_epsilon(runs)


@pytest.mark.parametrize(
    ("mode", "initialized", "agent", "expected"),
    [
        ("MULTIRUN", True, None, "Hydra multirun"),
        ("RUN", True, None, None),
        ("MULTIRUN", False, None, None),
        (None, True, "a1b2", "W&B sweep"),
    ],
    ids=["multirun", "one job", "no job", "agent"],
)
def test_p32_a_run_notices_that_it_is_one_of_a_sweep(monkeypatch, mode, initialized, agent, expected) -> None:
    def get():
        assert initialized
        return SimpleNamespace(mode=None if mode is None else SimpleNamespace(name=mode))

    module = SimpleNamespace(HydraConfig=SimpleNamespace(initialized=lambda: initialized, get=get))
    monkeypatch.setitem(sys.modules, "hydra.core.hydra_config", module)
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    if agent is not None:
        monkeypatch.setenv("WANDB_SWEEP_ID", agent)
    assert running_sweep() == expected
    noted = ledger()
    note_sweep(noted)
    note_sweep(noted)
    assert noted.caveats == (() if expected is None else (SWEEP_CAVEAT,))


def test_without_hydra_there_is_no_sweep(monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "hydra.core.hydra_config", raising=False)
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    assert running_sweep() is None
