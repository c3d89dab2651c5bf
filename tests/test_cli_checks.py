"""What the command refuses before it trains."""

from __future__ import annotations

import pytest
import torch

from lightning_privacy._lightning import LightningModule
from lightning_privacy.cli import _check_test
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.models import MLP, Classifier


class WithoutTest(LightningModule):
    """Trains, and has nothing to be tested by."""


def test_a_module_that_cannot_be_tested_is_refused_before_it_costs_anything():
    with pytest.raises(ConfigurationError, match="WithoutTest has no test_step"):
        _check_test(WithoutTest())


def test_a_module_that_can_be_tested_passes():
    assert _check_test(Classifier(MLP(4, 2, hidden=()), num_classes=2, optimizer=torch.optim.SGD)) is None
