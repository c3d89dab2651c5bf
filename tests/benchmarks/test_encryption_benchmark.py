"""The encryption benchmark runs, and its committed result is complete and bears the claim out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CONTENDERS = [
    "cipher alone",
    "encrypt",
    "decrypt",
    "copy of a file",
    "encrypt a file",
    "decrypt a file",
    "torch.save",
    "save, encrypted",
    "torch.load",
    "load, encrypted",
    "records at random",
]


def test_quick_run_covers_the_contenders(tmp_path):
    output = tmp_path / "encryption.json"
    command = [sys.executable, str(BENCHMARKS / "encryption.py"), "--quick", "--rounds", "1", "--folder", str(tmp_path)]
    run = subprocess.run([*command, "--output", str(output)], capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode == 0, run.stderr
    result = json.loads(output.read_text())
    assert list(result["contenders"]) == CONTENDERS
    assert result["quick"] is True
    assert all(name in run.stdout for name in CONTENDERS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["encryption.json"]


def test_the_committed_result_bears_the_claim_out():
    result = json.loads((BENCHMARKS / "results" / "encryption.json").read_text())
    assert (result["quick"], result["megabytes"], result["hardware"]["threads"]) == (False, 512, 1)
    assert list(result["contenders"]) == CONTENDERS
    for name in ("encrypt", "decrypt", "encrypt a file", "decrypt a file"):
        assert result["contenders"][name]["megabytes_per_processor_second"] >= 500
