"""``Trainer(strategy="federated")``: the name is known where Lightning is, and means one client per process."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_privacy._lightning import StrategyRegistry
from lightning_privacy.federated.keyed import kept_randomness, seed_client
from lightning_privacy.strategies import FederatedStrategy


def test_the_name_is_registered():
    assert type(StrategyRegistry.get("federated")) is FederatedStrategy


@pytest.mark.parametrize("lightning", ["pytorch_lightning", "lightning"])
def test_importing_the_package_after_lightning_is_enough(lightning, tmp_path):
    code = (
        f"import {lightning} as pl, lightning_privacy, sys\n"
        "assert 'lightning_privacy.strategies' not in sys.modules\n"
        "trainer = pl.Trainer(strategy='federated', accelerator='cpu', devices=1, logger=False)\n"
        "print(type(trainer.strategy).__name__)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "FederatedStrategy"


def test_a_process_is_one_client_that_goes_over_its_own_loader(tools):
    """One client and a server that takes its weights: plain training, epoch by epoch."""
    module, reference = tools.Regression(), tools.Regression()
    trainer = tools.trainer(strategy="federated", max_epochs=3)
    trainer.fit(module, DataLoader(tools.data(), batch_size=4))
    assert trainer.global_step == 3
    optimizer = reference.configure_optimizers()
    with kept_randomness():
        seed_client(0, 0, 0)
        for _ in range(3):
            for batch in DataLoader(tools.data(), batch_size=4):
                optimizer.zero_grad()
                reference.loss(batch).backward()
                optimizer.step()
    torch.testing.assert_close(tools.flat(module), tools.flat(reference), rtol=1e-12, atol=1e-14)
