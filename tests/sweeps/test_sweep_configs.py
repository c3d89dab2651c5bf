"""The configs of launchers and sweepers name what is there, and Hydra takes them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import lightning_privacy.conf
import pytest
from hydra import compose, initialize_config_module
from hydra.core.plugins import Plugins
from hydra.utils import get_class

from lightning_privacy.sweeps.optuna_search import OptunaSweeper
from lightning_privacy.sweeps.plugins import register_sweepers
from lightning_privacy.sweeps.random_runs import RandomRunsSweeper

HYDRA = Path(lightning_privacy.conf.__file__).parent / "hydra"
EXTRAS = {
    "joblib_parallel": "hydra_joblib_launcher",
    "slurm": "hydra_submitit_launcher",
    "slurm_local": "hydra_submitit_launcher",
    "ray_cluster": "hydra_ray_launcher",
}


def _hydra(*overrides: str):
    with initialize_config_module("lightning_privacy.conf", version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=True).hydra


def test_every_launcher_is_tested():
    assert {path.stem for path in (HYDRA / "launcher").glob("*.yaml")} == set(EXTRAS)
    assert {path.stem for path in (HYDRA / "sweeper").glob("*.yaml")} == {"optuna", "random_runs"}


@pytest.mark.parametrize("name", EXTRAS)
def test_a_launcher_takes_its_config(name):
    config = _hydra(f"hydra/launcher={name}").launcher
    if importlib.util.find_spec("hydra_plugins") is None:
        pytest.skip("no plugin of Hydra is installed")
    if importlib.util.find_spec(f"hydra_plugins.{EXTRAS[name]}") is None:
        pytest.skip(f"{EXTRAS[name]} is not installed")
    launcher = Plugins.instance()._instantiate(config)
    assert type(launcher).__name__ == get_class(config._target_).__name__


@pytest.mark.parametrize(("name", "kind"), [("optuna", OptunaSweeper), ("random_runs", RandomRunsSweeper)])
def test_a_sweeper_takes_its_config(name, kind):
    register_sweepers()
    config = _hydra(f"hydra/sweeper={name}").sweeper
    assert type(Plugins.instance()._instantiate(config)) is kind


def test_a_search_may_have_another_sampler():
    optuna = pytest.importorskip("optuna", reason="needs the extra optuna")
    register_sweepers()
    sampler = "{_target_: optuna.samplers.NSGAIISampler, seed: 3}"
    config = _hydra("hydra/sweeper=optuna", f"hydra.sweeper.sampler={sampler}").sweeper
    assert isinstance(Plugins.instance()._instantiate(config)._sampler, optuna.samplers.NSGAIISampler)
