"""Models trained for an attack: the same module on other parts of the data, and their losses on all of it.

Example:
    >>> import warnings, numpy as np, torch, lightning_privacy._lightning as L
    >>> from torch.utils.data import TensorDataset
    >>> class Regression(L.LightningModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer = torch.nn.Linear(1, 1)
    ...     def training_step(self, batch, batch_idx):
    ...         return (self.layer(batch[0]) - batch[1]).square().mean()
    ...     def configure_optimizers(self):
    ...         return torch.optim.SGD(self.parameters(), lr=0.1)
    >>> data = TensorDataset(torch.ones(4, 1), torch.ones(4, 1))
    >>> quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    >>> make_trainer = lambda: L.Trainer(max_epochs=20, accelerator="cpu", enable_model_summary=False, **quiet)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     losses = losses_of_models(
    ...         Regression, data, np.eye(2, 4) > 0, make_trainer=make_trainer, batch_size=1, seed=0
    ...     )
    >>> losses.shape, bool((losses < 1e-2).all())
    ((2, 4), True)
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from lightning_privacy._lightning import LIGHTNING_NAME, LightningModule, Trainer
from lightning_privacy.callbacks._example_losses import LossOf, example_losses
from lightning_privacy.errors import ConfigurationError

__all__ = ["drawn_anew", "losses_of_models"]

_LARGEST_SEED = 2**62


def drawn_anew(module: LightningModule) -> LightningModule:
    """Give every layer that can draw its initial weights new ones, as an attacker would who has only the code.

    Args:
        module: Changed in place; what has no ``reset_parameters`` stays as it is.

    Returns:
        The module.
    """
    for part in module.modules():
        draw = getattr(part, "reset_parameters", None)
        if callable(draw):
            draw()
    return module


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what a trainer says at its start and end, once for each model."""
    loggers = [logging.getLogger(name) for name in (LIGHTNING_NAME, f"{LIGHTNING_NAME}.utilities.rank_zero")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Of the run it is told; a reference model is thrown away, and may be validated with what it is trained on.
            warnings.filterwarnings("ignore", message=r".* acts? on '.*', a metric of the training examples without")
            # Nobody looks at how it does on other examples, and none are given.
            warnings.filterwarnings("ignore", message=r"You defined a `validation_step` but have no `val_dataloader`")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def losses_of_models(
    make_module: Callable[[], LightningModule],
    dataset: Dataset[Any],
    member: npt.NDArray[np.bool_],
    *,
    make_trainer: Callable[[], Trainer],
    batch_size: int,
    collate_fn: Callable[[Any], Any] | None = None,
    losses: LossOf | None = None,
    seed: int | None = None,
    validation: Any = None,
    progress: bool = False,
) -> npt.NDArray[np.floating[Any]]:
    """Train one model on each of several parts of a data set, and measure each on all of it.

    The global random generator of torch is left as it was.

    Args:
        make_module: Makes a module that is not trained yet.
        dataset: All examples.
        member: True where a model is trained on an example, shape ``(M, N)``.
        make_trainer: Makes a new trainer for each model; with callbacks of its own, such as ``DifferentialPrivacy``,
            they must be new too.
        batch_size: Of training, shuffled.
        collate_fn: Makes batches.
        losses: See :func:`~lightning_privacy.callbacks._example_losses.example_losses`.
        seed: Of initial weights and batches, with the number of the model; None draws it anew. Noise and sampling of
            private training don't depend on it.
        validation: Loaders to validate with while training, where the module's learning rate follows from that.
        progress: Whether a terminal is shown a bar.

    Returns:
        Shape ``(M, N)``.

    Raises:
        ConfigurationError: ``member`` is of another shape, or a model has no example.
    """
    total = len(dataset)  # type: ignore[arg-type]
    if member.ndim != 2 or member.shape[1] != total or member.dtype != np.bool_:
        raise ConfigurationError(f"member must hold True and False in shape (models, {total}), got {member.shape}")
    if not member.any(axis=1).all():
        raise ConfigurationError("member must give every model one example at least")
    rows = []
    with torch.random.fork_rng(devices=[]):
        start = torch.seed() % _LARGEST_SEED if seed is None else seed
    # None: only where the output is a terminal.
    models = tqdm(member, desc="Reference models", unit="model", leave=False, disable=None if progress else True)
    for number, inside in enumerate(models):
        with torch.random.fork_rng(devices=[]), _quiet():
            torch.manual_seed(start + number)
            module = make_module()
            part: Dataset[Any] = Subset(dataset, np.flatnonzero(inside).tolist())
            loader = DataLoader(part, batch_size=batch_size, shuffle=True, collate_fn=collate_fn)
            make_trainer().fit(module, loader, validation)
            rows.append(example_losses(module, dataset, losses=losses, collate_fn=collate_fn))
    return np.stack(rows)
