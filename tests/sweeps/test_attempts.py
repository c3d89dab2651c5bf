"""The record of a sweep: what is written is read again, whatever happened in between."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from lightning_privacy.sweeps.attempts import Account, Accounts, AttemptLog, Ended, Started

STARTED = Started("a", run="0", config="c", overrides=("x=1", "y=2"), time="now")
ACCOUNTS = Accounts("a", (Account("privacy_ledger/a_0.jsonl", "client", 1e-6),), "end")
ENDED = Ended("a", "killed", "its process got SIGKILL", "later")


def test_what_was_written_is_read(tmp_path):
    log = AttemptLog(tmp_path)
    for event in (STARTED, Started("b", run="1", config="d"), ACCOUNTS, ENDED):
        log.write(event)
    (first, second), complete = log.read()
    assert complete
    assert (first.started, first.accounts, first.ended) == (STARTED, ACCOUNTS, ENDED)
    assert (second.run, second.accounts, second.ended) == ("1", None, None)


def test_no_record_is_an_empty_one(tmp_path):
    assert AttemptLog(tmp_path).read() == ([], True)


def test_a_line_that_was_cut_off_is_missed_and_swallows_no_other(tmp_path):
    log = AttemptLog(tmp_path)
    log.write(STARTED)
    with log.path.open("a") as file:
        file.write('{"event": "accounts", "att')
    log.write(ENDED)
    (attempt,), complete = log.read()
    assert not complete
    assert attempt.ended == ENDED
    assert attempt.accounts is None


@pytest.mark.parametrize(
    "line",
    [
        "7",
        '{"event": "other"}',
        '{"event": "started"}',
        json.dumps({"event": "accounts", "attempt": "a", "covers": "all", "accounts": [{"journal": 1}]}),
        json.dumps({"event": "ended", "attempt": "unknown", "how": "failed"}),
    ],
    ids=["number", "event", "fields", "account", "attempt"],
)
def test_a_damaged_line_is_noticed(tmp_path, line):
    log = AttemptLog(tmp_path)
    log.write(STARTED)
    with log.path.open("a") as file:
        file.write(line + "\n")
    attempts, complete = log.read()
    assert len(attempts) == 1
    assert not complete


def test_writers_do_not_mix_their_lines(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: AttemptLog(tmp_path).write(Started(str(n), run="0" * 300, config="c")), range(200)))
    attempts, complete = AttemptLog(tmp_path).read()
    assert complete
    assert {attempt.name for attempt in attempts} == {str(n) for n in range(200)}


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        AttemptLog(tmp_path / "nowhere").write(STARTED)
