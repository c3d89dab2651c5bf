"""The command in two processes: one run, told once, with the steps that one process would take."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.fixture(scope="module", params=["ddp", "ddp_fork"])
def together(request, tmp_path_factory):
    """Processes that are started by a command each, and copies of this one, which train in its place."""
    folder = tmp_path_factory.mktemp("together")
    settings = ["trainer=ddp", f"trainer.strategy={request.param}", "trainer.max_epochs=2", "data.batch_size=512"]
    settings += ["compare_nonprivate=true"]
    done = subprocess.run(
        [sys.executable, "-m", "lightning_privacy", *settings, "hydra.run.dir=run"],
        capture_output=True, text=True, cwd=folder, check=False, timeout=300,
    )  # fmt: skip
    return done, folder / "run"


def test_it_comes_to_its_end_and_tells_its_result_once(together):
    done, _ = together
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Result") == 1
    assert "Traceback" not in done.stderr


def test_both_networks_take_the_steps_of_one_process(together):
    """The digits have 1,437 images of training: two epochs at 512 a step are 6 steps, whoever shares them."""
    _, folder = together
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["outcome"]["steps"] == summary["without_privacy"]["steps"] == 6
    assert min(summary["outcome"]["seconds"], summary["without_privacy"]["seconds"]) > 0


def test_figures_are_of_all_test_images(together):
    """Not of those that the first process has got: Lightning warns of them."""
    done, folder = together
    assert "sync_dist" not in done.stdout + done.stderr
    summary = json.loads((folder / "summary.json").read_text())
    counted = json.loads((folder / "classification.json").read_text())
    assert counted["examples"] == 270  # an even number, of which each process gets half
    right = summary["outcome"]["test"]["acc"] * counted["examples"]
    assert right == pytest.approx(sum(row[number] for number, row in enumerate(counted["confusion"])), abs=1e-3)
