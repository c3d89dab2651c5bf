"""The user's step for several clients at once: what it logs is collected, and logged client by client afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from lightning_privacy._lightning import LightningModule, Trainer
from lightning_privacy.callbacks._trainer import move_batch
from lightning_privacy.callbacks._trainer_rounds import set_logged_batch, takes_batch_number, transfers_plainly
from lightning_privacy.errors import UnsupportedError
from lightning_privacy.strategies._client_step import loss_in

__all__ = ["StackedStep"]

_Logged = tuple[str, dict[str, Any], Any]
"""Name, further arguments of ``self.log``, and the value; None where the value is a tensor of each client."""


class StackedStep:
    """Calls ``training_step`` under ``torch.vmap``.

    Args:
        trainer: The trainer, when the fit is set up.
        module: The user's module.
    """

    def __init__(self, trainer: Trainer, module: LightningModule) -> None:
        self._trainer = trainer
        self._module = module
        self._precision = trainer.precision_plugin
        self._plainly = transfers_plainly(trainer, module)
        self._with_number = takes_batch_number(trainer, ())
        self._entries: list[_Logged] = []
        self._values: list[Tensor] = []
        self._seen: dict[int, list[tuple[list[_Logged], list[Tensor]]]] = {}

    def __call__(self, batch: Any, index: int) -> tuple[Any, list[Tensor]]:
        """The loss, and the tensors that were logged."""
        self._entries, self._values = [], []
        with self._collecting(), self._precision.train_step_context():
            module = self._module
            output = module.training_step(batch, index) if self._with_number else module.training_step(batch)
        return loss_in(output), self._values

    @contextmanager
    def _collecting(self) -> Iterator[None]:
        usual = vars(self._module).get("log")
        vars(self._module)["log"] = self._collect
        try:
            yield
        finally:
            vars(self._module).pop("log")
            if usual is not None:
                vars(self._module)["log"] = usual

    def _collect(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        if args:
            raise UnsupportedError(f"vectorize: give the options of self.log({name!r}, ...) by name")
        if isinstance(value, Tensor):
            self._values.append(value.detach())
            value = None
        elif not isinstance(value, int | float):
            raise UnsupportedError(
                f"vectorize: self.log({name!r}, ...) got a {type(value).__name__}, whose state would be of all clients "
                "at once; log tensors and numbers, or set vectorize=False"
            )
        self._entries.append((name, kwargs, value))

    def stack(self, batches: list[Any]) -> Any:
        """One batch of many, on the device."""
        if not self._plainly:
            batches = [move_batch(self._trainer, self._module, batch) for batch in batches]
        flat = [tree_flatten(batch) for batch in batches]
        leaves = [
            torch.stack(list(column)) if isinstance(column[0], Tensor) else column[0]
            for column in zip(*(leaves for leaves, _ in flat), strict=True)
        ]
        batch = tree_unflatten(leaves, flat[0][1])
        if not self._plainly:
            return batch
        device = self._module.device
        moved = tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, batch)
        return self._precision.convert_input(moved)

    def seen(self, place: int, step: int, tensors: list[Tensor]) -> None:
        """Keep what a client has logged in a step."""
        self._seen.setdefault(place, []).append((self._entries, tensors))

    def log(self, place: int, batches: list[tuple[int, Any]], usual: Callable[..., None]) -> None:
        """Log what a client has logged, as if it were trained now.

        Args:
            place: Of the client.
            batches: Those it was trained on.
            usual: ``log`` of the module.
        """
        for (_, batch), (entries, tensors) in zip(batches, self._seen.pop(place, []), strict=False):
            set_logged_batch(self._trainer, batch)
            remaining = iter(tensors)
            for name, kwargs, value in entries:
                usual(name, next(remaining) if value is None else value, **kwargs)

    def forget(self) -> None:
        """Drop what was not logged."""
        self._seen.clear()
