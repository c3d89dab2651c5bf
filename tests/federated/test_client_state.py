"""A ledger of clients that comes from a checkpoint, and what this process knew besides."""

from __future__ import annotations

import pytest

from lightning_privacy.accounting import LaplaceRelease, PrivacyLedger
from lightning_privacy.federated.client_state import restore_ledger


@pytest.mark.parametrize("same_run", [True, False], ids=["same run", "another"])
def test_p26_caveats_of_this_process_outlive_a_restored_ledger(same_run):
    """Data may have been prepared with a caveat that the checkpoint's run did not have."""
    saved, ledger = (PrivacyLedger(delta=1e-5, unit="client") for _ in range(2))
    saved.add_caveat("Of the checkpoint.")
    ledger.add_caveat("Of this process.")
    ledger.charge(LaplaceRelease(0.5), label="mean")
    restore_ledger(ledger, saved.state_dict(), same_run=same_run)
    assert set(ledger.caveats) == {"Of the checkpoint.", "Of this process."}
    assert ledger.count(LaplaceRelease(0.5)) == 1
