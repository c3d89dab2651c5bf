"""Two processes that share each batch train what one does, whatever groups each of them sees of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(600)
def test_two_processes_train_what_one_does(tmp_path):
    script = Path(__file__).with_name("objective_processes.py")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "PL_"))}
    environment |= {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, cwd=tmp_path, capture_output=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    apart = json.loads(done.stdout.decode().splitlines()[-1])
    assert set(apart) == {"group_dro", "reweighing", "adversary"}
    assert all(distance < 1e-12 for distance in apart.values()), apart
