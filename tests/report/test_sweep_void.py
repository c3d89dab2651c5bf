"""A caveat that says that nothing is private does so wherever a ledger is turned into a figure."""

from __future__ import annotations

import math

from lightning_privacy.accounting import GaussianRelease, PrivacyLedger
from lightning_privacy.accounting.best_of_runs import NegativeBinomialRuns
from lightning_privacy.accounting.sweep import sweep_epsilon
from lightning_privacy.report.sweep_data import sweep_data
from lightning_privacy.report.sweep_record import SweepEntry, SweepRecord
from lightning_privacy.serving.privacy_statement import PrivacyStatement
from lightning_privacy.sweeps.attempts import AttemptLog, Ended, Started
from lightning_privacy.sweeps.random_runs import Selection
from lightning_privacy.sweeps.spending import Spending

SEEDED = "The noise was drawn from a fixed seed: whoever knows the seed can remove it. NOT PRIVATE."


def _ledger(*caveats: str) -> PrivacyLedger:
    ledger = PrivacyLedger(delta=1e-5)
    ledger.charge(GaussianRelease(4.0), 2, label="steps")
    for caveat in caveats:
        ledger.add_caveat(caveat)
    return ledger


def test_p25_a_sweep_with_seeded_noise_is_not_private(tmp_path):
    figures = {"epsilon": 1.0, "accuracy": 0.9}
    entries = tuple(
        SweepEntry(str(n), "finished", figures=figures, ledgers=(_ledger(*c),)) for n, c in ((0, [SEEDED]), (1, []))
    )
    data = sweep_data(SweepRecord(tmp_path, entries))
    privacy = data["privacy"]
    assert (privacy["private"], privacy["figure"], privacy["epsilon"]) == (False, "not private", None)
    assert privacy["private_runs_epsilon"] == sweep_epsilon([_ledger()])
    assert SEEDED in privacy["sentences"]
    assert [(run["private"], run["figures"]["epsilon"]) for run in data["runs"]] == [(False, None), (True, 1.0)]


def test_p25_a_secret_search_with_seeded_noise_is_not_private(tmp_path):
    Selection(_ledger(SEEDED), NegativeBinomialRuns.with_mean(10.0), "accuracy").write(tmp_path)
    privacy = sweep_data(SweepRecord(tmp_path, ()))["privacy"]
    assert (privacy["private"], privacy["figure"]) == (False, "not private")


def test_p25_a_model_with_seeded_noise_is_not_exported_as_private():
    assert PrivacyStatement.of(_ledger()).private
    for statement in (PrivacyStatement.of(_ledger(SEEDED)), PrivacyStatement.of(_ledger(), caveats=(SEEDED,))):
        assert (statement.private, statement.epsilon, statement.replace_one_epsilon) == (False, None, None)
        assert statement.text.startswith("Not private")


def test_p25_a_caveat_outlives_the_attempt_that_had_it(tmp_path):
    (tmp_path / "0").mkdir()
    AttemptLog(tmp_path).write(Started("a", "0", "c"))
    ledger, spending = PrivacyLedger(delta=1e-5), Spending(tmp_path, tmp_path / "0", "a")
    spending.watch([ledger])
    ledger.add_caveat(SEEDED)
    ledger.charge(GaussianRelease(4.0), 2)
    AttemptLog(tmp_path).write(Ended("a", "killed"))
    (entry,) = SweepRecord.read(tmp_path).entries
    assert (entry.private, entry.unknown, entry.ledgers[0].groups) == (False, "", ledger.groups)
    assert sweep_epsilon([*entry.ledgers]) == math.inf
