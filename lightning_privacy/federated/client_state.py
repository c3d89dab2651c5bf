"""What a checkpoint holds of client-level privacy, and how a ledger is brought up to date from it.

Example:
    >>> from lightning_privacy.federated.client_state import check_complete
    >>> check_complete({"run_id": "a1"})
    Traceback (most recent call last):
        ...
    lightning_privacy.errors.CheckpointError: the saved state of client privacy lacks adaptive, ...
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_privacy.accounting import PrivacyLedger, Release, missing_charges
from lightning_privacy.errors import CheckpointError
from lightning_privacy.federated.client_accounting import CohortAccounting

__all__ = ["LATER", "LOST_JOURNAL", "check_complete", "check_same", "plan_fields", "restore_ledger"]

LATER = "rounds after the checkpoint"
LOST_JOURNAL = "The run was resumed without its journal: rounds after the checkpoint, if any, are not counted."

_FIELDS = {
    "adaptive",
    "expected_cohort_size",
    "fixed_size",
    "ledger",
    "max_delta_norm",
    "next_round",
    "noise",
    "noise_multiplier",
    "num_clients",
    "run_id",
    "sample_rate",
}


def plan_fields(plan: CohortAccounting) -> dict[str, Any]:
    """The part of the state that a plan must agree with."""
    return {
        "num_clients": plan.num_clients,
        "expected_cohort_size": plan.expected_size,
        "sample_rate": plan.sample_rate,
        "fixed_size": plan.fixed_size,
    }


def check_complete(state: Mapping[str, Any]) -> None:
    """Refuse a state with something missing.

    Raises:
        CheckpointError: what it is.
    """
    missing = sorted(_FIELDS - set(state))
    if missing:
        raise CheckpointError(
            f"the saved state of client privacy lacks {', '.join(missing)}; it is damaged, or of another version"
        )


def check_same(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse a state that differs from this run.

    Args:
        state: the saved state.
        own: the values it must have.

    Raises:
        CheckpointError: the first that differs.
    """
    for name, value in own.items():
        if state[name] != value:
            raise CheckpointError(
                f"the checkpoint's client privacy has {name}={state[name]!r}, this one has {value!r}: the ledger would "
                f"no longer describe the rounds; resume with the same {name}"
            )


def restore_ledger(ledger: PrivacyLedger, saved: Mapping[str, Any], *, same_run: bool) -> None:
    """Take over the charges of a checkpoint without forgetting those of this process.

    Args:
        ledger: the ledger of this process.
        saved: its state in the checkpoint.
        same_run: this process trained the run itself, so that its ledger already knows what the checkpoint knows.

    Raises:
        CheckpointError: the saved ledger is damaged, or of another unit or delta.
        PrivacyBudgetExceeded: both together are more than the budget.
    """
    here, caveats = ledger.history, ledger.caveats
    ledger.load_state_dict(saved)
    for caveat in caveats:
        ledger.add_caveat(caveat)
    if same_run:
        counts: dict[Release, int] = {}
        for release, count, _ in here:
            counts[release] = counts.get(release, 0) + count
        for release, count in missing_charges(ledger, counts.items()):
            ledger.charge(release, count, label=LATER)
        return
    for release, count, label in here:
        ledger.charge(release, count, label)
