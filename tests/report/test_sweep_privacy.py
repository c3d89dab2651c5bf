"""What a sweep costs as a whole: never less than what its runs have released."""

from __future__ import annotations

import math

import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.privacy_accountant import NeighboringRelation

from lightning_privacy.accounting import GaussianRelease, LaplaceRelease, PrivacyLedger, SampledGaussian
from lightning_privacy.accounting.best_of_runs import NegativeBinomialRuns, best_run_epsilon
from lightning_privacy.accounting.epsilon_text import epsilon_text
from lightning_privacy.accounting.sweep import SWEEP_CAVEAT
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.report.sweep_privacy import selection_privacy, sweep_privacy
from lightning_privacy.report.sweep_record import SweepEntry
from lightning_privacy.sweeps.random_runs import Selection


def ledger(*groups, delta: float = 1e-5, unit: str = "example") -> PrivacyLedger:
    made = PrivacyLedger(delta=delta, unit=unit)
    for release, count in groups:
        made.charge(release, count)
    return made


FIRST = ledger((SampledGaussian(1.5, 0.05), 100), (LaplaceRelease(0.1), 1))
SECOND = ledger((SampledGaussian(2.0, 0.05), 100), (LaplaceRelease(0.1), 1))


def test_p32_all_attempts_compose_as_the_accountant_says():
    entries = [
        SweepEntry("0", "finished", ledgers=(FIRST,)),
        SweepEntry("1", "killed", ledgers=(SECOND,)),
        SweepEntry("1", "finished", ledgers=(SECOND,)),
        SweepEntry("2", "failed"),
    ]
    accountant = PLDAccountant(NeighboringRelation.REPLACE_SPECIAL)
    for each in (FIRST, SECOND, SECOND):
        for release, count in each.groups:
            accountant.compose(release.event(), count)
    cost = sweep_privacy(entries)
    assert cost.known
    assert cost.epsilon == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-6)
    assert (cost.delta, cost.unit, cost.rule, cost.figure) == (
        1e-5,
        "example",
        "composition",
        epsilon_text(cost.epsilon),
    )
    assert cost.sentences == ("One attempt that did not finish is counted with what had been released until then.",)


def test_p32_an_unknown_cost_is_never_less():
    known = sweep_privacy([SweepEntry("0", "finished", ledgers=(FIRST,))])
    cost = sweep_privacy(
        [
            SweepEntry("0", "finished", ledgers=(FIRST,)),
            SweepEntry("1", "killed", ledgers=(SECOND,), unknown="it is gone"),
        ]
    )
    assert not cost.known
    assert cost.epsilon > known.epsilon
    assert cost.figure == f"unknown, at least {epsilon_text(cost.epsilon)}"
    assert "What run 1 has spent is not known: it is gone." in cost.sentences
    assert sweep_privacy([SweepEntry("0", "unknown", unknown="no account")]).figure == "unknown"
    assert not sweep_privacy([SweepEntry("0", "finished", ledgers=(FIRST,))], missing=["A line is damaged."]).known


def test_p32_one_run_without_privacy_makes_the_sweep_so():
    private = SweepEntry("0", "finished", ledgers=(FIRST,))
    cost = sweep_privacy([private, SweepEntry("1", "failed", private=False)])
    assert cost.epsilon == math.inf
    assert cost.private_epsilon == sweep_privacy([private]).epsilon
    assert cost.figure == "not private"
    assert "Runs without differential privacy: 1" in cost.sentences[0]
    unsure = SweepEntry("2", "killed", unknown="it is gone")
    cost = sweep_privacy([private, SweepEntry("1", "finished", private=False), unsure])
    assert cost.epsilon == math.inf
    assert cost.private_epsilon is None


def test_different_units_have_no_epsilon():
    clients = ledger((GaussianRelease(2.0), 1), unit="client")
    cost = sweep_privacy(
        [SweepEntry("0", "finished", ledgers=(FIRST,)), SweepEntry("1", "finished", ledgers=(clients,))]
    )
    assert not cost.known
    assert cost.unit is None
    assert "client, example" in cost.sentences[-1]


def test_the_delta_is_the_smallest_or_the_one_that_is_asked_for():
    runs = [
        SweepEntry("0", "finished", ledgers=(FIRST,)),
        SweepEntry("1", "finished", ledgers=(ledger((GaussianRelease(4.0), 1), delta=1e-7),)),
    ]
    cost = sweep_privacy(runs)
    assert cost.delta == 1e-7
    assert "different deltas" in cost.sentences[0]
    assert sweep_privacy(runs, delta=1e-3).epsilon < cost.epsilon
    with pytest.raises(ConfigurationError, match="delta"):
        sweep_privacy(runs, delta=2.0)


def test_what_was_released_in_no_run_costs_nothing():
    cost = sweep_privacy([SweepEntry("0", "failed"), SweepEntry("1", "failed", ledgers=(ledger(),))])
    assert (cost.known, cost.epsilon, cost.delta, cost.sentences) == (True, 0.0, None, ())


def test_settings_that_were_chosen_by_results_are_said():
    runs = [SweepEntry("0", "finished", ledgers=(FIRST,)), SweepEntry("1", "finished", ledgers=(SECOND,))]
    assert any("chosen by the results" in text for text in sweep_privacy(runs, adaptive=True).sentences)
    assert not any("chosen by the results" in text for text in sweep_privacy(runs).sentences)
    assert sweep_privacy([runs[0], runs[0]], adaptive=True).sentences == ()


def test_caveats_of_the_runs_are_those_of_the_sweep():
    noted = ledger((GaussianRelease(4.0), 1))
    noted.add_caveat(SWEEP_CAVEAT)
    noted.add_caveat("The run was resumed without its journal.")
    cost = sweep_privacy([SweepEntry("0", "finished", ledgers=(noted,))])
    assert cost.sentences == ("The run was resumed without its journal.",)


def test_p32_the_best_of_a_secret_number_of_runs():
    number = NegativeBinomialRuns.with_mean(20.0, shape=0.0)
    run = ledger((SampledGaussian(2.0, 0.01), 500))
    selection = Selection(run, number, "accuracy")
    cost = selection_privacy(selection, [])
    assert (cost.known, cost.rule) == (True, "random stopping")
    assert cost.epsilon == best_run_epsilon([run], number, delta=1e-5)
    assert cost.epsilon < sweep_privacy([SweepEntry("0", "finished", ledgers=(run,))] * 20).epsilon
    seen = selection_privacy(selection, [SweepEntry("0", "finished", ledgers=(run,))])
    assert not seen.known
