"""What a run has spent, written with each checkpoint: a run that is killed can't write it at its end.

Steps after the checkpoint are in the journal beside it, which the report counts too.

Example:
    >>> import tempfile
    >>> from lightning_privacy._lightning import Trainer
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     keeper = LedgerKeeper(Path(folder))
    ...     trainer = Trainer(callbacks=[keeper], logger=False, enable_checkpointing=False, accelerator="cpu")
    ...     keeper.on_save_checkpoint(trainer, None, {})  # not private: there is no ledger
    ...     list(Path(folder).iterdir())
    []
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typing_extensions import override

from lightning_privacy._lightning import Callback, LightningModule, Trainer
from lightning_privacy.callbacks.run_privacy import ledger_of
from lightning_privacy.report.run_files import keep_ledger

__all__ = ["LedgerKeeper"]


class LedgerKeeper(Callback):
    """Keeps ``ledger.json`` as far as the checkpoints.

    Args:
        folder: Of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: Sequence[object] = ()

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        ledger = ledger_of(trainer)
        # Several checkpoints are written at the same moment.
        if ledger is not None and trainer.is_global_zero and self._kept != ledger.history:
            keep_ledger(self._folder, ledger)
            self._kept = ledger.history
