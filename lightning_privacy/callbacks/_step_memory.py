"""How much memory a training step needs, roughly: what is counted, and what one more row of a batch adds.

Weights, gradients and the optimizer's state are counted. What a row adds is measured: the step runs on a copy with two
small batches of different sizes, and what autograd keeps of each is weighed. Private gradients also keep the gradient
of every layer's output until the end of a backward, and no more than that again for gradients of single examples. What
is used for a moment inside an operation, the data set, and what the program holds anyway is left out: for a row, the
peak that was measured on a CPU was a fifth above the figure, for a dense network and for a convolutional one.

Example:
    >>> import torch
    >>> layer = torch.nn.Linear(1000, 10)
    >>> optimizer_bytes([torch.optim.Adam(layer.parameters())])  # two numbers for each weight
    80080
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from lightning_privacy._lightning import LightningModule
from lightning_privacy.callbacks._probing import Rehearsal, fetch_examples
from lightning_privacy.callbacks._rehearsing import rehearsing_copy
from lightning_privacy.gradients.probe_randomness import untouched_generators

__all__ = ["StepMemory", "optimizer_bytes", "row_bytes", "tensor_bytes"]


def _as_adam(group: Mapping[str, Any]) -> int:
    return 3 if group.get("amsgrad") else 2


# Numbers that torch's optimizers hold for each number they step, given their settings.
_STATES: dict[type[Optimizer], Callable[[Mapping[str, Any]], int]] = {
    torch.optim.Adagrad: lambda _group: 1,
    torch.optim.LBFGS: lambda group: 2 * int(group["history_size"]) + 2,
    torch.optim.RMSprop: lambda group: 1 + (group["momentum"] > 0) + bool(group["centered"]),
    torch.optim.SGD: lambda group: int(group["momentum"] != 0),
}
# Batches that are compared: weights, and what else does not grow with a batch, are no part of the difference.
_SIZES = (2, 4)


@dataclass(frozen=True)
class StepMemory:
    """Memory of a training step, in bytes.

    Args:
        weights: Parameters and buffers.
        gradients: One for each trained parameter.
        optimizer: The optimizers' state.
        row: What each row of a batch adds; None where that could not be measured.
        rows: Most rows that are in memory at once.
    """

    weights: int
    gradients: int
    optimizer: int
    row: float | None
    rows: int

    @property
    def model(self) -> int:
        """What does not depend on the batch."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int | None:
        """All of it; None where the rows could not be measured."""
        return None if self.row is None else self.model + int(self.row * self.rows)


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Size of the content of tensors.

    Args:
        tensors: Any; what several share counts several times.
    """
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def optimizer_bytes(optimizers: Iterable[Optimizer]) -> int:
    """Size of the state of optimizers: what they hold, or will after their first step.

    Args:
        optimizers: Of the trainer. One that is not torch's own is taken to hold as much as Adam.
    """
    total = 0
    for optimizer in optimizers:
        held = tensor_bytes(leaf for leaf in tree_leaves(list(optimizer.state.values())) if isinstance(leaf, Tensor))
        if held:
            total += held
            continue
        numbers = _STATES.get(type(optimizer), _as_adam)
        total += sum(tensor_bytes(group["params"]) * numbers(group) for group in optimizer.param_groups)
    return total


def row_bytes(trainer: Any, module: LightningModule, loader: DataLoader[Any], *, private: bool) -> float:
    """What one more row of a batch adds to the memory of a training step.

    Args:
        trainer: The trainer, before its first step.
        module: Its module; only a copy of it runs.
        loader: The train loader, whose function makes batches; it does not move on.
        private: Whether gradients of single examples are clipped.

    Raises:
        ConfigurationError: The module can't be copied.
    """
    devices = sorted({p.device for p in module.parameters() if p.device.type != "cpu"}, key=str)
    with untouched_generators(devices):
        examples = fetch_examples(loader)
        kept = []
        for size in _SIZES:
            copied = rehearsing_copy(trainer, module, loader)
            batch = [examples[number % len(examples)] for number in range(size)]
            rehearsal = Rehearsal(trainer, loader, 0, single=False)
            kept.append(_kept(copied, partial(rehearsal.step, copied, batch, False)))
    small, large = (saved + private * outputs for saved, outputs in kept)
    return max(0.0, (large - small) / (_SIZES[1] - _SIZES[0]))


def _kept(module: nn.Module, run: Callable[[], None]) -> tuple[int, int]:
    """Bytes autograd keeps of a run, weights among them, and bytes of what the layers with weights give out in it."""
    storages: dict[int, int] = {}
    alive: list[Tensor] = []
    outputs = 0

    def weigh(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor.detach())  # or another tensor could take the place in memory, and be left out
        return tensor

    def note(_layer: nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal outputs
        outputs += tensor_bytes(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor))

    handles = [
        layer.register_forward_hook(note)
        for layer in module.modules()
        if any(True for _ in layer.parameters(recurse=False))
    ]
    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor):
            run()
    finally:
        for handle in handles:
            handle.remove()
    return sum(storages.values()), outputs
