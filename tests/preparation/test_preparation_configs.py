"""Every file of the group ``preparation`` builds a step of the persona data."""

from __future__ import annotations

from pathlib import Path

import lightning_privacy.conf
import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate

from lightning_privacy.preparation import Step, SuppressToK

OPTIONS = sorted(path.stem for path in (Path(lightning_privacy.conf.__file__).parent / "preparation").glob("*.yaml"))


def _steps(*overrides):
    with initialize_config_module("lightning_privacy.conf", version_base="1.3"):
        config = compose("config", overrides=["data=persona", *overrides])
    return instantiate(config.data.train_preparation)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_adds_a_step_at_the_end(option):
    before, after = _steps(), _steps(f"+preparation={option}")
    assert list(after)[:-1] == list(before)
    assert all(isinstance(step, Step) for step in after.values())


def test_k_can_be_set():
    step = _steps("+preparation=k_anonymity", "data.train_preparation.k_anonymity.k=3")["k_anonymity"]
    assert isinstance(step, SuppressToK)
    assert step._k == 3
