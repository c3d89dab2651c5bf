"""Training in processes that Lightning's launcher starts ends with the weights in the program that started it."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lightning_privacy._lightning import CheckpointIO
from lightning_privacy.errors import CheckpointError
from lightning_privacy.plugins import AtomicCheckpointIO, EncryptedCheckpointIO
from lightning_privacy.security import Key

WEIGHTS = {"layer.weight": torch.arange(4.0)}


@pytest.fixture(params=["atomic", "encrypted"])
def plugin(request, tmp_path) -> Callable[[], CheckpointIO]:
    Key.generate().save(tmp_path / "key")
    if request.param == "atomic":
        return AtomicCheckpointIO
    return lambda: EncryptedCheckpointIO(Key.from_file(tmp_path / "key"))


@pytest.mark.parametrize("written", ["atomic", "encrypted"])
@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp_spawn"])
def test_the_weights_come_back_and_nothing_is_left(tmp_path, strategy, written):
    program = Path(__file__).with_name("launched_training.py")
    done = subprocess.run(
        [sys.executable, program, strategy, written, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for private, found in json.loads((tmp_path / "found.json").read_text()).items():
        assert found["moved"] > 0
        assert found["finished"]
        assert found["left"] == []
        assert found["plain"] is (written == "atomic")
        assert (found["saved"] == []) is (written == "encrypted")
        assert (found["epsilon"] is not None and 0 < found["epsilon"] <= 8) is (private == "True")


def test_a_copy_of_the_plugin_reads_what_was_handed_on_and_another_refuses_it(tmp_path, plugin):
    first, path = plugin(), tmp_path / ".temp.ckpt"
    pickle.loads(pickle.dumps(first)).save_checkpoint(WEIGHTS, path)
    assert first.load_checkpoint(path).keys() == WEIGHTS.keys()
    with pytest.raises(CheckpointError, match=r"\.temp\.ckpt holds the weights that processes of another fit left"):
        plugin().load_checkpoint(path)


def test_bare_weights_under_another_name_are_refused(tmp_path, plugin):
    writer, path = plugin(), tmp_path / "weights.ckpt"
    writer.save_checkpoint(WEIGHTS, path)
    with pytest.raises(CheckpointError, match=r"weights\.ckpt was not written by a Lightning trainer"):
        writer.load_checkpoint(path)


def test_bare_weights_of_another_program_are_refused_under_the_launchers_name_too(tmp_path):
    torch.save(WEIGHTS, tmp_path / ".temp.ckpt")
    with pytest.raises(CheckpointError, match="was not written by a Lightning trainer"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / ".temp.ckpt")
