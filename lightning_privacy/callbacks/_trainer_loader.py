"""How the train loader gets to Lightning's loops: the second file that touches internals which are not public API.

As in ``_trainer.py``, each function reads or sets one thing, and ``tests/callbacks/test__trainer.py`` pins each to the
versions of Lightning in ``pyproject.toml``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader

from lightning_privacy._lightning import LIGHTNING_NAME, CombinedLoader, Trainer

__all__ = [
    "InstalledLoader",
    "LoaderShield",
    "count_loader_batches",
    "install_train_loader",
    "lift_shield",
    "request_train_loader",
    "shield_train_loader",
    "start_iterating",
    "uninstall_train_loader",
]


class _Counted:
    """A loader of ``length`` batches that is only ever counted."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[None]:
        return iter(())


@dataclass(frozen=True)
class InstalledLoader:
    """What :func:`uninstall_train_loader` needs to undo an installation."""

    source: Any
    user_loader: Any


@dataclass(frozen=True)
class LoaderShield:
    """What :func:`lift_shield` needs to undo a shield."""

    use_distributed_sampler: bool


def shield_train_loader(trainer: Trainer, whole: Callable[[Any], Any]) -> LoaderShield:
    """Keep Lightning from giving each process a part of the train data of its own; call in ``setup``.

    The train loader is asked for, and counted by ``estimated_stepping_batches``, as in a single process. Loaders for
    validation are set up later and not concerned.

    Args:
        trainer: The trainer.
        whole: Turns what the user gave as train loader into one over all examples.
    """
    connector, source = trainer._accelerator_connector, trainer.fit_loop._data_source
    shield = LoaderShield(connector.use_distributed_sampler)
    connector.use_distributed_sampler = False
    requested = source.dataloader
    vars(source)["dataloader"] = lambda: whole(requested())
    if trainer.world_size > 1:
        trainer.fit_loop._combined_loader = None  # somebody may have asked for it before
    return shield


def lift_shield(trainer: Trainer, shield: LoaderShield) -> None:
    """Undo :func:`shield_train_loader`."""
    trainer._accelerator_connector.use_distributed_sampler = shield.use_distributed_sampler
    del vars(trainer.fit_loop._data_source)["dataloader"]


def request_train_loader(trainer: Trainer) -> Any:
    """The user's train loader, or the collection of them, without iterating over it.

    Lightning has asked for it already where ``estimated_stepping_batches`` was read; otherwise it is asked
    for here, once.
    """
    if trainer.train_dataloader is not None:
        return trainer.train_dataloader
    return trainer.fit_loop._data_source.dataloader()


def count_loader_batches(trainer: Trainer, length: int) -> int:
    """Batches of one epoch of the user's loader, as Lightning counts them.

    Applies ``limit_train_batches`` and lets Lightning check ``val_check_interval`` and ``log_every_n_steps``
    against the user's own numbers. No worker process is started for it.

    Args:
        trainer: The trainer, in ``on_fit_start``.
        length: ``len`` of the user's loader.

    Returns:
        The number of batches; 0 when ``limit_train_batches`` is 0.
    """
    fit_loop = trainer.fit_loop
    if fit_loop._combined_loader is None:
        source = fit_loop._data_source.instance
        fit_loop._data_source.instance = _Counted(length)
        try:
            fit_loop.setup_data()
        finally:
            fit_loop._data_source.instance = source
    return 0 if fit_loop._combined_loader is None else int(fit_loop.max_batches)


def install_train_loader(trainer: Trainer, loader: DataLoader[Any], *, user_loader: Any) -> InstalledLoader:
    """Make ``loader`` the one the fit loop trains on, as if the user had passed it; it is not iterated yet.

    With several processes, call it behind the shield: Lightning would change what the loader's sampler draws.
    """
    data_connector = importlib.import_module(f"{LIGHTNING_NAME}.trainer.connectors.data_connector")
    states = importlib.import_module(f"{LIGHTNING_NAME}.trainer.states")
    fit_loop = trainer.fit_loop
    installed = InstalledLoader(source=fit_loop._data_source.instance, user_loader=user_loader)
    processed = data_connector._process_dataloader(
        trainer, states.TrainerFn.FITTING, states.RunningStage.TRAINING, loader
    )
    combined = CombinedLoader(processed, "max_size_cycle")
    fit_loop._data_source.instance = loader
    fit_loop._combined_loader = combined
    fetcher = fit_loop._data_fetcher
    if fetcher is not None:
        # A fit that ends before its first epoch takes the fetcher down, which needs a loader that was iterated.
        fetcher.teardown()
        fetcher.setup(CombinedLoader(_Counted(0), "max_size_cycle"))
        iter(fetcher)
    return installed


def uninstall_train_loader(trainer: Trainer, installed: InstalledLoader) -> None:
    """Give the fit loop the user's loader back."""
    fit_loop = trainer.fit_loop
    fit_loop._data_source.instance = installed.source
    fit_loop._combined_loader = CombinedLoader(installed.user_loader, "max_size_cycle")


def start_iterating(trainer: Trainer) -> None:
    """Create the epoch's iterator over the train loader, where the training loop will not do it itself.

    Lightning iterates when data are set up and again at every later epoch. The private loader has no batches
    when it is set up, so the first iteration of a fit is due here.
    """
    fit_loop = trainer.fit_loop
    fetcher, combined = fit_loop._data_fetcher, fit_loop._combined_loader
    if fetcher is None or combined is None:
        return
    first = fetcher._combined_loader is not combined
    if first:
        fetcher.setup(combined)
    lightning_will = trainer.current_epoch > 0 and not fit_loop.is_resuming and not fit_loop.epoch_loop.restarting
    if first or not lightning_will:
        iter(fetcher)
