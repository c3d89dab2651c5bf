"""Runs with other seeds are tested on the same people, none of whom any of them was trained on."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_module


@pytest.mark.parametrize("choice", [["data=persona"], ["data=persona_fashion"], ["experiment=persona"]])
def test_p32_who_is_trained_on_does_not_follow_the_seed(choice):
    with initialize_config_module("lightning_privacy.conf", version_base="1.3"):
        first, second = (compose("config", overrides=[*choice, f"seed={seed}"]) for seed in (0, 1))
    assert (first.seed, second.seed) == (0, 1)
    assert first.data.seed == second.data.seed
