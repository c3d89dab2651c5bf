"""Going on from a checkpoint without forgetting anything that was spent.

Three ledgers meet when a run is resumed: the checkpoint's, the journal of the steps taken after it, and
the one of this process, which may hold releases of its own. What is restored is never less than any of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.callbacks._run_state import RunProgress, RunSettings, read_state
from lightning_privacy.callbacks._step_journal import charge_lost_steps
from lightning_privacy.errors import CheckpointError

__all__ = ["refuse_unknown_past", "restore"]


def restore(
    state: Mapping[str, Any], ledger: PrivacyLedger, *, own: RunProgress | None
) -> tuple[RunSettings | None, RunProgress | None]:
    """Bring ``ledger`` to what was spent up to now.

    Args:
        state: The callback's state in the checkpoint.
        ledger: The ledger of this process; the checkpoint's charges, the lost steps and its own are in it afterwards.
        own: Progress of the run this process has trained, if any.

    Returns:
        Settings and progress of the checkpoint.

    Raises:
        CheckpointError: The state is damaged, or of another delta or unit.
        PrivacyBudgetExceeded: What was spent is more than the budget.
    """
    saved, settings, progress = read_state(state)
    if progress is not None and own is not None and progress.run_id == own.run_id:
        # This process trained the run itself: its ledger knows all that any checkpoint or journal of it knows.
        return settings, progress
    here, caveats = ledger.history, ledger.caveats
    ledger.load_state_dict(saved)
    for caveat in caveats:
        ledger.add_caveat(caveat)
    if progress is not None and progress.journal_path is not None:
        journal = Path(progress.journal_path)
        if not charge_lost_steps(ledger, journal, progress.run_id):
            _miss(journal, ledger)
            progress.journal_path = None
    # What this process released before it resumed, such as a private histogram, was released too.
    for release, count, label in here:
        ledger.charge(release, count, label)
    return settings, progress


def _miss(journal: Path, ledger: PrivacyLedger) -> None:
    warnings.warn(
        f"the journal of private steps {journal} is not there: steps the run took after this checkpoint can't be "
        "charged. Put the file back, if there is one, and resume again.",
        UserWarning,
        stacklevel=2,
    )
    ledger.add_caveat(
        "The run was resumed without its journal: steps taken after the checkpoint, if any, are not counted."
    )


def refuse_unknown_past(checkpoint: Mapping[str, Any], path: object) -> None:
    """Refuse a checkpoint with training steps in it that were not private, or not known to be.

    Args:
        checkpoint: As loaded; empty when nothing is resumed.
        path: Where it came from.

    Raises:
        CheckpointError: It has training steps. Call only where it has no private run.
    """
    if not checkpoint or not checkpoint.get("global_step"):
        return
    raise CheckpointError(
        f"the checkpoint {path} has {checkpoint['global_step']} training steps and no state of DifferentialPrivacy: "
        "they were not private, or only weights were saved, so an epsilon for the whole would be false. Resume from "
        "a checkpoint of a private run. If those steps used public data only, load the weights into the model "
        "(load_from_checkpoint) and start without ckpt_path."
    )
