"""Which ledgers a run has, and whether they have everything that it releases.

Example:
    >>> from lightning_privacy._lightning import Trainer
    >>> account_for_run(Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"), None, None)
"""

from __future__ import annotations

from typing import Any

from lightning_privacy._lightning import Trainer
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.callbacks._trainer import starts_copies
from lightning_privacy.sweeps.spending import account_for

__all__ = ["account_for_run"]

_CLIENTS = "each client has a ledger of its own for its examples"


def account_for_run(trainer: Trainer, datamodule: Any, ledger: PrivacyLedger | None) -> None:
    """Write down what a run charges from now on, where it is one of a sweep; before anything is released.

    Args:
        trainer: With all callbacks.
        datamodule: May have a ledger, as an attribute of this name.
        ledger: Of the training; ``None`` where it is not private.

    Raises:
        OSError: It can't be written down, so the run must not begin.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined] # an attribute of every trainer
    others = [getattr(part, "ledger", None) for part in (*callbacks, datamodule)]
    ledgers = [each for each in (ledger, *others) if isinstance(each, PrivacyLedger)]
    if getattr(trainer.strategy, "example_privacy", None) is not None:
        covers = _CLIENTS
    elif ledger is None:
        covers = "none"
    else:
        covers = "end" if starts_copies(trainer.strategy.launcher) else "all"
    account_for(ledgers, covers=covers)
