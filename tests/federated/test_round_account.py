"""The account of rounds, against counts kept by hand."""

from __future__ import annotations

import json
import pickle

import pytest

from lightning_privacy.accounting import PrivacyLedger, SampledGaussian
from lightning_privacy.errors import CheckpointError, PrivacyBudgetExceeded, PrivacyViolation
from lightning_privacy.federated.round_account import RoundAccount

ROUND = SampledGaussian(2.0, 0.1)


def account(**options):
    return RoundAccount(PrivacyLedger(**{"delta": 1e-5, "unit": "client"} | options))


def charged(number, **options):
    made = account(**options)
    for round_number in range(number):
        made.charge(round_number, ROUND, "rounds")
    return made


def test_a_charge_pays_for_one_release_of_its_round():
    made = account()
    with pytest.raises(PrivacyViolation, match=r"round 0 .* without a charge of its own \(charged: None\)"):
        made.use(0)
    made.charge(0, ROUND, "rounds")
    for wrong in (-1, 1):
        with pytest.raises(PrivacyViolation, match=r"\(charged: 0\)"):
            made.use(wrong)
    made.refuse_uncharged(0)  # asking uses nothing
    made.use(0)
    for again in (made.use, made.refuse_uncharged):
        with pytest.raises(PrivacyViolation, match="round 0 is to be released without"):
            again(0)
    # A later charge replaces one that was not used: at most one release is open.
    made.charge(1, ROUND, "rounds")
    made.charge(4, ROUND, "rounds")
    with pytest.raises(PrivacyViolation, match=r"round 1 .*\(charged: 4\)"):
        made.use(1)
    with pytest.raises(PrivacyViolation, match="round 3 was released already, the next is 5"):
        made.charge(3, ROUND, "rounds")
    made.use(4)
    assert made.ledger.history == [(ROUND, 3, "rounds")]


@pytest.mark.parametrize("number", [0, 3])
def test_no_round_is_charged_a_second_time(number):
    made = charged(4)
    with pytest.raises(PrivacyViolation, match=f"round {number} was released already, the next is 4"):
        made.charge(number, ROUND, "rounds")
    assert made.ledger.count(ROUND) == 4


def test_what_breaks_the_budget_is_neither_charged_nor_written_nor_paid(tmp_path):
    most = PrivacyLedger(delta=1e-5, budget=0.5, unit="client").affordable(ROUND, 1000)
    made = charged(most, budget=0.5)
    made.use(most - 1)
    made.keep_journal(tmp_path / "rounds.jsonl")
    with pytest.raises(PrivacyBudgetExceeded):
        made.charge(most, ROUND, "rounds")
    assert made.ledger.count(ROUND) == most
    assert not any(json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines())
    with pytest.raises(PrivacyViolation):
        made.use(most)


def test_p26_a_journal_brings_back_what_came_after_the_checkpoint(tmp_path):
    first = charged(2)
    first.keep_journal(tmp_path / "a.jsonl")
    state = pickle.loads(pickle.dumps(first.state_dict()))
    for number in (2, 3, 4):
        first.charge(number, ROUND, "rounds")
    second = account()
    second.load_state_dict(state)
    assert second.run_id == first.run_id
    # Wherever it logs now: the state knows the file.
    second.keep_journal(tmp_path / "elsewhere.jsonl")
    assert not (tmp_path / "elsewhere.jsonl").exists()
    assert second.ledger.history == [(ROUND, 2, "rounds"), (ROUND, 3, "rounds after the checkpoint")]
    # Lost rounds are done again: their numbers are free, and they cost once more.
    with pytest.raises(PrivacyViolation, match="the next is 2"):
        second.charge(1, ROUND, "rounds")
    second.charge(2, ROUND, "rounds")
    assert second.ledger.count(ROUND) == 6
    third = account()
    third.load_state_dict(state)
    third.keep_journal(tmp_path / "a.jsonl", write=False)
    assert third.ledger.count(ROUND) == 6
    before = (tmp_path / "a.jsonl").read_text()
    third.charge(2, ROUND, "rounds")
    assert (tmp_path / "a.jsonl").read_text() == before


def test_another_run_in_the_same_file_is_not_charged(tmp_path):
    other, made = charged(3), charged(1)
    for each in (other, made):
        each.keep_journal(tmp_path / "rounds.jsonl")
    other.charge(3, ROUND, "rounds")
    made.keep_journal(tmp_path / "rounds.jsonl")
    assert made.ledger.count(ROUND) == 1
    assert other.run_id != made.run_id


def test_a_journal_that_is_gone_is_a_caveat(tmp_path):
    first = charged(1)
    first.keep_journal(tmp_path / "gone.jsonl", write=False)
    second = account()
    second.load_state_dict(first.state_dict())
    second.keep_journal(tmp_path / "new.jsonl")
    assert any("resumed without its journal" in caveat for caveat in second.ledger.caveats)
    second.charge(1, ROUND, "rounds")
    assert (tmp_path / "new.jsonl").exists()
    assert second.state_dict()["journal"] == str(tmp_path / "new.jsonl")
    assert not first.ledger.caveats


def test_a_charge_of_before_the_resume_pays_for_nothing():
    made = charged(1)
    state = made.state_dict()
    made.load_state_dict(state)
    with pytest.raises(PrivacyViolation, match=r"\(charged: None\)"):
        made.use(0)
    assert made.ledger.count(ROUND) == 1  # of the same run in the same process: once


def test_what_another_run_spent_here_is_added():
    made, saved = charged(2), charged(3)
    made.load_state_dict(saved.state_dict())
    assert made.ledger.count(ROUND) == 5
    # The same run, and a ledger that this process charged with something else only: that is no charge of the run.
    fresh = account()
    fresh.ledger.charge(ROUND, label="something else")
    fresh.run_id = saved.run_id
    fresh.load_state_dict(saved.state_dict())
    assert fresh.ledger.count(ROUND) == 4


def test_a_ledger_of_another_unit_is_refused_and_nothing_is_taken_over():
    made, other = charged(1), RoundAccount(PrivacyLedger(delta=1e-5))
    before = made.run_id
    with pytest.raises(CheckpointError):
        made.load_state_dict(other.state_dict() | {"next_round": 9})
    assert made.run_id == before
    with pytest.raises(PrivacyViolation, match="the next is 1"):
        made.charge(0, ROUND, "rounds")
