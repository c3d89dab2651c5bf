from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_privacy.accounting import (
    GaussianRelease,
    LedgerJournal,
    NonPrivate,
    PrivacyLedger,
    SampledGaussian,
    missing_charges,
)
from lightning_privacy.errors import CheckpointError, ConfigurationError

STEP = SampledGaussian(1.1, 0.01)


def test_largest_total_of_each_release_and_run(tmp_path: Path) -> None:
    path = tmp_path / "charges.jsonl"
    assert LedgerJournal.read(path, "a") == []
    with LedgerJournal(path, "a") as journal:
        for total in (1, 2, 3):
            journal.record(STEP, total)
        journal.record(NonPrivate("line\nbreak"), 1)
        journal.record(STEP, 2)  # a run that was taken up from an older checkpoint
    with LedgerJournal(path, "b") as other:
        other.record(GaussianRelease(3.0), 7)
    assert LedgerJournal.read(path, "a") == [(STEP, 3), (NonPrivate("line\nbreak"), 1)]
    assert LedgerJournal.read(path, "b") == [(GaussianRelease(3.0), 7)]


def test_p26_charges_survive_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "charges.jsonl"
    program = (
        "import os, signal, sys\n"
        "from lightning_privacy.accounting.journal import LedgerJournal\n"
        "from lightning_privacy.accounting.releases import SampledGaussian\n"
        "journal = LedgerJournal(sys.argv[1], 'a')\n"
        "for total in range(1, 1001):\n"
        "    journal.record(SampledGaussian(1.1, 0.01), total)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    restored = PrivacyLedger(delta=1e-5)
    restored.charge(STEP, 900)
    assert missing_charges(restored, LedgerJournal.read(path, "a")) == [(STEP, 100)]


def test_a_ledger_that_knows_more_misses_nothing() -> None:
    ledger = PrivacyLedger(delta=1e-5)
    ledger.charge(STEP, 9)
    assert missing_charges(ledger, [(STEP, 9)]) == []
    assert missing_charges(ledger, [(STEP, 4)]) == []
    assert missing_charges(ledger, [(GaussianRelease(2.0), 4)]) == [(GaussianRelease(2.0), 4)]


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_line_cut_off_at_the_end_is_tolerated_and_mended(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "charges.jsonl"
    with LedgerJournal(path, "a") as journal:
        journal.record(STEP, 1)
        journal.record(STEP, 2)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    # Only the newline is missing: the line counts, which can only be too much.
    known = 2 if cut == 1 else 1
    assert LedgerJournal.read(path, "a") == [(STEP, known)]
    with LedgerJournal(path, "a") as journal:
        journal.record(STEP, 5)
    assert LedgerJournal.read(path, "a") == [(STEP, 5)]
    assert path.read_bytes().count(b"\n") == known + 1


@pytest.mark.parametrize(
    "garbage",
    [
        b"garbage",
        b"",
        b"\xff\xfe\x00",
        b"[1, 2]",
        b'{"run": "a", "release": {"kind": "magic"}, "total": 1}',
        b'{"run": "a", "release": {"kind": "laplace", "epsilon": 1.0}, "total": 0}',
        b'{"run": 3, "release": {"kind": "laplace", "epsilon": 1.0}, "total": 1}',
        b'{"run": "a", "total": 1}',
    ],
)
def test_damage_elsewhere_is_refused(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "charges.jsonl"
    with LedgerJournal(path, "a") as journal:
        journal.record(STEP, 1)
        journal.record(STEP, 2)
    first, second, _ = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([first, garbage, second, b""]))
    with pytest.raises(CheckpointError, match=f"line 2 of the ledger journal {path} is damaged"):
        LedgerJournal.read(path, "a")


def test_a_folder_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "charges.jsonl"
    with pytest.raises(FileNotFoundError, match=str(path)):
        LedgerJournal(path, "a")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    path = tmp_path / "charges.jsonl"
    journal = LedgerJournal(path, "a")
    os.dup2(os.open("/dev/full", os.O_WRONLY), journal._descriptor)
    with pytest.raises(OSError, match=f"{path} cannot be used.*No space left"):
        journal.record(STEP, 1)
    journal.close()


def test_a_write_that_stops_half_way_is_an_error_and_leaves_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "charges.jsonl"
    journal = LedgerJournal(path, "a")
    journal.record(STEP, 1)
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:20]))
        with pytest.raises(OSError, match=f"{path} took 20 of"):
            journal.record(STEP, 2)
    journal.record(STEP, 2)
    journal.close()
    assert LedgerJournal.read(path, "a") == [(STEP, 2)]
    assert path.read_bytes().count(b"\n") == 2


def test_closed_twice_and_used_after(tmp_path: Path) -> None:
    journal = LedgerJournal(tmp_path / "charges.jsonl", "a")
    journal.close()
    journal.close()
    with pytest.raises(ValueError, match="is closed"):
        journal.record(STEP, 1)


@pytest.mark.parametrize("run_id", ["", 3])
def test_bad_run_ids_are_named(tmp_path: Path, run_id) -> None:
    with pytest.raises(ConfigurationError, match="run_id"):
        LedgerJournal(tmp_path / "charges.jsonl", run_id)


def test_bad_counts_are_named(tmp_path: Path) -> None:
    with (
        LedgerJournal(tmp_path / "charges.jsonl", "a") as journal,
        pytest.raises(ConfigurationError, match="total_count"),
    ):
        journal.record(STEP, 0)
