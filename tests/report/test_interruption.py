"""An interrupted run is told how far it got, what it cost and how to go on."""

from __future__ import annotations

import os

from lightning_privacy.accounting import PrivacyLedger, SampledGaussian
from lightning_privacy.report.interruption import interruption


def test_what_was_spent_is_told_and_the_newest_checkpoint(tmp_path):
    ledger = PrivacyLedger(delta=1e-5, budget=9.0)
    ledger.charge(SampledGaussian(1.0, 0.05), 100)
    for age, name in enumerate(("checkpoints/last.ckpt", "checkpoints/best.ckpt", "other/older.ckpt")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    given = ["experiment=persona", "+name=Ann B", "hydra.run.dir=elsewhere", "ckpt_path=older.ckpt"]
    told = interruption(tmp_path, 1234, ledger, given)
    head, _, spent = told.partition(", which have spent epsilon ")
    assert head == "interrupted after 1,234 steps"
    assert float(spent.split()[0]) >= ledger.epsilon(exact=True)
    assert told.endswith(
        "at delta 1e-05; to go on, which charges the steps since that checkpoint once more: lightning-privacy "
        f"experiment=persona '+name=Ann B' hydra.run.dir={tmp_path} ckpt_path={tmp_path}/checkpoints/last.ckpt"
    )


def test_a_run_that_was_not_private_or_has_no_checkpoint(tmp_path):
    expected = "interrupted after 3 steps; no checkpoint was written yet"
    assert interruption(tmp_path, 3, None) == interruption(tmp_path, 3, PrivacyLedger(delta=1e-5)) == expected
