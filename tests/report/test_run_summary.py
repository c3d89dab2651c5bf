"""The table at the end says what the ledger and the runs say."""

from __future__ import annotations

import json
import math

import pytest

from lightning_privacy.accounting import LaplaceRelease, PrivacyLedger, SampledGaussian
from lightning_privacy.accounting.epsilon_text import epsilon_text
from lightning_privacy.report import Guarantee, Outcome, RunSummary

OUTCOME = Outcome(steps=12, seconds=3.25, train={"acc": 0.912, "loss": 0.3}, test={"acc": 0.876, "loss": 0.4})
TWIN = Outcome(steps=9, seconds=1.0, train={"acc": 1.0, "loss": 0.0}, test={"acc": 0.985, "loss": 0.1})


@pytest.fixture
def ledger():
    ledger = PrivacyLedger(delta=1e-5)
    ledger.charge(SampledGaussian(noise_multiplier=2.0, sample_rate=0.1), count=12)
    return ledger


def _row(text: str, name: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(name)]
    return [cell.strip() for cell in line.split("│")[1:]]


def test_figures_are_those_of_ledger_and_outcomes(ledger):
    text = RunSummary(OUTCOME, Guarantee.of(ledger), TWIN).text()
    assert _row(text, "epsilon ") == [epsilon_text(ledger.epsilon(exact=True)), "-"]
    assert _row(text, "delta") == ["1e-05", "-"]
    assert _row(text, "noise multiplier") == ["2", "-"]
    assert _row(text, "sample rate") == ["0.1", "-"]
    assert _row(text, "steps") == ["12", "9"]
    assert _row(text, "train accuracy") == ["91.2%", "100.0%"]
    assert _row(text, "test accuracy") == ["87.6%", "98.5%"]
    assert _row(text, "seconds of training") == ["3.2", "1.0"]
    assert "zero-out" in text


def test_releases_of_the_data_are_no_guarantee_for_the_training(ledger):
    ledger.add_caveat("only the labels")
    summary = RunSummary(OUTCOME, data_releases=Guarantee.of(ledger))
    assert "trained without differential privacy" in summary.notes()[0]
    assert f"epsilon {epsilon_text(ledger.epsilon(exact=True))} at delta 1e-05; the training" in summary.notes()[1]
    assert "only the labels" in summary.notes()
    text = summary.text()
    assert "zero-out" in text
    assert not [line for line in text.splitlines() if line.startswith("epsilon ")]


def test_accuracies_of_groups_stand_side_by_side(ledger):
    """Names as GroupFairness logs them, for one attribute and for several."""
    mine = Outcome(
        1,
        1.0,
        {},
        {
            "acc": 0.8,
            "fairness/test/sex/accuracy/men / old": 0.75,
            "fairness/test/accuracy/0": 0.5,
            "fairness/test/accuracy/1": math.nan,
        },
    )
    other = Outcome(1, 1.0, {}, {"acc": 0.9, "fairness/test/sex/accuracy/men / old": 0.95})
    text = RunSummary(mine, Guarantee.of(ledger), other).text()
    assert _row(text, "  of sex men / old") == ["75.0%", "95.0%"]
    assert _row(text, "  of 0") == ["50.0%", "-"]
    assert _row(text, "  of 1") == ["-", "-"]
    assert "fairness" not in text


def test_epsilon_is_of_all_releases_and_steps_only_of_the_noisy_ones(ledger):
    ledger.charge(LaplaceRelease(epsilon=1.0), label="class counts")
    guarantee = Guarantee.of(ledger)
    assert guarantee.epsilon == ledger.epsilon(exact=True) > 1.0
    assert guarantee.steps == 12
    assert "class counts" in guarantee.table


def test_what_is_not_covered_is_said(ledger):
    ledger.add_caveat("the noise was seeded")
    notes = RunSummary(OUTCOME, Guarantee.of(ledger)).notes()
    assert "the noise was seeded" in notes
    assert any("private data itself" in note for note in notes)
    ledger.mark_not_private("raw gradients were logged")
    guarantee = Guarantee.of(ledger)
    assert math.isinf(guarantee.epsilon)
    assert _row(RunSummary(OUTCOME, guarantee).text(), "epsilon ") == ["infinite"]


def test_without_privacy_no_epsilon_is_claimed():
    summary = RunSummary(OUTCOME)
    assert "epsilon" not in summary.text()
    assert summary.notes() == ["This model was trained without differential privacy."]


def test_a_model_without_accuracy_has_its_metrics_shown(ledger):
    outcome = Outcome(steps=1, seconds=1.0, train={"loss": 0.25}, test={"loss": 0.5, "mae": 0.125})
    text = RunSummary(outcome, Guarantee.of(ledger)).text()
    assert _row(text, "train loss") == ["0.25"]
    assert _row(text, "test mae") == ["0.125"]


def test_files_hold_all_of_it(ledger, tmp_path):
    summary = RunSummary(OUTCOME, Guarantee.of(ledger), TWIN)
    summary.write(tmp_path)
    assert (tmp_path / "summary.txt").read_text() == summary.text()
    loaded = json.loads((tmp_path / "summary.json").read_text())
    assert loaded["outcome"]["test"] == {"acc": 0.876, "loss": 0.4}
    assert loaded["guarantee"]["epsilon"] == ledger.epsilon(exact=True)
    assert loaded["without_privacy"]["steps"] == 9
