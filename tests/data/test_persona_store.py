"""One store, one preparation: files of two are refused, and of two processes one waits for the other."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.data import PersonaDataModule
from lightning_privacy.data.persona.generator import PersonaGenerator
from lightning_privacy.data.persona.pipeline import run
from lightning_privacy.data.persona.plan import Plan
from lightning_privacy.data.persona.store import PersonaStore
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation import Roles
from lightning_privacy.preparation.contribution import most_records
from lightning_privacy.security import EncryptionError, write_table

KEY = bytes(range(32))
FILES = ["records", "images", "prepared", "truth", "truth_errors"]

# What a process of its own does: it says when it waits for the store, is held up, and is done.
PROCESS = """
import fcntl, sys
from lightning_privacy.data.persona.generator import PersonaGenerator
from lightning_privacy.data.persona.pipeline import run
from lightning_privacy.data.persona.plan import Plan
from lightning_privacy.data.persona.store import PersonaStore
from lightning_privacy.preparation import Roles

def say(word):
    print(word, flush=True)

def flock(file, operation):
    try:
        really_lock(file, operation | fcntl.LOCK_NB if operation == fcntl.LOCK_EX else operation)
    except BlockingIOError:
        if operation != fcntl.LOCK_EX:
            raise
        say("waits")
        really_lock(file, operation)

def write_notes(*arguments):
    say("held up")
    sys.stdin.readline()
    really_write(*arguments)

folder, most, held = sys.argv[1:]
really_lock, fcntl.flock = fcntl.flock, flock
if held == "held":
    really_write, PersonaStore.write_notes = PersonaStore.write_notes, write_notes
plan = Plan(source=PersonaGenerator(num_persons=60), roles=Roles(identifier="customer"), max_records=int(most))
say(run(plan, store=PersonaStore(folder, bytes(range(32)))).stamp)
"""


def _plan(most: int = 1) -> Plan:
    return Plan(source=PersonaGenerator(num_persons=60), roles=Roles(identifier="customer"), max_records=most)


class _Process:
    """A preparation in a process of its own; what it says is read line by line."""

    def __init__(self, folder: Path, most: int, held: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(folder), str(most), held],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def said(self) -> str:
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()


def _is_locked(folder: Path) -> bool:
    with (folder / "store.lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _datamodule(folder: Path, **settings) -> PersonaDataModule:
    return PersonaDataModule(
        num_persons=60, store=folder, key=KEY, ledger=PrivacyLedger(delta=1e-5, unit="example"), **settings
    )


# Files of two preparations.


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    for name, most in (("one", 1), ("of 1", 1), ("of 4", 4)):
        _datamodule(folder / name, max_records_per_person=most).prepare_data()
    return folder


@pytest.mark.parametrize("most", [1, 4], ids=["the same settings", "other settings"])
@pytest.mark.parametrize("name", FILES)
def test_p34_a_file_of_another_preparation_is_refused_and_named(tmp_path, prepared, name, most):
    """With the table of four records a person the notes of one would have told a guarantee of one."""
    one = tmp_path / "one"
    shutil.copytree(prepared / "one", one)
    shutil.copy(prepared / f"of {most}" / f"{name}.encrypted", one / f"{name}.encrypted")
    with pytest.raises(EncryptionError) as caught:
        _datamodule(one).truth()
    assert str(one / f"{name}.encrypted") in str(caught.value)
    assert f"remove the folder {one}" in str(caught.value)


def test_the_way_out_is_one(tmp_path, prepared):
    shutil.copytree(prepared / "one", tmp_path / "one")
    shutil.copy(prepared / "of 4" / "prepared.encrypted", tmp_path / "one")
    with pytest.raises(EncryptionError):
        _datamodule(tmp_path / "one").prepare_data()
    shutil.rmtree(tmp_path / "one")
    _datamodule(tmp_path / "one").prepare_data()
    assert len(_datamodule(tmp_path / "one").truth().records)


def test_p34_notes_of_another_preparation_are_refused_or_make_none(tmp_path):
    stores = [PersonaStore(tmp_path / name, KEY) for name in ("one", "same", "other")]
    stamps = [run(_plan(most), store=store).stamp for store, most in zip(stores, (1, 1, 4), strict=True)]
    shutil.copy(stores[2].paths["prepared_notes"], stores[0].paths["prepared_notes"])
    with pytest.raises(EncryptionError, match="is not of the preparation that the notes of the store tell of"):
        run(_plan(4), store=stores[0])
    # They are no notes of this plan.
    stage = run(_plan(1), store=stores[0])
    assert stage.stamp not in stamps
    shutil.copy(stores[1].paths["prepared_notes"], stores[0].paths["prepared_notes"])
    with pytest.raises(EncryptionError, match="is not of the preparation that the notes of the store tell of"):
        run(_plan(1), store=stores[0])


@pytest.mark.parametrize("name", FILES[:3])
def test_a_file_that_is_missing_is_named(tmp_path, name):
    store = PersonaStore(tmp_path, KEY)
    run(_plan(), store=store)
    store.forget(name)
    with pytest.raises(ConfigurationError, match=rf"{name}.encrypted is missing, .* remove the folder"):
        run(_plan(), store=store)


def test_a_store_whose_files_are_bound_to_no_preparation_is_refused(tmp_path):
    """As an earlier version wrote them."""
    store = PersonaStore(tmp_path, KEY)
    stage = run(_plan(), store=store)
    write_table(stage.table, store.paths["prepared"], KEY, context=b"persona/prepared")
    with pytest.raises(EncryptionError, match="remove the folder"):
        run(_plan(), store=store)


# Several processes.


def test_of_two_preparations_one_waits_for_the_other(tmp_path):
    """The one is held up after its table was written and before its notes; nothing of the other comes between."""
    with _Process(tmp_path, 1, "held") as one:
        assert one.said() == "held up"
        with _Process(tmp_path, 4) as other:
            assert other.said() == "waits"
            one.go_on()
            stamps = [one.said(), other.said()]
    store = PersonaStore(tmp_path, KEY)
    assert stamps[0] != stamps[1]
    assert run(_plan(4), store=store).stamp == stamps[1]
    again = run(_plan(1), store=store)
    assert again.stamp not in stamps
    assert most_records(again.table, "customer") == 1


def test_the_processes_of_one_run_read_what_the_first_prepared(tmp_path):
    with _Process(tmp_path, 1, "held") as one:
        assert one.said() == "held up"
        with _Process(tmp_path, 1) as other:
            assert other.said() == "waits"
            one.go_on()
            assert one.said() == other.said()
    assert not _is_locked(tmp_path)


def test_a_process_that_is_killed_leaves_the_store_to_the_next(tmp_path):
    with _Process(tmp_path, 1, "held") as one:
        assert one.said() == "held up"
        assert _is_locked(tmp_path)
        one.process.kill()
        one.process.wait()
        assert not _is_locked(tmp_path)
    store = PersonaStore(tmp_path, KEY)
    assert store.read_notes("prepared_notes") is None
    assert run(_plan(), store=store).table.equals(run(_plan(), store=None).table)


def test_a_preparation_that_fails_leaves_the_store_to_the_next(tmp_path):
    store = PersonaStore(tmp_path, KEY)
    with pytest.raises(ConfigurationError, match="nobody is left to train on"):
        run(Plan(source=PersonaGenerator(num_persons=60, public_share=1.0)), store=store)
    assert not _is_locked(tmp_path)


def test_the_lock_is_no_artefact(tmp_path):
    datamodule = _datamodule(tmp_path)
    datamodule.prepare_data()
    assert (tmp_path / "store.lock").stat().st_size == 0
    assert sorted(datamodule.artefacts) == sorted([*FILES, "prepared_notes"])


def test_a_lock_in_a_folder_that_was_removed_meanwhile_is_none(tmp_path, monkeypatch):
    store, asked = PersonaStore(tmp_path / "store", KEY), []
    lock = fcntl.flock

    def removed(file, operation):
        if not asked:
            shutil.rmtree(store.folder)
        asked.append(operation)
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", removed)
    with store.locked():
        assert asked == [fcntl.LOCK_EX] * 2
        assert _is_locked(store.folder)
    assert not _is_locked(store.folder)


def test_a_store_that_can_only_be_read_is_read(tmp_path, monkeypatch):
    store = PersonaStore(tmp_path, KEY)
    stage = run(_plan(), store=store)
    (tmp_path / "store.lock").unlink()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert run(_plan(), store=store).stamp == stage.stamp
    assert not (tmp_path / "store.lock").exists()


def test_a_lock_of_another_user_is_waited_for_too(tmp_path, monkeypatch):
    """Who may not write to the file may lock it."""
    store = PersonaStore(tmp_path / "store", KEY)
    with store.locked():
        pass
    opened = os.open

    def of_another_user(path, flags, *mode):
        if flags & os.O_RDWR and str(path).endswith("store.lock"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *mode)

    monkeypatch.setattr(os, "open", of_another_user)
    with store.locked():
        descriptor = opened(tmp_path / "store" / "store.lock", os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)
