"""Lightning in two processes leaves a balanced sampler alone: each process has its half, and no quarter of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lightning_privacy.sampling import BalancedBatchSampler, BalancedSampler

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("ddp")]

SCRIPT = Path(__file__).with_name("ddp_balanced.py")
LABELS = np.repeat([0, 1], [60, 20])


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp_balanced")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "PL_"))}
    environment |= {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)], env=environment, cwd=folder, capture_output=True, timeout=250
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("way", ["sampler in train_dataloader", "sampler passed to fit"])
def test_p19_two_processes_share_the_sequence_of_one(seen, way):
    one = BalancedSampler(LABELS, seed=2)
    for epoch in range(2):
        one.set_epoch(epoch)
        whole = list(one)
        parts = [np.concatenate(rank[way][8 * epoch : 8 * epoch + 8]).tolist() for rank in seen]
        assert parts == [whole[0::2], whole[1::2]]
    assert [len(rank[way]) for rank in seen] == [16, 16]


def test_p19_two_processes_take_turns_with_batches(seen):
    one = BalancedBatchSampler(LABELS, 4, seed=2, replacement=False)
    for epoch in range(2):
        one.set_epoch(epoch)
        whole = list(one)
        assert len(whole) == 10
        for rank, theirs in enumerate(seen):
            assert theirs["batches in train_dataloader"][5 * epoch : 5 * epoch + 5] == whole[rank::2]
    assert [len(rank["batches in train_dataloader"]) for rank in seen] == [10, 10]


def test_batches_that_lightning_can_not_leave_alone_are_refused(seen):
    assert all("make the DataLoader in train_dataloader()" in rank["error"] for rank in seen)
