"""Exported models that several tests of this room read."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_privacy import PrivacyLedger, SampledGaussian
from lightning_privacy.serving import export

_LIGHT_IMPORTS = """
import importlib.util, sys, types
(root,) = importlib.util.find_spec("lightning_privacy").submodule_search_locations
for room in ("serving", "security"):
    module = types.ModuleType(f"lightning_privacy.{room}")
    module.__path__ = [f"{root}/{room}"]
    sys.modules[module.__name__] = module
"""


@pytest.fixture(scope="session")
def light_imports():
    """Source for child processes that need nothing of torch: they start in a fraction of the time."""
    return _LIGHT_IMPORTS


@pytest.fixture(scope="session")
def ledger():
    """Of a private training."""
    ledger = PrivacyLedger(delta=1e-5, unit="person")
    ledger.charge(SampledGaussian(1.1, 0.05), count=100, label="training")
    return ledger


@pytest.fixture(scope="session")
def small_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.fixture(scope="session")
def small_export(tmp_path_factory, small_network, ledger):
    """A folder with a private model of 4 numbers and 3 classes."""
    folder = tmp_path_factory.mktemp("exports") / "small"
    export(
        small_network, folder, example_input=torch.zeros(1, 4), ledger=ledger, class_names=("a", "b", "c"),
        metrics={"source": "held_out", "accuracy": 0.9}, roles={"label": "kind", "groups": ["gender"]},
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def public_export(tmp_path_factory, small_network):
    """The same network, trained without privacy, only as a program of torch."""
    folder = tmp_path_factory.mktemp("exports") / "public"
    export(small_network, folder, example_input=torch.zeros(1, 4), formats=["torch"])
    return folder
