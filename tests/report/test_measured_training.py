"""What a training of the command is measured by, and what it refuses before it costs anything."""

from __future__ import annotations

import time

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate

from lightning_privacy._lightning import Callback, LightningModule
from lightning_privacy.data import DigitsDataModule
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.models import MLP, Classifier
from lightning_privacy.report.measured_training import _check_test, train_and_test


class WithoutTest(LightningModule):
    """Trains, and has nothing to be tested by."""


class LateData(DigitsDataModule):
    """Takes its time until there is something to train on."""

    def setup(self, stage=None):
        time.sleep(3)


class Slow(Callback):
    """Does something after the last step, as an audit does."""

    def on_train_end(self, trainer, pl_module):
        time.sleep(3)

    def on_fit_end(self, trainer, pl_module):
        time.sleep(3)


@pytest.fixture
def config(tmp_path):
    settings = ["experiment=digits_nonprivate", "trainer=cpu", "trainer.max_epochs=1", "data.batch_size=720"]
    with initialize_config_module("lightning_privacy.conf", version_base="1.3"):
        return compose("config", overrides=[*settings, "logger=none", f"paths.output_dir={tmp_path}"])


def test_a_module_that_cannot_be_tested_is_refused():
    with pytest.raises(ConfigurationError, match="WithoutTest has no test_step"):
        _check_test(WithoutTest())


def test_a_module_that_can_be_tested_passes():
    assert _check_test(Classifier(MLP(4, 2, hidden=()), num_classes=2, optimizer=torch.optim.SGD)) is None


def test_seconds_are_those_of_the_training_and_not_of_the_data_before_it_or_of_audits_after_it(config):
    trainer = instantiate(config.trainer, callbacks=[Slow()], logger=False, enable_progress_bar=False)
    began = time.perf_counter()
    _, outcome = train_and_test(config, trainer, LateData(batch_size=720))
    assert 0 < outcome.seconds <= time.perf_counter() - began - 9
