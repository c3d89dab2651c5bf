"""Every config composes and builds what it names, here and in another project."""

from __future__ import annotations

from pathlib import Path

import lightning_privacy.conf
import pytest
import torch
from hydra import compose, initialize_config_dir, initialize_config_module
from hydra.errors import ConfigCompositionException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lightning_privacy._lightning import Callback, CheckpointIO, LightningDataModule, LightningModule, Logger, Trainer
from lightning_privacy.callbacks import DifferentialPrivacy
from lightning_privacy.federated import Partition
from lightning_privacy.plugins import AtomicCheckpointIO
from lightning_privacy.strategies import FederatedStrategy

CONF = Path(lightning_privacy.conf.__file__).parent
# What an entry of each group must be an instance of, once built.
KINDS = {"data": LightningDataModule, "model": LightningModule, "callbacks": Callback, "logger": Logger}
# Options that need a package which is an extra of the same name.
EXTRAS = {"logger=mlflow": "mlflow", "logger=wandb": "wandb"}


def _options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def _compose(tmp_path: Path, *overrides: str) -> DictConfig:
    with initialize_config_module("lightning_privacy.conf", version_base="1.3"):
        return compose("config", overrides=[f"paths.root={tmp_path}", f"paths.output_dir={tmp_path}", *overrides])


def _check(config: DictConfig) -> Trainer:
    """Build everything a run builds, and return its trainer."""
    assert isinstance(instantiate(config.data), LightningDataModule)
    assert isinstance(instantiate(config.model), LightningModule)
    built = {}
    for group in ("callbacks", "logger"):
        built[group] = [instantiate(entry) for entry in config[group].values()]
        assert all(isinstance(entry, KINDS[group]) for entry in built[group])
    trainer = instantiate(config.trainer, callbacks=built["callbacks"], logger=built["logger"] or False)
    assert isinstance(trainer, Trainer)
    return trainer


def test_the_default_is_private_digits_at_epsilon_3(tmp_path):
    config = _compose(tmp_path)
    trainer = _check(config)
    (privacy,) = [callback for callback in trainer.callbacks if isinstance(callback, DifferentialPrivacy)]
    assert privacy.ledger.budget == 3.0
    assert privacy.ledger.delta == 1e-5
    assert isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)
    assert config.data._target_.endswith("DigitsDataModule")
    assert config.model.backbone._target_.endswith("PersonaNet")


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy.*")  # of the database that MLflow opens
@pytest.mark.parametrize(
    "override",
    [
        *(f"{group}={option}" for group in ("data", "model", "logger", "callbacks") for option in _options(group)),
        *(f"{group}={option}" for group in ("model/optimizer", "model/scheduler") for option in _options(group)),
        *(f"experiment={option}" for option in _options("experiment")),
        *(f"trainer={option}" for option in _options("trainer") if option != "gpu"),
        *(f"paths={option}" for option in _options("paths") if option != "default"),
        *(f"+noise={option}" for option in _options("noise")),
        *(f"strategy={option}" for option in _options("strategy")),
        *(f"deploy={option}" for option in _options("deploy")),
        "security=kept_key",
        "callbacks.privacy.clipping=adaptive",
        "model.optimizer._target_=torch.optim.RMSprop",
        "callbacks.privacy.epsilon=8",
        "~callbacks.privacy",
    ],
)
def test_every_option_builds(tmp_path, override):
    extra = EXTRAS.get(override)
    if extra is not None:
        pytest.importorskip(extra, reason=f"needs the extra {extra}")
    remove = ["~model.optimizer.betas"] if "RMSprop" in override else []
    config = _compose(tmp_path, override, *remove)
    _check(config)
    model = instantiate(config.model)
    configured = model.configure_optimizers()
    optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
    assert isinstance(optimizer, torch.optim.Optimizer)


def test_the_gpu_trainer_is_the_cpu_trainer_on_another_device(tmp_path):
    """It can't be built where there is no GPU; all else is equal."""
    cpu, gpu = (OmegaConf.to_container(_compose(tmp_path, f"trainer={name}").trainer) for name in ("cpu", "gpu"))
    assert gpu == {**cpu, "accelerator": "gpu"}
    assert cpu["accelerator"] == "cpu"


def test_no_file_is_left_out():
    groups = {str(path.parent.relative_to(CONF)) for path in CONF.rglob("*.yaml")}
    tested = {
        ".",
        "data",
        "model",
        "model/optimizer",
        "model/scheduler",
        "logger",
        "callbacks",
        "experiment",
        "optimizer",
    }
    assert groups == tested | {
        "trainer",
        "paths",
        "hydra",
        "hydra/launcher",
        "hydra/sweeper",
        "noise",
        "strategy",
        "partition",
        "security",
        "preparation",
        "deploy",
    }


@pytest.mark.parametrize("option", _options("partition"))
def test_every_partition_builds(tmp_path, option):
    path = tmp_path / "clients.json"
    path.write_text("[[0], [1]]")
    needed = [f"trainer.strategy.partition.path={path}"] if option == "file" else []
    # In either order, and inside the trainer.
    for overrides in (["strategy=federated", f"partition={option}"], [f"partition={option}", "strategy=federated"]):
        config = _compose(tmp_path, *overrides, *needed)
        strategy = instantiate(config.trainer).strategy
        assert isinstance(strategy, FederatedStrategy)
        made = instantiate(config.trainer.strategy.partition)
        assert made is None if option == "silos" else isinstance(made, Partition)
        assert config.trainer.strategy.cohort_size == (None if option == "silos" else 10)


def test_a_partition_without_the_strategy_is_named(tmp_path):
    with pytest.raises(ConfigCompositionException, match="partition"):
        _compose(tmp_path, "partition=dirichlet")


def test_without_privacy_there_is_no_privacy_callback(tmp_path):
    config = _compose(tmp_path, "callbacks=none")
    assert "privacy" not in config.callbacks
    assert set(config.callbacks) == {"checkpoint", "last_checkpoint", "plan", "progress"}


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("callbacks.privacy.epsilonn=8", "callbacks.privacy.epsilonn"),
        ("trainer.epochs=3", "trainer.epochs"),
        ("modle=mlp", "modle"),
        ("data=cifar", "data/cifar"),
    ],
)
def test_an_unknown_key_is_named(tmp_path, override, named):
    with pytest.raises(Exception, match=named) as raised:
        _compose(tmp_path, override)
    assert isinstance(raised.value, ConfigCompositionException) or "MissingConfig" in type(raised.value).__name__


def test_another_project_uses_the_groups(tmp_path):
    """The project has a config of its own, and takes data, model and privacy from the search path."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thing.yaml").write_text("answer: 42\n")
    (tmp_path / "main.yaml").write_text(
        "defaults:\n"
        "  - _self_\n"
        "  - data: digits\n"
        "  - model: persona_net\n"
        "  - callbacks: privacy\n"
        "  - own: thing\n"
        "  - override model/optimizer: sgd\n"
        "hydra:\n"
        "  searchpath: [pkg://lightning_privacy.conf]\n"
    )
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        config = compose("main", overrides=["callbacks.privacy.epsilon=2"])
    assert config.own.answer == 42
    model = instantiate(config.model)
    assert isinstance(model.configure_optimizers(), torch.optim.SGD)
    assert instantiate(config.callbacks.privacy).ledger.budget == 2.0
    assert len(instantiate(config.data).splits.train) == 1437


def test_the_plugin_of_the_trainer_is_a_checkpoint_plugin():
    assert issubclass(AtomicCheckpointIO, CheckpointIO)
