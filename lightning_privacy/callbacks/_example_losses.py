"""The loss of a module on each example of a data set, by its own training step.

Example:
    >>> import torch
    >>> from torch.utils.data import TensorDataset
    >>> class Module(LightningModule):
    ...     def training_step(self, batch, batch_idx):
    ...         self.log("loss", batch[0].mean())  # goes nowhere
    ...         return batch[0].mean()
    >>> example_losses(Module(), TensorDataset(torch.tensor([1.0, 3.0]))).tolist()
    [1.0, 3.0]
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_privacy._lightning import LightningModule
from lightning_privacy._validate import positive_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.fairness.batch_groups import Groups, column_of

__all__ = ["LossOf", "example_columns", "example_losses"]

LossOf = Callable[[LightningModule, Any], Tensor]
"""Maps a module and a batch to the loss of each example, shape ``(B,)``."""

_LOGGING = ("log", "log_dict", "print")


@contextmanager
def _at_rest(module: LightningModule) -> Iterator[None]:
    """Evaluation mode, no gradients, and nothing logged."""
    training = {part: part.training for part in module.modules()}
    module.eval()
    for name in _LOGGING:
        vars(module)[name] = lambda *_args, **_kwargs: None
    try:
        with torch.no_grad():
            yield
    finally:
        for name in _LOGGING:
            del vars(module)[name]
        for part, mode in training.items():
            part.training = mode


def example_losses(
    module: LightningModule,
    dataset: Dataset[Any],
    *,
    losses: LossOf | None = None,
    batch_size: int = 512,
    collate_fn: Callable[[Any], Any] | None = None,
) -> npt.NDArray[np.floating[Any]]:
    """The loss of each example, in evaluation mode and without gradients.

    Where the training step returns ``{"loss": ..., "losses": a vector}`` that vector is taken; otherwise it is called
    on one example at a time, which works for any module with automatic optimization and takes longer.

    Args:
        module: As trained; not attached to a trainer that is at work.
        dataset: The examples.
        losses: Gives the losses in place of the training step, shape ``(B,)``.
        batch_size: Examples at a time.
        collate_fn: Makes batches; that of the train loader.

    Returns:
        Shape ``(N,)``; in the precision of the module's loss, so that a loss of 0 is told apart from a small one.

    Raises:
        ConfigurationError: The loss of an example can't be had.
    """
    if losses is None and not module.automatic_optimization:
        raise ConfigurationError(
            f"{type(module).__name__} optimizes manually, so that its training_step returns no loss: pass losses=, a "
            "function of the module and a batch that gives the loss of each example"
        )
    with _at_rest(module):
        found = _all_losses(module, dataset, losses, positive_int(batch_size=batch_size), collate_fn)
    return np.asarray(found)


def _all_losses(
    module: LightningModule, dataset: Dataset[Any], losses: LossOf | None, batch_size: int, collate_fn: Any
) -> npt.NDArray[Any]:
    collected = []
    start = 0
    for batch in _batches(module, dataset, batch_size, collate_fn):
        rows = min(batch_size, len(dataset) - start)  # type: ignore[arg-type]
        value = losses(module, batch) if losses is not None else _step_losses(module, batch, rows)
        if value is None:
            return _all_losses(module, dataset, None, 1, collate_fn)
        if not isinstance(value, Tensor) or value.shape != (rows,):
            got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise ConfigurationError(f"losses must give one loss for each of {rows} examples, got {got}")
        collected.append(value.detach().cpu())
        start += rows
    both = torch.cat(collected)
    # NumPy has no bfloat16, and the type says how finely losses near 0 are told apart.
    return both.float().numpy() if both.dtype in (torch.bfloat16, torch.float16) else both.numpy()


def _step_losses(module: LightningModule, batch: Any, rows: int) -> Tensor | None:
    """The losses of a batch by the training step; None where it gives only one for several."""
    arguments = [batch, 0][: len(inspect.signature(module.training_step).parameters)]
    output = module.training_step(*arguments)
    if isinstance(output, Mapping):
        vector = output.get("losses")
        if isinstance(vector, Tensor) and vector.shape == (rows,):
            return vector
        output = output.get("loss")
    if not isinstance(output, Tensor):
        raise ConfigurationError(
            f"training_step of {type(module).__name__} returned no loss but {output!r}: pass losses=, a function of "
            "the module and a batch that gives the loss of each example"
        )
    if output.shape == (rows,):
        return output
    return output.reshape(1) if rows == 1 and output.numel() == 1 else None


def _batches(module: LightningModule, dataset: Dataset[Any], batch_size: int, collate_fn: Any) -> Iterator[Any]:
    loader = DataLoader(dataset, batch_size=batch_size, shuffle=False, collate_fn=collate_fn)
    for batch in loader:
        moved = module.transfer_batch_to_device(module.on_before_batch_transfer(batch, 0), module.device, 0)
        yield module.on_after_batch_transfer(moved, 0)


def example_columns(
    dataset: Dataset[Any],
    columns: Mapping[str, Groups],
    *,
    batch_size: int = 512,
    collate_fn: Callable[[Any], Any] | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Columns of the batches, such as labels and groups, for all examples.

    Args:
        dataset: The examples.
        columns: Where each is in a batch, by its name.
        batch_size: Examples at a time.
        collate_fn: Makes batches.

    Returns:
        For each name an array of shape ``(N,)``.

    Raises:
        ConfigurationError: A column is not in the batch, or has not one value per example.
    """
    found: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in columns}
    if columns:
        for batch in DataLoader(dataset, batch_size=batch_size, shuffle=False, collate_fn=collate_fn):
            for name, where in columns.items():
                values = column_of(batch, where, argument=f"parts[{name!r}]")
                found[name].append(np.asarray(values.cpu() if isinstance(values, Tensor) else values))
    result = {name: np.concatenate(values) for name, values in found.items()}
    for name, values in result.items():
        if values.shape != (len(dataset),):  # type: ignore[arg-type]
            raise ConfigurationError(
                f"parts[{name!r}] must give one value for each example, got shape {values.shape} for "
                f"{len(dataset)} examples"  # type: ignore[arg-type]
            )
    return result
