"""Lightning's own command line: every public class by its class_path, in the place where a trainer takes it."""

from __future__ import annotations

import inspect
import secrets
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

import lightning_privacy
from lightning_privacy._lightning import LightningDataModule, LightningModule, Trainer, pl
from lightning_privacy.models import Classifier

jsonargparse = pytest.importorskip("jsonargparse", reason="needs the extra cli")
LightningCLI = pytest.importorskip(f"{pl.__name__}.cli").LightningCLI

pytestmark = [
    # Lightning 2.6 calls what newer versions of its parser announce the end of.
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:NoiseSource was given a seed.*"),
    pytest.mark.filterwarnings("ignore:Logged while training.*"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`.*"),
]


class _Rows(Dataset[Any]):
    """Twelve rows of three classes."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(2), index % 3


def _path(name: str, /, **init_args: Any) -> dict[str, Any]:
    place = name if "." in name else f"lightning_privacy.{name}"
    return {"class_path": place, "init_args": init_args}


LABELS = [0, 1, 2] * 4
KEY = _path("lightning_privacy.Key.from_environment", name="CLI_KEY")
LEDGER = _path("PrivacyLedger", delta=1e-5, budget=3.0)
GROUPS = {"groups": "sex", "num_groups": 2}
# What each public class is made from in a config; a class that another one is given to has it as an argument.
CASES: dict[str, dict[str, Any]] = {
    "AboveThreshold": {"threshold": 5.0, "sensitivity": 1.0, "epsilon": 1.0, "ledger": LEDGER},
    "AdaptiveClipping": {"max_grad_norm": 0.5, "target_quantile": 0.6},
    "AdaptiveClippingRelease": {"noise_multiplier": 1.0, "sample_rate": 0.1, "count_noise_std": 5.0},
    "AdversarialDebiasing": {**GROUPS, "hidden": [8]},
    "AtomicCheckpointIO": {},
    "AugmentationDataModule": {
        "datamodule": _path("lightning_privacy.data.DigitsDataModule", batch_size=64),
        "transforms": [_path("torchvision.transforms.v2.RandomRotation", degrees=10)],
    },
    "AutomaticClipping": {"gamma": 0.1},
    "BalancedBatchSampler": {"labels": LABELS, "batch_size": 6},
    "BalancedSampler": {"labels": LABELS, "weighting": "inverse"},
    "ClientPrivacy": {"delta": 1e-5, "epsilon": 8.0, "max_delta_norm": 1.0, "adaptive": True},
    "ClippingPolicy": _path("FlatClipping", max_grad_norm=2.0),
    "CoordinateMedian": {},
    "DPOptimizer": {
        "noise_multiplier": 1.0, "max_grad_norm": 1.0, "expected_batch_size": 4, "sample_rate": 0.5, "ledger": LEDGER,
    },
    "DifferentialPrivacy": {
        "delta": 1e-5,
        "epsilon": 3.0,
        "clipping": _path("PerLayerClipping", max_grad_norm={"first": 1.0, "rest": 0.5}),
        "balance": _path("PrivateBalance", max_sample_rate=0.5),
        "ledger": LEDGER,
        "noise": _path("NoiseSource", seed=1),
    },
    "DirichletPartition": {"num_clients": 4, "alpha": 0.3},
    "Ditto": {"strength": 0.1},
    "EncryptedCheckpointIO": {"key": KEY, "inner": _path("AtomicCheckpointIO")},
    "ExamplePrivacy": {"delta": 1e-5, "noise_multiplier": 1.0, "clipping": _path("FlatClipping", max_grad_norm=0.5)},
    "FedNova": {},
    "FedProx": {"mu": 0.1},
    "FederatedStrategy": {
        "partition": _path("DirichletPartition", num_clients=4, alpha=0.3),
        "cohort_size": 2,
        "aggregator": _path("WeightedMean", weighted=False),
        "algorithm": _path("FedProx", mu=0.1),
        "server_optimizer": _path("lightning_privacy.federated.FedAdam", lr=0.01),
        "transforms": [_path("lightning_privacy.federated.TopK", fraction=0.5)],
        "client_privacy": _path("ClientPrivacy", delta=1e-5, epsilon=8.0, max_delta_norm=1.0),
        "client_sampling": "poisson",
    },
    "FlatClipping": {"max_grad_norm": 0.3},
    "ForwardCorrection": {"num_classes": 10, "epsilon": 3.0},
    "GaussianRelease": {"noise_multiplier": 1.0},
    "GeometricMedian": {"smoothing": 1e-5},
    "GlobalAdaptClipping": {"strict_norm": 10.0},
    "GroupDRO": {**GROUPS, "step_size": 0.1},
    "GroupDisparity": {"num_groups": 2, "criterion": "demographic_parity"},
    "GroupFairness": {"groups": ["sex", "race"], "num_groups": {"sex": 2, "race": 5}, "bootstrap": 10},
    "GroupMetrics": {"num_groups": [2, 3]},
    "GroupThresholds": {"constraint": "equalized_odds"},
    "IIDPartition": {"num_clients": 3},
    "Key": KEY,
    "KeyRing": {"current": KEY},
    "Krum": {"byzantine": 1},
    "LaplaceRelease": {"epsilon": 0.5},
    "MembershipInference": {"reference_models": 8, "parts": {"class": 1}, "random_split": True},
    "NaturalPartition": {"ids": LABELS},
    "NoiseSource": {"secure": True},
    "NonPrivate": {"reason": "a test"},
    "PerLayerClipping": {"max_grad_norm": [1.0, 0.5]},
    "PersonaDataModule": {
        "num_persons": 100,
        "preparation": {"text": _path("lightning_privacy.preparation.NormaliseText", columns=["email"])},
        "key": KEY,
        "ledger": LEDGER,
    },
    "PoissonSampler": {"num_examples": 100, "sample_rate": 0.1, "steps": 5},
    "PrivacyAudit": {"num_canaries": 100, "canaries": "blank", "num_classes": 10},
    "PrivacyLedger": {"delta": 1e-5, "budget": 3.0, "unit": "client"},
    "PrivateBalance": {"public_counts": {"0": 5, "1": 7}},
    "PrivateLabels": {"num_classes": 3, "epsilon": 1.0, "ledger": LEDGER},
    "PrivateLabelsDataModule": {
        "datamodule": _path("lightning_privacy.data.DigitsDataModule"),
        "num_classes": 10,
        "epsilon": 3.0,
    },
    "PrivatePredictor": {"model": _path("torch.nn.Linear", in_features=2, out_features=3)},
    "PureRelease": {"epsilon": 0.5},
    "RandomizedResponseRelease": {"epsilon": 1.0, "num_classes": 10},
    "ResampledDataset": {},
    "ResumableDataLoader": {"batch_size": 4, "sampler": _path("BalancedSampler", labels=LABELS)},
    "Reweighing": {**GROUPS, "counts_epsilon": 0.1},
    "SampledGaussian": {"noise_multiplier": 1.0, "sample_rate": 0.1},
    "Scaffold": {},
    "SelectionRelease": {"epsilon": 0.5},
    "ShardPartition": {"num_clients": 4},
    "TrainingPlan": {"layers": 5},
    "TrimmedMean": {"trim": 0.1},
    "TruncatedSampledGaussian": {
        "noise_multiplier": 1.0, "sample_rate": 0.1, "num_examples": 100, "max_batch_size": 20,
    },
    "WeightedMean": {"weighted": False},
}  # fmt: skip
# What takes objects that exist only while a program runs: the config makes a function of them.
MADE_LATER: dict[str, Any] = {
    "DPOptimizer": Callable[[Optimizer, nn.Module], lightning_privacy.DPOptimizer],
    "PrivateLabels": Callable[[Dataset], lightning_privacy.PrivateLabels],
    "ResampledDataset": Callable[[Dataset, lightning_privacy.BalancedSampler], lightning_privacy.ResampledDataset],
    "ResumableDataLoader": Callable[[Dataset], lightning_privacy.ResumableDataLoader],
}


def _public_classes() -> set[str]:
    found = {name: getattr(lightning_privacy, name) for name in lightning_privacy.__all__}
    return {name for name, value in found.items() if inspect.isclass(value) and not issubclass(value, BaseException)}


@pytest.fixture(autouse=True)
def _key_in_the_environment(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setenv("CLI_KEY", secrets.token_hex(32))


class _Module(LightningModule):
    """A model that takes one number.

    Args:
        width: Of its layer.
    """

    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 2)


class _Data(LightningDataModule):
    """Nothing."""


@pytest.fixture(scope="module")
def parser():
    """The parser of one command line with an argument of the type of each public class."""

    class Command(LightningCLI):
        def add_arguments_to_parser(self, parser):
            for name in sorted(CASES):
                kind = getattr(lightning_privacy, name)
                parser.add_argument(f"--{name}", type=MADE_LATER.get(name, kind | None))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train"])
        return Command(_Module, _Data, run=False, save_config_callback=None, seed_everything_default=0).parser


def test_every_public_class_has_a_case():
    assert set(CASES) == _public_classes()


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_public_class_is_made_from_a_config(parser, name):
    case = CASES[name] if "class_path" in CASES[name] else _path(name, **CASES[name])
    config = parser.parse_object({name: case})
    made = parser.instantiate_classes(config)[name]
    if name in MADE_LATER:
        assert callable(made)
    else:
        assert isinstance(made, getattr(lightning_privacy, name))


def test_what_is_made_later_is_made_of_what_the_program_has(parser):
    config = parser.parse_object({name: _path(name, **CASES[name]) for name in MADE_LATER})
    made = parser.instantiate_classes(config)
    layer = nn.Linear(2, 1)
    optimizer = made["DPOptimizer"](torch.optim.SGD(layer.parameters(), lr=0.1), layer)
    assert isinstance(optimizer, lightning_privacy.DPOptimizer)
    rows = made["ResampledDataset"](_Rows(), lightning_privacy.BalancedSampler(LABELS))
    assert isinstance(rows, lightning_privacy.ResampledDataset)
    assert len(made["PrivateLabels"](_Rows())) == 12
    assert len(made["ResumableDataLoader"](_Rows())) == 3


def _command(**config: Any) -> Any:
    return LightningCLI(
        LightningModule, LightningDataModule, subclass_mode_model=True, subclass_mode_data=True, run=False,
        args=config, save_config_callback=None, seed_everything_default=0,
    )  # fmt: skip


MODEL = _path(
    "lightning_privacy.models.Classifier",
    backbone=_path("lightning_privacy.models.MLP", in_features=784, num_classes=10),
    num_classes=10,
    optimizer=_path("torch.optim.SGD", lr=0.1),
)
DATA = _path("lightning_privacy.data.DigitsDataModule", batch_size=128)
QUIET = {
    "accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_checkpointing": False,
    "enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1,
}  # fmt: skip


def test_a_trainer_gets_callbacks_plugins_model_and_data_from_a_config():
    callbacks = [
        _path("DifferentialPrivacy", **CASES["DifferentialPrivacy"]),
        _path("GroupFairness", **CASES["GroupFairness"]),
        _path("lightning_privacy.callbacks.TrainingPlan", layers=5),
        _path("lightning_privacy.callbacks.ProgressLines", lines=3),
    ]
    trainer = {**QUIET, "enable_progress_bar": True, "callbacks": callbacks}
    plugins = [_path("EncryptedCheckpointIO", **CASES["EncryptedCheckpointIO"])]
    command = _command(trainer={**trainer, "plugins": plugins, "enable_checkpointing": True}, model=MODEL, data=DATA)
    kinds = {type(callback).__name__ for callback in command.trainer.callbacks}
    assert {"DifferentialPrivacy", "GroupFairness", "TrainingPlan", "ProgressLines"} <= kinds
    assert isinstance(command.trainer.strategy.checkpoint_io, lightning_privacy.EncryptedCheckpointIO)
    assert isinstance(command.model, Classifier)


def test_a_federation_from_a_config(tmp_path):
    command = _command(
        trainer={**QUIET, "strategy": _path("FederatedStrategy", **CASES["FederatedStrategy"])}, model=MODEL, data=DATA
    )
    strategy = command.trainer.strategy
    assert isinstance(strategy, lightning_privacy.FederatedStrategy)
    assert strategy.client_privacy.ledger.budget == 8.0


def test_a_private_fit_from_a_config_keeps_its_budget(tmp_path):
    callback = _path("DifferentialPrivacy", delta=1e-5, epsilon=2.0, probe=False)
    command = _command(trainer={**QUIET, "callbacks": [callback]}, model=MODEL, data=DATA)
    assert isinstance(command.trainer, Trainer)
    command.trainer.fit(command.model, datamodule=command.datamodule)
    (privacy,) = [each for each in command.trainer.callbacks if isinstance(each, lightning_privacy.DifferentialPrivacy)]
    assert 1.9 < privacy.ledger.epsilon(exact=True) <= 2.0
