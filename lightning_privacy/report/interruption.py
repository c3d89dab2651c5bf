"""What to say of a run that was interrupted: how far it got, what it has spent, and how to go on.

Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     interruption(Path(folder), 12, None)
    'interrupted after 12 steps; no checkpoint was written yet'
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.accounting.epsilon_text import epsilon_text
from lightning_privacy.report.earlier_weights import newest

__all__ = ["interruption"]


def interruption(folder: Path, steps: int, ledger: PrivacyLedger | None, arguments: Sequence[str] = ()) -> str:
    """The message, without "error".

    Args:
        folder: Of the run.
        steps: How many it took.
        ledger: What it was charged to, or None.
        arguments: What the command was given.
    """
    text = f"interrupted after {steps:,} steps"
    if ledger is not None and ledger.groups:
        spent = epsilon_text(ledger.epsilon(exact=True), budget=ledger.budget)
        text += f", which have spent epsilon {spent} at delta {ledger.delta:g}"
    checkpoint = newest(folder, "")
    if checkpoint is None:
        return f"{text}; no checkpoint was written yet"
    own = [argument for argument in arguments if not argument.startswith(("hydra.run.dir=", "ckpt_path="))]
    # In its own folder, where its store and its keys are.
    command = shlex.join(["lightning-privacy", *own, f"hydra.run.dir={folder}", f"ckpt_path={checkpoint}"])
    again = "" if ledger is None else ", which charges the steps since that checkpoint once more"
    return f"{text}; to go on{again}: {command}"
