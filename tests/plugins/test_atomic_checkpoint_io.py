"""Checkpoints are complete or not there, whatever happens while they are written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.plugins import AtomicCheckpointIO, EncryptedCheckpointIO

GOOD = {"state_dict": {"weight": torch.arange(4.0)}, "pytorch-lightning_version": "2.6.0"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "last.ckpt"


def _assert_good(path: Path) -> None:
    loaded = AtomicCheckpointIO().load_checkpoint(path)
    assert torch.equal(loaded["state_dict"]["weight"], torch.arange(4.0))


def test_saves_in_a_new_folder_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "new" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(GOOD, path)
    _assert_good(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["last.ckpt"]


def test_replaces_a_link_and_not_what_it_points_to(tmp_path, path):
    AtomicCheckpointIO().save_checkpoint(GOOD, tmp_path / "epoch=1.ckpt")
    path.symlink_to("epoch=1.ckpt")
    AtomicCheckpointIO().save_checkpoint({**GOOD, "state_dict": {}}, path)
    assert not path.is_symlink()
    _assert_good(tmp_path / "epoch=1.ckpt")


# What a full disk does: a write beyond the limit fails with an OSError. The limit is set in a process of its
# own, because a hard one can't be raised again.
_DISK_FULL = """
import resource, signal, sys, torch
from lightning_privacy.errors import CheckpointError
from lightning_privacy.plugins import AtomicCheckpointIO, EncryptedCheckpointIO
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
big = {"state_dict": {"weight": torch.zeros(1_000_000)}, "pytorch-lightning_version": "2.6.0"}
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    AtomicCheckpointIO().save_checkpoint(big, sys.argv[1])
except CheckpointError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_old_checkpoint_and_names_the_path(path):
    AtomicCheckpointIO().save_checkpoint(GOOD, path)
    run = subprocess.run([sys.executable, "-c", _DISK_FULL, path], capture_output=True, text=True, check=True)
    assert str(path) in run.stdout
    assert "File too large" in run.stdout
    assert [entry.name for entry in path.parent.iterdir()] == ["last.ckpt"]
    _assert_good(path)


def test_a_folder_that_can_not_be_made_is_named(tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(CheckpointError, match=r"runs/last\.ckpt could not be written \(File exists\)"):
        AtomicCheckpointIO().save_checkpoint(GOOD, tmp_path / "runs" / "last.ckpt")


# Forks a child that saves again and again, and kills it at ever later moments once its first checkpoint is
# there; one process does it all, since importing torch takes seconds.
_KILLED_WHILE_SAVING = """
import os, pathlib, signal, sys, time, torch
from lightning_privacy.plugins import AtomicCheckpointIO, EncryptedCheckpointIO
torch.set_num_threads(1)  # a fork has none of the helper threads, and would wait for them
plugin, path = AtomicCheckpointIO(), pathlib.Path(sys.argv[1])
for attempt in range(12):
    path.unlink(missing_ok=True)
    child = os.fork()
    while child == 0:
        checkpoint = {"state_dict": {"weight": torch.full((500_000,), time.time())}}
        plugin.save_checkpoint({**checkpoint, "pytorch-lightning_version": "2.6.0"}, path)
    while not path.exists():
        time.sleep(0.001)
    time.sleep(0.002 * attempt)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    weight = plugin.load_checkpoint(path)["state_dict"]["weight"]
    print(weight.numel(), weight.unique().numel(), path.with_name(path.name + ".partial").exists())
"""


def test_a_kill_in_the_middle_leaves_a_complete_checkpoint(path):
    """Killed at twelve moments, some of them inside a save: the file is complete after each."""
    run = subprocess.run([sys.executable, "-c", _KILLED_WHILE_SAVING, path], capture_output=True, text=True, check=True)
    outcomes = [line.split() for line in run.stdout.splitlines()]
    assert [(numel, distinct) for numel, distinct, _ in outcomes] == [("500000", "1")] * 12


def test_what_a_kill_left_is_overwritten(path):
    path.with_name("last.ckpt.partial").write_bytes(b"half a checkpoint")
    AtomicCheckpointIO().save_checkpoint(GOOD, path)
    assert [entry.name for entry in path.parent.iterdir()] == ["last.ckpt"]
    _assert_good(path)


@pytest.mark.parametrize("kept", [0, 1, 100, 500])
def test_a_file_cut_short_is_refused_by_name(path, kept):
    AtomicCheckpointIO().save_checkpoint(GOOD, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"last\.ckpt can't be read .*resume from another one"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_flipped_bytes_are_refused_by_name(path):
    AtomicCheckpointIO().save_checkpoint(GOOD, path)
    content = bytearray(path.read_bytes())
    content[: len(content) // 2] = os.urandom(len(content) // 2)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"last\.ckpt can't be read"):
        AtomicCheckpointIO().load_checkpoint(path)


@pytest.mark.parametrize("content", [{"weight": torch.zeros(1)}, [1, 2], torch.zeros(3)])
def test_a_file_of_another_program_is_refused_by_name(path, content):
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"last\.ckpt was not written by a Lightning trainer"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_text_is_refused_by_name(path):
    path.write_text("epsilon: 3\n")
    with pytest.raises(CheckpointError, match=r"last\.ckpt can't be read"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_an_encrypted_file_is_no_damaged_one(path):
    EncryptedCheckpointIO(bytes(32)).save_checkpoint({"state_dict": {}, "pytorch-lightning_version": "2.6.0"}, path)
    with pytest.raises(CheckpointError, match="is encrypted: go on with the key") as found:
        AtomicCheckpointIO().load_checkpoint(path)
    assert str(path) in str(found.value)


def test_a_missing_file_is_named(path):
    with pytest.raises(FileNotFoundError, match=r"last\.ckpt"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_storage_options_are_refused(path):
    with pytest.raises(ConfigurationError, match="storage_options must be None"):
        AtomicCheckpointIO().save_checkpoint(GOOD, path, storage_options={})


def test_removes(path):
    AtomicCheckpointIO().save_checkpoint(GOOD, path)
    AtomicCheckpointIO().remove_checkpoint(path)
    assert not path.exists()
