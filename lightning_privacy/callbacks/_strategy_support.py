"""Which of Lightning's strategies a private fit can run under, and why not under the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.optim import Optimizer

from lightning_privacy._lightning import DDPStrategy, SingleDeviceStrategy
from lightning_privacy.callbacks._parts import releases_per_step
from lightning_privacy.callbacks._processes import Processes
from lightning_privacy.callbacks._trainer import ddp_extras, synchronises_batch_norm
from lightning_privacy.errors import UnsupportedError

__all__ = ["check_optimizers_keep_step", "check_strategy"]

_WAY_OUT = "Use Trainer(strategy='ddp') for several processes, or devices=1 with strategy='auto'"

_REASONS = {
    "FSDPStrategy": "it shards parameters and gradients, so no process has the whole gradient of an example to clip",
    "ModelParallelStrategy": (
        "it shards parameters and gradients, so no process has the whole gradient of an example to clip"
    ),
    "DeepSpeedStrategy": (
        "DeepSpeed runs backward and the optimizer step in an engine of its own, past the clipping and the noise"
    ),
    "XLAStrategy": "XLA defers and merges computations, and private gradients were not built for it",
    "SingleDeviceXLAStrategy": "XLA defers and merges computations, and private gradients were not built for it",
    "FederatedStrategy": (
        "its steps are rounds, and what reaches the server is what whole clients changed, which this callback neither "
        "clips nor noises"
    ),
}
_WAYS_OUT = {
    "FederatedStrategy": (
        "For privacy of whole clients leave the callback out and give FederatedStrategy(client_privacy=ClientPrivacy("
        "...)); for privacy of single examples inside each client give it example_privacy=ExamplePrivacy(...), or keep "
        "the callback and train on all data together, with Trainer(strategy='ddp')"
    ),
}


def check_strategy(trainer: Any) -> None:
    """Refuse strategies under which the sum of clipped gradients, or its noise, would be another than is accounted.

    Args:
        trainer: The trainer, in ``setup``.

    Raises:
        UnsupportedError: Naming the strategy or its option, the reason and the way out.
    """
    strategy = trainer.strategy
    name = type(strategy).__name__
    if synchronises_batch_norm(trainer):
        raise UnsupportedError(
            "Trainer(sync_batchnorm=True) normalises with statistics over the examples of all processes, so that one "
            "example changes the gradients of the others: remove it, and use GroupNorm or LayerNorm in the model"
        )
    if type(strategy) is DDPStrategy:
        _check_ddp(strategy)
        return
    if isinstance(strategy, SingleDeviceStrategy) and name not in _REASONS and trainer.world_size == 1:
        return
    known = next((kind.__name__ for kind in type(strategy).__mro__ if kind.__name__ in _REASONS), None)
    reason = (
        "a strategy of its own may average weights or gradients past the clipping and the noise"
        if known is None
        else _REASONS[known]
    )
    raise UnsupportedError(
        f"strategy {name} with {trainer.world_size} process(es) is not supported: {reason}. "
        f"{_WAYS_OUT.get(known or '', _WAY_OUT)}."
    )


def check_optimizers_keep_step(optimizers: Iterable[Optimizer], processes: Processes) -> None:
    """Refuse optimizers that decide from a loss how often to ask for a gradient: each process has another loss.

    Raises:
        UnsupportedError: Such an optimizer, and several processes.
    """
    for optimizer in optimizers:
        if processes.several and releases_per_step([optimizer]) > 1:
            raise UnsupportedError(
                f"{type(optimizer).__name__} compares losses to decide when it is done, and each of the "
                f"{processes.count} processes has the loss of its own share of the batch: they would take different "
                "numbers of gradients. Train with one process, or with an optimizer that steps once a batch."
            )


def _check_ddp(strategy: DDPStrategy) -> None:
    for argument, value in ddp_extras(strategy).items():
        if value is None:
            continue
        shown = getattr(value, "__name__", None) or repr(value)
        raise UnsupportedError(
            f"DDPStrategy({argument}={shown}) is not supported: it changes what the processes exchange (compressed "
            "gradients, or weights averaged now and then), while a private step is one exact sum of clipped gradients "
            f"with noise added once. Remove {argument}."
        )
