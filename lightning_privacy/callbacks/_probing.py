"""The independence probe for a LightningModule: its real ``training_step``, on a copy that leaves no traces.

The copy logs nothing, has optimizers that do not step, and gets its examples from the data set one by one, through
the loader's ``collate_fn`` and the transfer hooks, so that neither the loader nor a sampler moves on.

Example:
    >>> from torch import nn
    >>> from torch.optim import SGD
    >>> layer = nn.Linear(2, 1)
    >>> before = layer.weight.clone()
    >>> optimizer = StandingOptimizer(SGD(layer.parameters(), lr=0.1), {})
    >>> layer(torch.ones(1, 2)).sum().backward()
    >>> optimizer.step(), bool((layer.weight == before).all()), optimizer.param_groups[0]["lr"]
    (None, True, 0.1)
"""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader

from lightning_privacy._lightning import DummyLogger, LightningModule
from lightning_privacy.callbacks import _trainer as internals
from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.gradients.layout import Layouts
from lightning_privacy.gradients.probe import IndependenceProbe
from lightning_privacy.gradients.probe_randomness import untouched_generators

__all__ = ["StandingOptimizer", "probe_training_step"]

_CANDIDATES = 16
"""Examples that are fetched, evenly over the data set; the probe takes those that differ."""

_DTYPES = {
    "16-mixed": torch.float16,
    "bf16-mixed": torch.bfloat16,
    "16-true": torch.float16,
    "bf16-true": torch.bfloat16,
}


_HALF = (torch.float16, torch.bfloat16)

_logger = logging.getLogger(__name__)


class StandingOptimizer(Optimizer):
    """An optimizer's parameter groups, without its steps.

    Args:
        original: the optimizer it stands in for.
        counterparts: parameters to hold in place of the original's, by their ``id``.
    """

    def __init__(self, original: Optimizer, counterparts: Mapping[int, Tensor]) -> None:
        groups = [
            {**group, "params": [counterparts.get(id(p), p) for p in group["params"]]}
            for group in original.param_groups
        ]
        super().__init__(groups, dict(original.defaults))

    @property
    def optimizer(self) -> StandingOptimizer:
        """Itself, where Lightning's wrapper has the wrapped one."""
        return self

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Evaluate the closure, and change nothing."""
        return None if closure is None else closure()

    @contextmanager
    def toggle_model(self, sync_grad: bool = True) -> Iterator[None]:
        """Do nothing else than let the block run; see ``LightningOptimizer``."""
        yield


class _StandingScheduler:
    """A learning-rate scheduler that can be asked and does not move."""

    def __init__(self, original: Any) -> None:
        self._rates = [group["lr"] for group in original.optimizer.param_groups]

    def step(self, *_args: Any, **_kwargs: Any) -> None:
        """Change nothing."""

    def get_last_lr(self) -> list[Any]:
        """Return the present learning rates."""
        return list(self._rates)


class _Rehearsing:
    """What a copy of a LightningModule does differently from the original."""

    _standing_optimizers: list[StandingOptimizer]
    _standing_schedulers: list[_StandingScheduler]
    _training: set[int]
    _backward: bool

    def log(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def log_dict(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def print(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    @property
    def logger(self) -> Any:
        return DummyLogger()

    @property
    def loggers(self) -> list[Any]:
        return [DummyLogger()]

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        return self._standing_optimizers[0] if len(self._standing_optimizers) == 1 else self._standing_optimizers

    def lr_schedulers(self) -> Any:
        standing = self._standing_schedulers
        return None if not standing else standing[0] if len(standing) == 1 else standing

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if self._backward:
            self.backward(loss, *args, **kwargs)  # type: ignore[attr-defined]
        for parameter in self._optimized():
            if parameter.grad is None:  # a private gradient would be there for the step to look at
                parameter.grad = torch.zeros_like(parameter)

    def toggle_optimizer(self, optimizer: Any) -> None:
        chosen = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for parameter in self._optimized():
            parameter.requires_grad_(id(parameter) in chosen and id(parameter) in self._training)

    def untoggle_optimizer(self, optimizer: Any) -> None:
        for parameter in self._optimized():
            parameter.requires_grad_(id(parameter) in self._training)

    def _optimized(self) -> list[Any]:
        groups = [group for optimizer in self._standing_optimizers for group in optimizer.param_groups]
        return [parameter for group in groups for parameter in group["params"]]

    def clip_gradients(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def all_gather(self, data: Any, group: Any = None, sync_grads: bool = False) -> Any:
        if sync_grads and self.trainer.world_size > 1:  # type: ignore[attr-defined]
            raise UnsupportedError(
                "training_step gathers tensors of all processes with their gradients (all_gather(sync_grads=True)), so "
                "that examples of one process change the gradients of another's; compute the loss of each process "
                "from its own examples"
            )
        return super().all_gather(data, group, sync_grads)  # type: ignore[misc]


def probe_training_step(
    trainer: Any,
    module: LightningModule,
    loader: DataLoader[Any],
    *,
    public: Sequence[str] = (),
    views: int = 1,
    batch_idx: int = 0,
) -> Layouts:
    """Run the independence probe on a copy of ``module``.

    Args:
        trainer: The trainer, before its first step.
        module: The module that is to be trained.
        loader: The user's train loader.
        public: Names of parameters whose losses never depend on private data.
        views: How often each example is fetched for a batch.
        batch_idx: Number of the batch that is about to be trained on.

    Returns:
        Where the examples are in the outputs of each layer.

    Raises:
        UnsupportedError: The step breaks the guarantee; the message says where and how to mend it.
        ConfigurationError: The module can't be copied.
    """
    devices = sorted({p.device for p in module.parameters() if p.device.type != "cpu"}, key=str)
    with untouched_generators(devices):
        examples = _examples(loader, views)

        def prepare(dtype: torch.dtype, *, single: bool) -> IndependenceProbe:
            rehearsing = _rehearsing(trainer, module, loader)
            rehearsal = _Rehearsal(trainer, loader, batch_idx, single=single)
            return IndependenceProbe(
                rehearsing.float() if single else rehearsing,
                rehearsal.step,
                examples,
                public=public,
                views=views,
                dtype=dtype,
                finish=rehearsal.finish,
            )

        coarsest = _coarsest(trainer, module)
        if coarsest in _HALF:
            # What examples do to each other can be less than half precision rounds off.
            probe = prepare(torch.float32, single=True)
            if probe.in_single_precision():
                return probe.run()
        return prepare(coarsest, single=False).run()


def _coarsest(trainer: Any, module: LightningModule) -> torch.dtype:
    """The type with the fewest digits that the step computes in."""
    own = {p.dtype for p in module.parameters() if p.is_floating_point()}
    own.add(_DTYPES.get(str(trainer.precision), torch.float64))
    return max(own, key=lambda dtype: torch.finfo(dtype).eps)


class _Rehearsal:
    """Runs the step of a copy as the trainer would.

    Args:
        trainer: The trainer.
        loader: Whose function makes batches.
        batch_idx: Number of the batch.
        single: Leave the trainer's half precision out.
    """

    def __init__(self, trainer: Any, loader: DataLoader[Any], batch_idx: int, *, single: bool) -> None:
        self.trainer, self.loader, self.batch_idx, self.single = trainer, loader, batch_idx, single
        self.last: tuple[Any, Any] = (None, None)

    def step(self, module: Any, examples: Sequence[Any], backward: bool) -> None:
        """Make a batch, and run the step on it."""
        module.trainer = self.trainer  # which a copy doesn't keep
        batch = internals.move_batch(self.trainer, module, self.loader.collate_fn(list(examples)))
        if self.single:
            batch = tree_map(_in_single_precision, batch)
        for part in module.modules():
            if isinstance(part, _Rehearsing):
                part._backward = backward
        arguments = internals.step_arguments(self.trainer, batch, self.batch_idx)
        if type(module).on_train_batch_start is not LightningModule.on_train_batch_start:
            module.on_train_batch_start(batch, self.batch_idx)
        with nullcontext() if self.single else self.trainer.precision_plugin.train_step_context():
            output = module.training_step(*arguments)
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if backward and module.automatic_optimization and isinstance(loss, Tensor):
            module.backward(loss)
        self.last = batch, output

    def finish(self, module: Any) -> None:
        """Run the hooks that may keep something of the last batch for the next one."""
        batch, output = self.last
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if not isinstance(loss, Tensor):
            return
        loss = loss.detach()
        outputs = {**output, "loss": loss} if isinstance(output, Mapping) else {"loss": loss}
        calls: list[tuple[str, tuple[Any, ...]]] = [("on_before_backward", (loss,)), ("on_after_backward", ())]
        if module._standing_optimizers:
            calls.insert(0, ("on_before_zero_grad", (module._standing_optimizers[0],)))
        calls.append(("on_train_batch_end", (outputs, batch, self.batch_idx)))
        for parameter in module._optimized():
            if parameter.grad is None:  # a private gradient would be there to look at
                parameter.grad = torch.zeros_like(parameter)
        for name, arguments in calls:
            if getattr(type(module), name) is getattr(LightningModule, name):
                continue
            try:
                getattr(module, name)(*arguments)
            except Exception as error:  # noqa: BLE001 - it may look for what only a fit has, such as logged metrics
                _logger.info("%s was left out of the independence probe: %r", name, error)
        for parameter in module._optimized():
            parameter.grad = None


def _in_single_precision(leaf: Any) -> Any:
    return leaf.float() if isinstance(leaf, Tensor) and leaf.dtype in _HALF else leaf


def _examples(loader: DataLoader[Any], views: int) -> list[Any]:
    dataset: Any = loader.dataset
    count = len(dataset)
    # One from each part of the data set, which may be sorted; not at equal distances, as it may have a period.
    within = random.Random(0)  # noqa: S311 - the same in every process
    chosen = sorted({int((number + within.random()) * count / _CANDIDATES) for number in range(_CANDIDATES)})
    several = getattr(dataset, "__getitems__", None)

    def fetch(index: int) -> Any:
        return several([index])[0] if several is not None else dataset[index]

    return [fetch(index) if views == 1 else [fetch(index) for _ in range(views)] for index in chosen]


def _rehearsing(trainer: Any, module: LightningModule, loader: DataLoader[Any]) -> LightningModule:
    """Copy a module, and have the copy leave no traces."""
    # Data are large, and a trainer is not to be had twice.
    kept = [trainer, loader, loader.dataset, getattr(trainer, "datamodule", None), *trainer.callbacks, *trainer.loggers]
    memo = {id(item): item for item in kept if item is not None}
    try:
        copied = copy.deepcopy(module, memo)
    except Exception as error:
        raise ConfigurationError(
            f"{type(module).__name__} can't be copied, which the independence probe needs so as to leave it untouched "
            f"({type(error).__name__}: {error}): give the attribute that can't be copied a __deepcopy__, or switch the "
            "probe off with DifferentialPrivacy(probe=False) and see to it yourself that no example changes what "
            "another contributes"
        ) from error
    _forget_interception(copied)
    counterparts = {id(own): other for own, other in zip(module.parameters(), copied.parameters(), strict=True)}
    optimizers = [StandingOptimizer(optimizer, counterparts) for optimizer in trainer.optimizers]
    schedulers = [_StandingScheduler(config.scheduler) for config in trainer.lr_scheduler_configs]
    for part in copied.modules():
        if isinstance(part, LightningModule):
            part.__class__ = type(type(part).__name__, (_Rehearsing, type(part)), {})
            vars(part).update(
                _standing_optimizers=optimizers,
                _standing_schedulers=schedulers,
                _training={id(p) for p in copied.parameters() if p.requires_grad},
                _backward=True,
            )
    return copied


def _forget_interception(module: nn.Module) -> None:
    """Take off what a copy keeps of the layers' sites: a forward of its own that is that of its class."""
    for layer in module.modules():
        forward = vars(layer).get("forward")
        if forward is not None and getattr(forward, "func", None) is type(layer).forward:
            del vars(layer)["forward"]
