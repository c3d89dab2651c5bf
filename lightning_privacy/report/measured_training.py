"""One training of a run and what came of it: how long it took, and the figures on training and test data.

Example:
    >>> from hydra import compose, initialize_config_module
    >>> few = ["experiment=digits_nonprivate", "trainer=cpu", "trainer.fast_dev_run=1", "paths.output_dir=."]
    >>> with initialize_config_module("lightning_privacy.conf", version_base="1.3"):
    ...     config = compose("config", overrides=few)
    >>> outcome = train_for_comparison(config, instantiate(config.data), progress=False)
    >>> outcome.steps, sorted(outcome.test)
    (1, ['acc', 'loss'])
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_privacy._lightning import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning_privacy.callbacks import GroupFairness
from lightning_privacy.callbacks._handover import Address, Parcel
from lightning_privacy.callbacks._trainer import hand_over_results, launches_elsewhere
from lightning_privacy.callbacks.progress import make_progress
from lightning_privacy.callbacks.run_privacy import federation_of, privacy_of
from lightning_privacy.data import AugmentationDataModule
from lightning_privacy.data.step_batches import step_batches
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.report.run_summary import Outcome

__all__ = ["train_and_test", "train_for_comparison", "wants_comparison"]

# compare_nonprivate=null trains the network a second time up to this many training examples.
_COMPARE_UP_TO = 10_000


class _Stopwatch(Callback):
    """Seconds from when the data are ready to the last step, and the steps until then.

    Audits that follow a training are no part of it. Where copies of this process train, theirs come back to it.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.steps = 0
        self._start = 0.0
        self._address = Address(self._take_over)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._start = time.perf_counter()
            if launches_elsewhere(trainer):
                hand_over_results(
                    trainer, lambda: Parcel(self._address.number, {"seconds": self.seconds, "steps": self.steps})
                )

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds = time.perf_counter() - self._start

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps = trainer.global_step  # here and not above: a resumed run may have nothing left to train

    def _take_over(self, state: dict[str, Any]) -> None:
        self.seconds, self.steps = state["seconds"], state["steps"]


def train_and_test(
    config: DictConfig, trainer: Trainer, datamodule: LightningDataModule, *, resume: bool = True
) -> tuple[LightningModule, Outcome]:
    """Make the module of a config, train it and test it.

    Args:
        config: With the keys of ``conf/config.yaml``.
        trainer: Of the config. It gets one more callback.
        datamodule: Of the config.
        resume: Go on from the config's checkpoint, if it names one.

    Raises:
        ConfigurationError: The module has no test.
        CheckpointError: The checkpoint is of another model.
    """
    if config.seed is not None:
        seed_everything(config.seed, workers=True, verbose=False)
    model: LightningModule = instantiate(config.model)
    _check_test(model)
    stopwatch = _Stopwatch()
    trainer.callbacks.insert(0, stopwatch)  # type: ignore[attr-defined] # set by Lightning
    ckpt_path = config.ckpt_path if resume else None
    shares = privacy_of(trainer) is not None or federation_of(trainer) is not None
    processes = trainer.num_devices * trainer.num_nodes
    try:
        with nullcontext() if shares else step_batches(datamodule, processes):
            trainer.fit(model, datamodule=datamodule, ckpt_path=ckpt_path)
    except RuntimeError as error:
        if ckpt_path is not None and "loading state_dict" in str(error):
            mismatch = " ".join(str(error).split()).split(". ")[0]
            raise CheckpointError(
                f"the checkpoint {ckpt_path} is of another model ({mismatch}): choose its model with model=..., "
                "or start anew without ckpt_path"
            ) from error
        raise
    test = trainer.test(model, datamodule=datamodule, verbose=False)
    # A second pass over the training data with the final weights, by a trainer that logs nothing: in the
    # metrics file "test/acc" is the test's alone. Images as they are, like those of the test.
    plain = datamodule
    while isinstance(plain, AugmentationDataModule):
        plain = plain.datamodule
    loader: Any = plain.train_dataloader()
    ordered: DataLoader[Any] = DataLoader(loader.dataset, batch_size=loader.batch_size, collate_fn=loader.collate_fn)
    train = _plain_trainer(config).test(model, dataloaders=ordered, verbose=False)
    return model, Outcome(stopwatch.steps, stopwatch.seconds, train=_unprefixed(train), test=_unprefixed(test))


def train_for_comparison(config: DictConfig, datamodule: LightningDataModule, *, progress: bool) -> Outcome:
    """Train the network of a config once more, without privacy; it is tested and not kept.

    Args:
        config: With the keys of ``conf/config.yaml``.
        datamodule: Of the config.
        progress: Show it.
    """
    onlookers = [*_onlookers(config), *([make_progress()] if progress else [])]
    trainer = _plain_trainer(config, callbacks=onlookers, enable_progress_bar=progress)
    return train_and_test(config, trainer, datamodule, resume=False)[1]


def wants_comparison(config: DictConfig, datamodule: LightningDataModule) -> bool:
    """Whether a private run is to be followed by one without privacy: as configured, or where there are few examples.

    Args:
        config: With the key ``compare_nonprivate``.
        datamodule: Of the config.
    """
    if config.compare_nonprivate is not None:
        return bool(config.compare_nonprivate)
    loader: Any = datamodule.train_dataloader()
    return len(loader.dataset) <= _COMPARE_UP_TO


def _onlookers(config: DictConfig) -> list[Callback]:
    """Fairness callbacks like those of the run that show and write nothing."""
    entries = [entry for entry in config.callbacks.values() if entry is not None]
    return [
        instantiate(entry, show=False, write=False)
        for entry in entries
        if get_object(entry["_target_"]) is GroupFairness and entry.get("private_epsilon") is None
    ]


def _plain_trainer(config: DictConfig, **settings: Any) -> Trainer:
    """A trainer of the config that writes nothing and has no callbacks of its own."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer: Trainer = instantiate(config.trainer, **{**quiet, **settings})
    return trainer


def _check_test(model: LightningModule) -> None:
    """Refuse before training, which may cost all of the budget, what would end the run after it."""
    if type(model).test_step is LightningModule.test_step:
        raise ConfigurationError(
            f"{type(model).__name__} has no test_step, and every run ends with a test of what it has trained: give it "
            "one that logs the figures to report, such as self.log('test/acc', accuracy)"
        )


def _unprefixed(results: list[Mapping[str, float]]) -> dict[str, float]:
    return {name.removeprefix("test/"): float(value) for result in results for name, value in result.items()}
