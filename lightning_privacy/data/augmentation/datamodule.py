"""Augmentation of the train batches of any DataModule, without editing it.

Example:
    >>> from torchvision.transforms.v2 import RandomAffine, RandomCrop, RandomRotation
    >>> from lightning_privacy.data.digits import DigitsDataModule
    >>> datamodule = AugmentationDataModule(
    ...     DigitsDataModule(batch_size=64),
    ...     transforms=[RandomRotation(15), RandomAffine(0, translate=(0.1, 0.1)), RandomCrop(28, 4)],
    ... )
    >>> images, labels = next(iter(datamodule.train_dataloader()))
    >>> images.shape, labels.shape
    (torch.Size([64, 1, 28, 28]), torch.Size([64]))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_privacy._lightning import LightningDataModule
from lightning_privacy.data.augmentation.batches import (
    KeyedBatch,
    check_loader,
    keyed_loader,
    may_repeat,
    single_loaders,
    with_dataset,
)
from lightning_privacy.data.augmentation.fields import FieldKey
from lightning_privacy.data.augmentation.groups import ExampleGroups
from lightning_privacy.data.augmentation.pipeline import Augmentation, Pipeline
from lightning_privacy.data.augmentation.preview import save_preview
from lightning_privacy.data.augmentation.proxy import DataModuleProxy, LoaderDataModule
from lightning_privacy.data.augmentation.trainer_callbacks import EpochHand, HookWarning
from lightning_privacy.data.augmentation.workers import AugmentedDataset, EpochClock
from lightning_privacy.errors import ConfigurationError, UnsupportedError

__all__ = ["AugmentationDataModule"]

_HOOKS = ("on_before_batch_transfer", "on_after_batch_transfer")


class AugmentationDataModule(DataModuleProxy):
    """Augments the train batches of a DataModule; all else is as the DataModule has it.

    What happens to an example depends on the seed, the epoch and the example alone: not on the batch it is in, nor on
    the number of workers and processes. Where a sampler draws examples more than once in an epoch (with replacement,
    or at random for differential privacy), the step counts too.

    On the device, batches are augmented after they were moved there, and after the ``on_after_batch_transfer`` of the
    DataModule; that of the LightningModule follows. Each row has its own parameters, drawn from the ranges of the
    transforms given. Where no Trainer is fitting, ``train_dataloader`` gives augmented batches on the CPU.

    Args:
        datamodule: the DataModule; or give loaders.
        transforms: what to do, one after the other: torchvision's transforms (of ``v2``), kornia's modules, those of
            :mod:`lightning_privacy.data.augmentation`, or functions of a batch whose attribute ``per_example`` is True.
            In workers: any function of one example's input.
        views: how many views of each example are in a batch, next to each other. Under
            ``DifferentialPrivacy(views=...)``, whose sampler repeats the examples, both must be the same number.
        where: ``"device"``, or ``"workers"`` for transforms of single examples in the data set.
        seed: fixes what is drawn, with the epoch and the example.
        by_group: transforms in place of ``transforms`` for some groups of examples, by the group's value.
        groups: the group of each example of the train data set; or the field of the batch that has it.
        input_key: the field of the batch that is augmented; the first of a tuple or list where not given.
        follow: fields that move with the image: ``{1: "mask"}``, ``"boxes"`` (x1, y1, x2, y2) or ``"points"`` (x, y).
        target_key: the field of class numbers, for transforms that mix examples; the second where not given.
        **loaders: in place of ``datamodule``: ``train_dataloader``, ``val_dataloader``, ``test_dataloader``,
            ``predict_dataloader``.

    Raises:
        ConfigurationError: An argument is out of range, or a transform can't be used there.
        UnsupportedError: When loaders are made: an iterable train data set, or one of batches.
    """

    own: ClassVar[frozenset[str]] = DataModuleProxy.own | {
        "augmentation",
        "from_datasets",
        "load_from_checkpoint",
        "mixes_examples",
        "preview",
        "set_epoch",
        "views_per_example",
    }

    def __init__(
        self,
        datamodule: LightningDataModule | None = None,
        *,
        transforms: Sequence[Any],
        views: int = 1,
        where: str = "device",
        seed: int = 0,
        by_group: Mapping[Any, Any] | None = None,
        groups: Any = None,
        input_key: FieldKey | None = None,
        follow: Mapping[FieldKey, str] | None = None,
        target_key: FieldKey | None = None,
        **loaders: Any,
    ) -> None:
        if (datamodule is None) == (not loaders):
            raise ConfigurationError(
                f"give a datamodule, or loaders such as train_dataloader=..., and not both: got {datamodule!r} and "
                f"{sorted(loaders)}"
            )
        super().__init__(LoaderDataModule(**loaders) if datamodule is None else datamodule)
        plan = Augmentation(transforms, views, where, seed, by_group, groups, input_key, follow, target_key)
        self._proxy_plan = plan
        self._proxy_pipeline = Pipeline(plan if where == "device" else replace(plan, transforms=(), by_group=None))
        if where == "workers":
            AugmentedDataset((), plan, EpochClock())  # refuses what can't be done there, now and not in the fit
        self._proxy_clock = EpochClock()
        self._proxy_repeats = False
        self._proxy_pending: Any = None

    # What this DataModule does itself.

    @property
    def augmentation(self) -> Augmentation:
        """How batches are augmented."""
        return self._proxy_plan

    @property
    def mixes_examples(self) -> str | None:
        """The name of a transform that mixes examples, which differential privacy refuses; ``None`` without."""
        inner: str | None = getattr(self.datamodule, "mixes_examples", None)
        return self._proxy_pipeline.mixes_examples or inner

    @property
    def views_per_example(self) -> int:
        """How many rows of a train batch are views of one example."""
        inner: int = getattr(self.datamodule, "views_per_example", 1)
        return self._proxy_plan.views * inner

    @classmethod
    @override
    def from_datasets(cls, *args: Any, transforms: Sequence[Any] = (), **kwargs: Any) -> Self:
        """As :meth:`LightningDataModule.from_datasets`, with ``transforms`` and the other arguments of this class."""
        names = ("views", "where", "seed", "by_group", "groups", "input_key", "follow", "target_key")
        own = {name: kwargs.pop(name) for name in names if name in kwargs}
        return cls(LightningDataModule.from_datasets(*args, **kwargs), transforms=transforms, **own)

    @classmethod
    def load_from_checkpoint(cls, *_args: Any, **_kwargs: Any) -> Self:
        """Refused: a checkpoint has the arguments of the DataModule behind.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError(
            "a checkpoint has the arguments of the DataModule that was augmented: load that with its own class's "
            "load_from_checkpoint, and wrap it again"
        )

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, where no Trainer counts them."""
        self._proxy_clock.epoch = epoch

    def preview(self, path: str | Path | None = None, num_examples: int = 8) -> Tensor:
        """A picture of the first examples of the train data, before and after.

        Args:
            path: where to save it, as a PNG or JPEG; not saved where not given.
            num_examples: how many.

        Returns:
            The picture ``(3, H, W)`` from 0 to 1: originals in the first row, their views below.
        """
        self._proxy_prepare()
        loader = single_loaders(self.datamodule.train_dataloader())[0]
        pipeline = self._proxy_pipeline if self._proxy_plan.where == "device" else None
        return save_preview(loader, self._proxy_plan, pipeline, path=path, num_examples=num_examples)

    # Hooks. They are looked up here, and not in the other DataModule, where there is something to do.

    @override
    def __getattribute__(self, name: str) -> Any:
        if name in _HOOKS or name == "train_dataloader":
            target = object.__getattribute__(self, "__dict__").get("_proxy_target")
            if target is not None and self._proxy_acts(name, target):
                return object.__getattribute__(self, "_proxy_" + name)
        return super().__getattribute__(name)

    @override
    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "trainer" and hasattr(value, "callbacks") and self._proxy_plan.where == "device":
            HookWarning.attach(value)

    def _proxy_acts(self, name: str, target: LightningDataModule) -> bool:
        if name == "train_dataloader":
            return _overridden(name, target)
        return name in _HOOKS and self._proxy_plan.where == "device"

    def _proxy_prepare(self) -> None:
        """What Lightning does before it asks for loaders, where no Trainer is attached."""
        if self.datamodule.trainer is None and not isinstance(self.datamodule, LoaderDataModule):
            self.datamodule.prepare_data()
            self.datamodule.setup("fit")

    def _proxy_train_dataloader(self) -> Any:
        plan, trainer = self._proxy_plan, self.datamodule.trainer
        loaders = self.datamodule.train_dataloader()
        fitting = trainer is not None and trainer.state.fn == "fit" and trainer.state.status == "running"
        repeated = fitting and _sampled_views(trainer) is not None
        singles = single_loaders(loaders)
        for loader in singles:
            check_loader(loader)
        groups = ExampleGroups(plan.groups, plan.by_group)
        self._proxy_repeats = repeated or any(map(may_repeat, singles))
        if trainer is not None:
            self._proxy_clock.epoch = trainer.current_epoch

        def augmented(loader: DataLoader[Any]) -> DataLoader[Any]:
            groups.check_size(len(loader.dataset))  # type: ignore[arg-type]
            if plan.where == "workers":
                dataset = AugmentedDataset(
                    loader.dataset, plan, self._proxy_clock, repeats=self._proxy_repeats, repeated=repeated
                )
                return with_dataset(loader, dataset)
            return keyed_loader(loader, None if fitting else _OnTheSpot(self._proxy_pipeline, self._proxy_clock))

        if plan.where == "workers" and fitting and trainer is not None:
            EpochHand.attach(trainer, self._proxy_clock)
        return _mapped(loaders, augmented)

    def _proxy_on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        batch, self._proxy_pending = _opened(batch)
        if self._proxy_pending is None and self._proxy_training():
            raise ConfigurationError(
                "a train batch came without the numbers of its examples, so that it can't be augmented: the loader was "
                "made anew from a sub-class of DataLoader, or a callback replaced it. Return a plain torch DataLoader "
                "from train_dataloader"
            )
        return self._proxy_chained("on_before_batch_transfer", batch, dataloader_idx)

    def _proxy_on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        pending, self._proxy_pending = self._proxy_pending, None
        if _overridden("on_after_batch_transfer", self.datamodule):
            batch = self.datamodule.on_after_batch_transfer(batch, dataloader_idx)
        if pending is not None:
            batch = self._proxy_augmented(batch, pending)
        module = self._proxy_module("on_after_batch_transfer")
        return batch if module is None else module.on_after_batch_transfer(batch, dataloader_idx)

    def _proxy_chained(self, name: str, batch: Any, dataloader_idx: int) -> Any:
        if _overridden(name, self.datamodule):
            batch = getattr(self.datamodule, name)(batch, dataloader_idx)
        module = self._proxy_module(name)
        return batch if module is None else getattr(module, name)(batch, dataloader_idx)

    def _proxy_module(self, name: str) -> Any:
        """The LightningModule, where it has the hook."""
        module = None if self.datamodule.trainer is None else self.datamodule.trainer.lightning_module
        if module is None:
            return None
        base = next(kind for kind in type(module).__mro__ if kind.__name__ == "LightningModule")
        return None if getattr(type(module), name) is getattr(base, name) and name not in vars(module) else module

    def _proxy_training(self) -> bool:
        trainer = self.datamodule.trainer
        return trainer is not None and trainer.training

    def _proxy_augmented(self, batch: Any, index: Any) -> Any:
        """Augment a batch, or each of a collection of them."""
        if isinstance(index, Tensor):
            trainer = self.datamodule.trainer
            return self._proxy_pipeline(
                batch,
                index,
                epoch=self._proxy_clock.epoch if trainer is None else trainer.current_epoch,
                draw=trainer.global_step if self._proxy_repeats and trainer is not None else 0,
                repeats=self._proxy_repeats,
                repeated=trainer is not None and _sampled_views(trainer) is not None,
            )
        if isinstance(index, dict):
            return {key: self._proxy_augmented(batch[key], index[key]) for key in index}
        if isinstance(index, list):
            parts = [self._proxy_augmented(part, own) for part, own in zip(batch, index, strict=True)]
            return type(batch)(parts)
        return batch


class _OnTheSpot:
    """Augments batches in the process that makes them."""

    def __init__(self, pipeline: Pipeline, clock: EpochClock) -> None:
        self.pipeline, self.clock = pipeline, clock

    def __call__(self, keyed: KeyedBatch) -> Any:
        return self.pipeline(keyed.batch, keyed.indices, epoch=self.clock.epoch, repeats=True)


def _sampled_views(trainer: Any) -> int | None:
    """How often a callback's sampler gives each example, where one draws the batches itself."""
    found = (getattr(callback, "example_views", None) for callback in trainer.callbacks)
    return next((views for views in found if views is not None), None)


def _overridden(name: str, datamodule: LightningDataModule) -> bool:
    base = next(kind for kind in type(datamodule).__mro__ if kind.__name__ == "LightningDataModule")
    method = getattr(datamodule, name)
    return getattr(method, "__func__", method) is not getattr(base, name)


def _mapped(loaders: Any, function: Callable[[DataLoader[Any]], DataLoader[Any]]) -> Any:
    if isinstance(loaders, DataLoader):
        return function(loaders)
    if isinstance(loaders, dict):
        return {key: _mapped(item, function) for key, item in loaders.items()}
    return type(loaders)(_mapped(item, function) for item in loaders)


def _opened(batch: Any) -> tuple[Any, Any]:
    """A batch without the numbers of its examples, and these; ``None`` where it has none."""
    if isinstance(batch, KeyedBatch):
        return batch.batch, batch.indices
    if isinstance(batch, dict):
        parts = {key: _opened(item) for key, item in batch.items()}
        if any(index is not None for _, index in parts.values()):
            return {key: part for key, (part, _) in parts.items()}, {key: index for key, (_, index) in parts.items()}
    elif isinstance(batch, list | tuple) and not hasattr(batch, "_fields"):
        pairs = [_opened(item) for item in batch]
        if any(index is not None for _, index in pairs):
            return type(batch)(part for part, _ in pairs), [index for _, index in pairs]
    return batch, None
