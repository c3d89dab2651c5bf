"""A ledger survives its file: the same releases, the same epsilon, nothing that JSON does not have."""

from __future__ import annotations

import json

import pytest

from lightning_privacy.accounting import GaussianRelease, LaplaceRelease, NonPrivate, PrivacyLedger, SampledGaussian
from lightning_privacy.callbacks._balance_cost import CellCost
from lightning_privacy.errors import CheckpointError
from lightning_privacy.report.ledger_file import ledger_of, ledger_values, read_ledger, write_ledger


@pytest.fixture(scope="module")
def ledger():
    ledger = PrivacyLedger(delta=1e-6, budget=8.0, unit="client")
    ledger.charge(SampledGaussian(noise_multiplier=4.0, sample_rate=0.2), count=7, label="rounds")
    ledger.charge(GaussianRelease(noise_multiplier=9.0), label="a sum")
    ledger.add_caveat("One thing.")
    return ledger


def test_what_is_read_is_what_was_written(ledger, tmp_path):
    read = read_ledger(write_ledger(str(tmp_path), ledger))
    assert read.history == ledger.history
    assert read.caveats == ledger.caveats
    assert (read.unit, read.delta) == ("client", 1e-6)
    assert read.epsilon(exact=True) == ledger.epsilon(exact=True)
    assert read.budget is None  # nothing more is charged to what is read


def test_figures_are_the_ledgers_own(ledger):
    values = ledger_values(ledger, classes=[CellCost("rare", 0.2, float("inf"))], covers="data", complete=False)
    assert values["epsilon"] == ledger.epsilon(exact=True)
    assert values["replace_one_epsilon"] == ledger.replace_one_epsilon()
    assert (values["budget"], values["covers"], values["complete"], values["private"]) == (8.0, "data", False, True)
    alone = PrivacyLedger(delta=1e-6)
    alone.charge(GaussianRelease(noise_multiplier=9.0))
    assert values["releases"][1]["epsilon_alone"] == alone.epsilon(exact=True)
    assert sum(release["share"] for release in values["releases"]) == pytest.approx(1.0)
    assert values["classes"] == [{"name": "rare", "rate": 0.2, "epsilon": None}]


def test_an_infinite_epsilon_is_null_and_stays_infinite(tmp_path):
    ledger = PrivacyLedger(delta=1e-5)
    ledger.charge(NonPrivate("raw"))
    ledger.charge(LaplaceRelease(epsilon=0.1))
    path = write_ledger(tmp_path, ledger)
    values = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert values["epsilon"] is values["replace_one_epsilon"] is values["releases"][0]["epsilon_alone"] is None
    assert values["private"] is False
    assert read_ledger(path).epsilon() == float("inf")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no ledger"),
        ("[]", "holds no ledger: it is a list"),
        ('{"version": 2}', "of version 2"),
        ('{"version": 1}', "releases of the ledger must be a list"),
        ('{"version": 1, "releases": [], "unit": "u", "delta": 2, "epsilon": 0, "caveats": []}', "delta must be"),
        ('{"version": 1, "releases": [1], "unit": "u", "delta": 0.1, "epsilon": 0, "caveats": []}', "can't be read"),
        ('{"version": 1, "releases": [], "unit": "u", "delta": 0.1, "epsilon": "x", "caveats": []}', "epsilon of the"),
    ],
)
def test_what_is_no_ledger_is_refused(tmp_path, content, message):
    (tmp_path / "ledger.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        read_ledger(tmp_path / "ledger.json")


def test_a_release_that_nobody_knows_is_refused(ledger):
    values = ledger_values(ledger)
    values["releases"][0]["parameters"] = {"kind": "magic"}
    with pytest.raises(CheckpointError, match="unknown release kind 'magic'"):
        ledger_of(values)
