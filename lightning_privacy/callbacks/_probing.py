"""The independence probe for a LightningModule: its real ``training_step``, on a copy that leaves no traces.

The copy logs nothing, has optimizers that do not step, and gets its examples from the data set one by one, through
the loader's ``collate_fn`` and the transfer hooks, so that neither the loader nor a sampler moves on.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader

from lightning_privacy._lightning import LightningModule
from lightning_privacy.callbacks import _trainer as internals
from lightning_privacy.callbacks._rehearsing import Rehearsing, rehearsing_copy
from lightning_privacy.errors import UnsupportedError
from lightning_privacy.gradients.layout import Layouts
from lightning_privacy.gradients.probe import IndependenceProbe, Moment
from lightning_privacy.gradients.probe_randomness import untouched_generators

__all__ = ["Rehearsal", "fetch_examples", "probe_training_step"]

_CANDIDATES = 16
"""Examples that are fetched, evenly over the data set; the probe takes those that differ."""

_LATE_EPOCH, _LATE_STEP = 1000, 1_000_000

_DTYPES = {
    "16-mixed": torch.float16,
    "bf16-mixed": torch.bfloat16,
    "16-true": torch.float16,
    "bf16-true": torch.bfloat16,
}


_HALF = (torch.float16, torch.bfloat16)

_logger = logging.getLogger(__name__)


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
        examples = fetch_examples(loader, views=views)

        def prepare(dtype: torch.dtype, *, single: bool) -> IndependenceProbe:
            rehearsing = rehearsing_copy(trainer, module, loader)
            rehearsal = Rehearsal(trainer, loader, batch_idx, single=single)
            return IndependenceProbe(
                rehearsing.float() if single else rehearsing,
                rehearsal.step,
                examples,
                public=public,
                views=views,
                dtype=dtype,
                finish=rehearsal.finish,
                most=None if loader.batch_size is None else max(1, loader.batch_size // views),
                moments=rehearsal.moments(),
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


class Rehearsal:
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
            if isinstance(part, Rehearsing):
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

    def moments(self) -> list[Moment]:
        """Times at which a step may do something else: the next epoch, with another batch, and the last one."""
        trainer = self.trainer
        epoch, step = trainer.current_epoch, trainer.global_step
        # Without a limit: later than any warm-up.
        last_epoch = (trainer.max_epochs if (trainer.max_epochs or -1) > 0 else _LATE_EPOCH) - 1
        last_step = (trainer.max_steps if trainer.max_steps > 0 else _LATE_STEP) - 1
        times = [(epoch + 1, step + 1, self.batch_idx + 1), (last_epoch, last_step, self.batch_idx)]
        return [
            Moment(f"in epoch {then[0]}, at step {then[1]}, with batch_idx {then[2]}", partial(self._at, *then))
            for then in times
        ]

    @contextmanager
    def _at(self, epoch: int, step: int, batch_idx: int) -> Iterator[None]:
        before, self.batch_idx = self.batch_idx, batch_idx
        try:
            with internals.elsewhen(self.trainer, epoch=epoch, step=step):
                yield
        finally:
            self.batch_idx = before

    def finish(self, module: Any) -> None:
        """Run the hooks that may keep something of the last batch for the next one."""
        batch, output = self.last
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if not isinstance(loss, Tensor) and module.automatic_optimization:
            return
        outputs = dict(output) if isinstance(output, Mapping) else {}
        calls: list[tuple[str, tuple[Any, ...]]] = [("on_after_backward", ())]
        if isinstance(loss, Tensor):  # steps of manual optimisation seldom return one
            outputs["loss"] = loss.detach()
            calls.insert(0, ("on_before_backward", (outputs["loss"],)))
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


def fetch_examples(loader: DataLoader[Any], *, views: int = 1) -> list[Any]:
    """A few examples of the data set of a loader, from all over it.

    Args:
        loader: The loader.
        views: Above 1, each example is a list of so many views of it.

    Raises:
        UnsupportedError: The data set gives no single examples.
    """
    dataset: Any = loader.dataset
    count = len(dataset)
    # One from each part of the data set, which may be sorted; not at equal distances, as it may have a period.
    within = random.Random(0)  # noqa: S311 - the same in every process
    chosen = sorted({int((number + within.random()) * count / _CANDIDATES) for number in range(_CANDIDATES)})
    several = getattr(dataset, "__getitems__", None)

    def fetch(index: int) -> Any:
        if several is None:
            return dataset[index]
        found = several([index])
        if not isinstance(found, Sequence) or len(found) != 1:
            size = f" of {len(found)}" if isinstance(found, Sequence) else ""
            raise UnsupportedError(
                f"{type(dataset).__name__}.__getitems__ was asked for one example and returned "
                f"{type(found).__name__}{size}: the probe needs single examples, so it must return a list of examples "
                "for collate_fn to put together; leave __getitems__ out where __getitem__ does that"
            )
        return found[0]

    return [fetch(index) if views == 1 else [fetch(index) for _ in range(views)] for index in chosen]
