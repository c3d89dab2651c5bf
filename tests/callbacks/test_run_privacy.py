"""One answer to what makes a trainer's run private, and which ledger pays."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from lightning_privacy._lightning import Callback, Trainer
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.callbacks import DifferentialPrivacy
from lightning_privacy.callbacks.run_privacy import federation_of, final_ledger_of, ledger_of, privacy_of, protects
from lightning_privacy.federated import ClientPrivacy, ExamplePrivacy, IIDPartition
from lightning_privacy.strategies import FederatedStrategy


def _trainer(*callbacks, strategy="auto"):
    return Trainer(
        callbacks=list(callbacks),
        strategy=strategy,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_a_plain_run_has_neither_callback_nor_ledger():
    trainer = _trainer(Callback())
    assert (privacy_of(trainer), federation_of(trainer)) == (None, None)
    assert (ledger_of(trainer), final_ledger_of(trainer)) == (None, None)
    assert not protects(trainer)


def test_the_ledger_of_examples_is_the_callback_s():
    privacy = DifferentialPrivacy(delta=1e-5, epsilon=1.0)
    trainer = _trainer(Callback(), privacy)
    assert privacy_of(trainer) is privacy
    assert federation_of(trainer) is None
    assert ledger_of(trainer) is final_ledger_of(trainer) is privacy.ledger
    assert protects(trainer)


def test_the_ledger_of_clients_is_the_strategy_s():
    clients = ClientPrivacy(delta=1e-3, epsilon=8.0, max_delta_norm=1.0)
    strategy = FederatedStrategy(
        partition=IIDPartition(8), cohort_size=2, client_sampling="poisson", client_privacy=clients
    )
    trainer = _trainer(strategy=strategy)
    assert privacy_of(trainer) is None
    assert federation_of(trainer) is strategy
    assert ledger_of(trainer) is final_ledger_of(trainer) is clients.ledger
    assert protects(trainer)


def test_a_federated_run_without_privacy_has_no_ledger():
    trainer = _trainer(strategy=FederatedStrategy(partition=IIDPartition(8)))
    assert federation_of(trainer) is trainer.strategy
    assert (ledger_of(trainer), final_ledger_of(trainer)) == (None, None)
    assert not protects(trainer)


def test_of_clients_with_ledgers_of_their_own_the_weakest_is_told_at_the_end():
    inside = ExamplePrivacy(delta=1e-3, noise_multiplier=1.0, max_grad_norm=1.0, probe=False)
    trainer = _trainer(strategy=FederatedStrategy(partition=IIDPartition(2), example_privacy=inside))
    inside.plan([20, 10], batch_size=5, steps=[2, 2])
    inside.charge([0, 1])
    assert ledger_of(trainer) is None, "there is none for all"
    weakest = final_ledger_of(trainer)
    assert isinstance(weakest, PrivacyLedger)
    assert weakest.epsilon() == pytest.approx(inside.ledger(1).epsilon())
    assert inside.ledger(1).epsilon() > inside.ledger(0).epsilon() > 0


def test_nothing_else_of_a_trainer_is_asked():
    bare = SimpleNamespace(callbacks=[], strategy=SimpleNamespace())
    assert final_ledger_of(bare) is None


def test_the_command_knows_the_federated_strategy_by_its_name():
    code = (
        "import lightning_privacy.cli\n"
        "from lightning_privacy._lightning import Trainer\n"
        "trainer = Trainer(strategy='federated', accelerator='cpu', devices=1, logger=False)\n"
        "print(type(trainer.strategy).__name__)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split()[-1] == "FederatedStrategy"
