"""A LightningModule at work without a Trainer: its step, its optimizer, what it logs."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from lightning_privacy._lightning import LightningDataModule, LightningModule, LRSchedulerConfig
from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.strategies._federated_checks import check_optimizers

__all__ = ["LogCollector", "UntrainedStep", "client_optimizer", "clip_of", "without_trainer"]

_TRANSFER = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


@contextmanager
def without_trainer(module: LightningModule) -> Iterator[None]:
    """Say what is the matter where user code asks for a trainer that a Flower client doesn't have.

    Raises:
        UnsupportedError: In place of Lightning's error.
    """
    try:
        yield
    except RuntimeError as error:
        if "is not attached to a `Trainer`" not in str(error):
            raise
        raise UnsupportedError(
            f"{type(module).__name__} reads self.trainer, and a Flower client has none: pass what it needs (a number "
            "of steps, a folder) to the module's constructor"
        ) from error


class LogCollector:
    """Takes the place of ``self.log``, which needs a trainer: means over batches, weighted by their size.

    Args:
        module: Whose ``log`` is replaced for good.

    Example:
        >>> module = LightningModule()
        >>> collector = LogCollector(module)
        >>> collector.batch_size = 2
        >>> module.log("loss", 1.0)
        >>> module.log_dict({"loss": torch.tensor(4.0)}, batch_size=1)
        >>> collector.means()
        {'loss': 2.0}
    """

    def __init__(self, module: LightningModule) -> None:
        self.batch_size = 1
        self._sums: dict[str, tuple[Tensor | float, float]] = {}
        self._metrics: dict[str, Metric] = {}
        module.log = self.log  # type: ignore[method-assign]

    def log(self, name: str, value: Any, *args: Any, batch_size: int | None = None, **kwargs: Any) -> None:
        """Take a value in; arguments are those of ``LightningModule.log``."""
        if isinstance(value, Metric):
            self._metrics[name] = value
            return
        found = value.detach().float().mean() if isinstance(value, Tensor) else float(value)
        weight = float(batch_size or self.batch_size)
        total, seen = self._sums.get(name, (0.0, 0.0))
        self._sums[name] = (total + found * weight, seen + weight)

    def means(self) -> dict[str, float]:
        """What was logged since the last call, by name; forgets it."""
        found = {name: float(total) / seen for name, (total, seen) in self._sums.items()}
        for name, metric in self._metrics.items():
            computed = metric.compute()
            if isinstance(computed, Tensor) and computed.numel() == 1:
                found[name] = float(computed)
            metric.reset()
        self._sums.clear()
        self._metrics.clear()
        return found


class UntrainedStep:
    """Maps a batch to what ``training_step`` or ``validation_step`` makes of it, on the device.

    Args:
        module: The user's.
        data: Whose transfer hooks go before the module's; None without a DataModule.
        hook: Name of the step.
        device: Where batches are moved.
        collector: Told the size of each batch.
    """

    def __init__(
        self,
        module: LightningModule,
        data: LightningDataModule | None,
        hook: str,
        device: torch.device,
        collector: LogCollector,
    ) -> None:
        self._module = module
        self._device = device
        self._collector = collector
        self._step = getattr(module, hook)
        self._with_number = len(inspect.signature(self._step).parameters) > 1
        base = {name: getattr(LightningDataModule, name) for name in _TRANSFER}
        own = {name for name in _TRANSFER if data is not None and getattr(type(data), name) is not base[name]}
        self._hooks = {name: getattr(data if name in own else module, name) for name in _TRANSFER}

    def output(self, batch: Any, index: int) -> Any:
        """What the step returns."""
        batch = self._hooks["on_before_batch_transfer"](batch, 0)
        batch = self._hooks["transfer_batch_to_device"](batch, self._device, 0)
        batch = self._hooks["on_after_batch_transfer"](batch, 0)
        self._collector.batch_size = size_of(batch)
        with without_trainer(self._module):
            return self._step(batch, index) if self._with_number else self._step(batch)

    def __call__(self, batch: Any, index: int) -> Tensor | None:
        """The loss, or None where the step returned None.

        Raises:
            ConfigurationError: It returned something else.
        """
        output = self.output(batch, index)
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if output is None or isinstance(loss, Tensor):
            return loss
        raise ConfigurationError(
            f"training_step must return a loss tensor, a dict with the key 'loss', or None, got {type(output).__name__}"
        )


def size_of(batch: Any) -> int:
    """Examples of a batch: the first dimension of the first tensor in it; 1 without any."""
    if isinstance(batch, Tensor):
        return int(batch.shape[0]) if batch.dim() else 1
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, list | tuple):
        return next((size_of(part) for part in batch if isinstance(part, Tensor | Mapping | list | tuple)), 1)
    return 1


def client_optimizer(module: LightningModule, epochs: int) -> Optimizer:
    """A new optimizer of a client, with the learning rate of a round.

    Args:
        module: Whose ``configure_optimizers`` is called.
        epochs: Epochs of rounds that have passed, for which a scheduler is stepped.

    Raises:
        UnsupportedError: There is not one optimizer, or a scheduler that counts steps or watches a metric.
    """
    with without_trainer(module):
        made: Any = module.configure_optimizers()
    optimizers, schedulers = _parts(made)
    check_optimizers(optimizers, schedulers)
    for config in schedulers:
        if not isinstance(config.scheduler, LRScheduler) or isinstance(
            config.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau
        ):
            raise UnsupportedError(
                f"{type(config.scheduler).__name__} watches a metric, which a client of a round can't: use a schedule "
                "that goes by epochs"
            )
        with warnings.catch_warnings():
            # The schedule is caught up before the optimizer's first step: on purpose, nothing is skipped.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            for _ in range(epochs // config.frequency):
                config.scheduler.step()
    return optimizers[0]


def _parts(made: Any) -> tuple[list[Optimizer], list[LRSchedulerConfig]]:
    """Optimizers and schedulers of the forms that ``configure_optimizers`` may return."""
    if isinstance(made, Optimizer):
        return [made], []
    if isinstance(made, Mapping):
        scheduler = made.get("lr_scheduler")
        return [made["optimizer"]], [] if scheduler is None else [_config(scheduler)]
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], list):
        return list(made[0]), [_config(scheduler) for scheduler in made[1]]
    if isinstance(made, list | tuple):
        pairs = [_parts(part) for part in made]
        return [o for pair in pairs for o in pair[0]], [s for pair in pairs for s in pair[1]]
    return [], []


def _config(scheduler: Any) -> LRSchedulerConfig:
    if isinstance(scheduler, LRSchedulerConfig):
        return scheduler
    return LRSchedulerConfig(**scheduler) if isinstance(scheduler, Mapping) else LRSchedulerConfig(scheduler)


def clip_of(module: LightningModule, value: float | None, algorithm: str | None) -> Callable[[Optimizer], None] | None:
    """What clips a client's gradients before its step; None for nothing.

    Args:
        module: Whose ``configure_gradient_clipping`` must not be overridden, as it calls the trainer.
        value: The bound.
        algorithm: ``"norm"`` or ``"value"``.

    Raises:
        UnsupportedError: The hook is overridden.
        ConfigurationError: An unknown algorithm.
    """
    if type(module).configure_gradient_clipping is not LightningModule.configure_gradient_clipping:
        raise UnsupportedError(
            f"{type(module).__name__} overrides configure_gradient_clipping, which needs a trainer, and a Flower "
            "client has none: remove it and give gradient_clip_val to client_app"
        )
    if not value:
        return None
    bound = float(value)
    if algorithm not in (None, "norm", "value"):
        raise ConfigurationError(f"gradient_clip_algorithm must be 'norm' or 'value', got {algorithm!r}")

    def clip(optimizer: Optimizer) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if algorithm == "value":
            torch.nn.utils.clip_grad_value_(parameters, bound)
        else:
            torch.nn.utils.clip_grad_norm_(parameters, bound)

    return clip
