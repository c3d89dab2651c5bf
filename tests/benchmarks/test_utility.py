"""The utility benchmark runs its experiments end to end and writes what happened."""

from __future__ import annotations

import gzip
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def utility(load_benchmark):
    return load_benchmark("utility")


def _write(folder):
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 20)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        for kind, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (folder / f"{part}-{kind}.gz").write_bytes(gzip.compress(header + array.tobytes()))


@pytest.mark.parametrize(("row", "folder"), [("mnist", "mnist"), ("fashion_mnist", "fashion-mnist")])
def test_a_row_goes_from_files_to_figures(tmp_path, row, folder):
    _write(tmp_path / "data" / folder)
    out = tmp_path / "utility.json"
    out.write_text(json.dumps({"benchmark": "utility", "rows": {"another": {"kept": True}}}))
    command = [sys.executable, str(BENCHMARKS / "utility.py"), "--root", str(tmp_path / "data"), "--out", str(out)]
    command += ["--rows", row, "--seeds", "5", "--", "callbacks.privacy.epsilon=2", "callbacks.privacy.delta=1e-3"]
    command += ["data.batch_size=20", "trainer.max_epochs=1"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ}, timeout=240)
    assert run.returncode == 0, run.stderr
    rows = json.loads(out.read_text())["rows"]
    assert rows["another"] == {"kept": True}
    (figures,) = rows[row]["runs"]
    assert figures["seed"] == 5
    assert figures["steps"] == 3
    assert 1.9 < figures["epsilon"] <= 2.0
    assert figures["sample_rate"] == pytest.approx(1 / 3)
    assert all(isinstance(caveat, str) for caveat in figures["caveats"])
    assert 0 <= figures["test_accuracy"] <= 1
    settings = rows[row]["settings"]
    assert settings["trainer"]["max_epochs"] == 1
    assert settings["data"]["batch_size"] == 20
    assert "root" not in settings["data"]
    assert settings["callbacks"]["privacy"]["epsilon"] == 2
    # Another experiment than the one of the claims.
    assert rows[row]["claims"] == {}
    assert "epsilon" in run.stdout


def test_claims_are_of_the_median_and_of_every_epsilon(utility):
    row = utility.ROWS["mnist"]

    def claims(*accuracies, epsilon=3.0, overrides=()):
        runs = [{"test_accuracy": accuracy, "epsilon": 2.9} for accuracy in accuracies]
        runs[0]["epsilon"] = epsilon
        return list(utility.judge(row, runs, list(overrides)).values())

    assert claims(0.980, 0.989, 0.990) == [True, True, True]
    assert claims(0.980, 0.988, 0.990) == [False, True, True]
    assert claims(0.980, 0.987, 0.990) == [False, False, True]
    assert claims(0.99, 0.99, 0.99, epsilon=3.001) == [True, True, False]
    assert claims(0.99, overrides=["trainer.max_epochs=1"]) == []


def test_every_row_says_how_its_settings_were_found(utility):
    for row in utility.ROWS.values():
        assert "configurations" in row.search
        assert (BENCHMARKS.parent / "conf" / "experiment" / f"{row.experiment}.yaml").exists()


@pytest.mark.parametrize("arguments", [["--rows", "cifar"], ["--seeds", "x"], []])
def test_bad_arguments_name_themselves(utility, arguments, capsys):
    with pytest.raises(SystemExit):
        utility._parse([*arguments, *(["--root", "data"] if arguments else [])])
    assert (arguments[0] if arguments else "--root") in capsys.readouterr().err
