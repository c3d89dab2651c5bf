"""What an attempt writes down before it spends it."""

from __future__ import annotations

import pytest

from lightning_privacy.accounting import LaplaceRelease, LedgerJournal, PrivacyLedger, SampledGaussian
from lightning_privacy.sweeps import spending as module
from lightning_privacy.sweeps.attempts import AttemptLog, Started
from lightning_privacy.sweeps.spending import Spending, account_for, present_spending, set_present_spending

STEP = SampledGaussian(2.0, 0.1)


@pytest.fixture
def spending(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PRESENT", [])
    AttemptLog(tmp_path).write(Started("a", run="0", config="c"))
    made = Spending(tmp_path, tmp_path / "0", "a")
    set_present_spending(made)
    return made


def test_every_charge_of_every_ledger_is_on_disk(spending, tmp_path):
    training, data = PrivacyLedger(delta=1e-5), PrivacyLedger(delta=1e-6, unit="person")
    data.charge(LaplaceRelease(0.1), 2)
    account_for([training, None, data, training])
    training.charge(STEP, 3)
    training.charge(STEP)
    (attempt,), complete = AttemptLog(tmp_path).read()
    assert complete
    assert [(account.unit, account.delta) for account in attempt.accounts.accounts] == [
        ("example", 1e-5), ("person", 1e-6),
    ]  # fmt: skip
    read = [LedgerJournal.read(tmp_path / "0" / account.journal, "a") for account in attempt.accounts.accounts]
    assert read == [[(STEP, 4)], [(LaplaceRelease(0.1), 2)]]
    assert spending.result() == {"covers": "all", "ledgers": [training.state_dict(), data.state_dict()]}


def test_nothing_is_spent_that_could_not_be_written_down(spending, tmp_path, monkeypatch):
    ledger = PrivacyLedger(delta=1e-5)
    account_for([ledger])

    def full(descriptor: int, line: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightning_privacy.accounting.journal.os.write", full)
    with pytest.raises(OSError, match="make room"):
        ledger.charge(STEP)
    assert ledger.groups == ()


def test_outside_of_a_sweep_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PRESENT", [])
    monkeypatch.chdir(tmp_path)
    assert present_spending() is None
    account_for([PrivacyLedger(delta=1e-5)])
    assert list(tmp_path.iterdir()) == []
