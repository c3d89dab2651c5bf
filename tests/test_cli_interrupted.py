"""What the command says of a training that ends early."""

from __future__ import annotations

import io
import signal

import pytest
from hydra import compose, initialize_config_module
from rich.console import Console

from lightning_privacy._lightning import Callback, pl
from lightning_privacy.cli import run

SIGTERMException = pl.utilities.exceptions.SIGTERMException


class Signalled(Callback):
    """As if the process got a signal in its third step."""

    def __init__(self, kind: str) -> None:
        self.error = SIGTERMException() if kind == "SIGTERM" else KeyboardInterrupt()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 2:
            raise self.error


@pytest.mark.parametrize(("kind", "status"), [("SIGTERM", 143), ("SIGINT", 1)])
def test_a_run_that_is_interrupted_says_so_and_does_not_look_like_a_success(tmp_path, capsys, kind, status):
    handler = signal.getsignal(signal.SIGINT)
    with initialize_config_module("lightning_privacy.conf", version_base="1.3"):
        config = compose(
            "config",
            overrides=[
                "trainer.max_epochs=2", "data.batch_size=720", f"paths.output_dir={tmp_path}", "logger=none",
                f"+callbacks.signal._target_={__name__}.Signalled", f"+callbacks.signal.kind={kind}",
            ],
        )  # fmt: skip
    try:
        with pytest.raises(SystemExit) as ended:
            run(config, tmp_path, Console(file=io.StringIO()))
    finally:
        signal.signal(signal.SIGINT, handler)  # which Lightning sets to be ignored
    assert ended.value.code == status
    assert "error: interrupted after 2 steps, which have spent epsilon " in capsys.readouterr().err
    assert (tmp_path / "ledger.json").exists()
