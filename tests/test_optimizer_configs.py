"""``optimizer=…`` takes the place of the model's and the experiment's optimizer, with a learning rate of its own."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import get_class, instantiate
from torch import nn

KINDS = {"adam": ("Adam", 0.004), "sgd": ("SGD", 0.5), "lbfgs": ("LBFGS", 1.0)}


def _composed(*overrides):
    with initialize_config_module("lightning_privacy.conf", version_base="1.3"):
        return compose("config", overrides=list(overrides))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("base", [[], ["model=scatter_linear"], ["experiment=persona"]], ids=["default", "sgd", "adam"])
def test_it_is_the_one_that_was_asked_for(name, base):
    config = _composed(*base, f"optimizer={name}")
    optimizer = instantiate(config.model.optimizer)(nn.Linear(2, 2).parameters())
    assert type(optimizer) is get_class(f"torch.optim.{KINDS[name][0]}")
    assert optimizer.param_groups[0]["lr"] == KINDS[name][1]


def test_a_value_from_the_command_line_is_the_last_word():
    assert _composed("experiment=persona", "optimizer=sgd", "model.optimizer.lr=0.1").model.optimizer.lr == 0.1


def test_without_it_the_experiment_decides():
    assert _composed("experiment=persona").model.optimizer.lr == 0.006
    assert _composed("experiment=persona").model.optimizer["_target_"] == "torch.optim.Adam"
    assert _composed("experiment=fashion_mnist").model.optimizer["_target_"] == "torch.optim.SGD"
