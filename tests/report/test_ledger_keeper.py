"""A run that is killed has left what it spent, up to its last step."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from lightning_privacy._lightning import Callback
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.report.ledger_file import read_ledger
from lightning_privacy.report.make_report import make_report


class Killed(Callback):
    """Ends its own process in the middle of the second epoch, after the first checkpoint."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 5:
            os.kill(os.getpid(), signal.SIGKILL)


def test_p26_the_report_of_a_killed_run_counts_all_of_its_steps(tmp_path):
    settings = [
        "trainer.max_epochs=3", "data.batch_size=480", "callbacks.privacy.epsilon=null", "compare_nonprivate=false",
        "callbacks.privacy.noise_multiplier=2", f"+callbacks.killed._target_={__name__.rpartition('.')[2]}.Killed",
        f"hydra.run.dir={tmp_path}/run",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-m", "lightning_privacy", *settings], capture_output=True, text=True, env=environment,
        check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    found = json.loads(make_report(tmp_path / "run").values.read_text())["guarantee"]
    assert (found["status"], found["complete"]) == ("private", False)
    ((step, kept),) = read_ledger(tmp_path / "run" / "ledger.json").groups
    ledger = PrivacyLedger(delta=found["delta"])
    ledger.charge(step, 5)
    assert kept < 5
    assert found["epsilon"] == ledger.epsilon(exact=True)
