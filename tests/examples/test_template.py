"""The template project: three lines make it private, and every command of its page runs."""

from __future__ import annotations

import difflib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

TEMPLATE = Path(__file__).parents[2] / "examples" / "template"


@pytest.fixture
def project(tmp_path):
    """A copy of the folder, as a user makes it."""
    return Path(shutil.copytree(TEMPLATE, tmp_path / "project", ignore=shutil.ignore_patterns("__pycache__", "runs")))


def _python(folder, *arguments):
    run = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    return run.stdout + run.stderr


def _changed(before: str, after: str) -> tuple[int, int]:
    """Lines that were added and taken away."""
    lines = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    return sum(line.startswith("+ ") for line in lines), sum(line.startswith("- ") for line in lines)


def test_three_added_lines_make_it_private():
    added, removed = _changed((TEMPLATE / "train.py").read_text(), (TEMPLATE / "train_private.py").read_text())
    assert (added, removed) == (3, 0)
    for name in ("model.py", "data.py"):
        assert "lightning_privacy" not in (TEMPLATE / name).read_text()


def test_the_page_names_every_file_and_only_files_that_are_there():
    page = (TEMPLATE / "README.md").read_text()
    named = set(re.findall(r"`([\w/]+\.(?:py|yaml))`|(?:python|--config) ([\w/]+\.(?:py|yaml))", page))
    names = {name for pair in named for name in pair if name}
    assert all((TEMPLATE / name).is_file() for name in names)
    assert {"model.py", "data.py", "train.py", "train_private.py", "cli.py", "private.yaml", "conf/mine.yaml"} <= names


def test_the_script_trains_within_its_budget(project):
    (project / "train_private.py").write_text(
        (project / "train_private.py").read_text().replace("max_epochs=20", "max_epochs=2")
    )
    printed = _python(project, "train_private.py")
    (epsilon,) = re.findall(r"Trained with \(epsilon=([\d.]+), delta=1e-05\)", printed)
    assert 2.9 < float(epsilon) <= 3.0
    assert "test/acc" in printed


def test_lightnings_command_line_trains_it(project):
    pytest.importorskip("jsonargparse", reason="needs the extra cli")
    printed = _python(project, "cli.py", "fit", "--config", "private.yaml", "--trainer.max_epochs=2")
    (epsilon,) = re.findall(r"Trained with \(epsilon=([\d.]+), delta=1e-05\)", printed)
    assert 2.9 < float(epsilon) <= 3.0
    config = (project / "lightning_logs" / "version_0" / "config.yaml").read_text()
    assert "lightning_privacy.AdaptiveClipping" in config


def test_the_sweep_runs_every_epsilon_on_the_users_own_model(project):
    # A process for each run: two of the nine are enough here.
    fewer = "hydra.sweeper.params={callbacks.privacy.epsilon:'1,8',seed:'0'}"
    _python(
        project, "-m", "lightning_privacy", "--config-dir", "conf", "--config-name", "sweep", fewer,
        "trainer.max_epochs=1",
    )  # fmt: skip
    (sweep,) = (project / "runs").iterdir()
    summaries = [json.loads(path.read_text()) for path in sorted(sweep.glob("*/summary.json"))]
    epsilons = [summary["guarantee"]["epsilon"] for summary in summaries]
    assert epsilons == [pytest.approx(target, rel=0.01) for target in (1.0, 8.0)]
    assert all(0 <= summary["outcome"]["test"]["acc"] <= 1 for summary in summaries)
    assert "_target_: model.DigitsNet" in (sweep / "0" / "config.yaml").read_text()


def test_the_sweep_of_the_page_has_three_runs_for_each_epsilon():
    params = yaml.safe_load((TEMPLATE / "conf" / "sweep.yaml").read_text())["hydra"]["sweeper"]["params"]
    assert {name: len(str(values).split(",")) for name, values in params.items()} == {
        "callbacks.privacy.epsilon": 3,
        "seed": 3,
    }
