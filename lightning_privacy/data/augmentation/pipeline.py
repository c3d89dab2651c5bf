"""From what the user lists as transforms to a function of keyed batches.

Example:
    >>> import torch
    >>> from torchvision.transforms import v2
    >>> plan = Augmentation([v2.RandomHorizontalFlip(1.0)])
    >>> images, labels = Pipeline(plan)((torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([7])), torch.tensor([0]), epoch=0)
    >>> images.flatten().tolist(), labels.tolist()
    ([2.0, 1.0], [7])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_privacy._validate import non_negative_int, one_of, positive_int
from lightning_privacy.data.augmentation.base import PerExample
from lightning_privacy.data.augmentation.combining import Chain
from lightning_privacy.data.augmentation.draws import Draws, row_keys
from lightning_privacy.data.augmentation.fields import FieldKey, get_field, occurrences, put_field, repeat_rows
from lightning_privacy.data.augmentation.foreign import Declared, FromKornia, is_kornia
from lightning_privacy.data.augmentation.from_torchvision import from_torchvision, is_torchvision
from lightning_privacy.data.augmentation.groups import ExampleGroups
from lightning_privacy.data.augmentation.sample import KINDS, Follower, Sample
from lightning_privacy.errors import ConfigurationError

__all__ = ["Augmentation", "Pipeline", "resolve"]


@dataclass(frozen=True)
class Augmentation:
    """How train batches are augmented.

    Args:
        transforms: one after the other.
        views: how many rows of a batch are made of one example.
        where: ``"device"`` or ``"workers"``.
        seed: with epoch and example, fixes what is drawn.
        by_group: transforms in place of ``transforms`` for the examples of some groups.
        groups: the group of each example of the train data set, or the field of the batch that has it.
        input_key: the field of a batch that is augmented: the first, where not given, and needed for mappings.
        follow: other fields that move with it, with their kind: ``"mask"``, ``"boxes"`` or ``"points"``.
        target_key: the field of class numbers, for transforms that mix examples.

    Raises:
        ConfigurationError: An argument is out of range.

    Example:
        >>> Augmentation([], views=4).views
        4
    """

    transforms: Sequence[Any]
    views: int = 1
    where: str = "device"
    seed: int = 0
    by_group: Mapping[Any, Any] | None = None
    groups: Any = None
    input_key: FieldKey | None = None
    follow: Mapping[FieldKey, str] | None = None
    target_key: FieldKey | None = None

    def __post_init__(self) -> None:
        positive_int(views=self.views)
        one_of(("device", "workers"), where=self.where)
        non_negative_int(seed=self.seed)
        if isinstance(self.transforms, str | Mapping) or not isinstance(self.transforms, Sequence | nn.Module):
            raise ConfigurationError(f"transforms must be a sequence of transforms, got {self.transforms!r}")
        for key, kind in (self.follow or {}).items():
            one_of(KINDS, **{f"follow[{key!r}]": kind})

    @property
    def listed(self) -> list[Any]:
        """The transforms as a list."""
        return listed(self.transforms)


def listed(transforms: Any) -> list[Any]:
    """One transform, or several, as a list."""
    if isinstance(transforms, Sequence | nn.ModuleList) and not isinstance(transforms, str):
        return list(transforms)
    return [transforms]


def resolve(transforms: Any) -> Chain:
    """The transforms as one of batches, each row with its own randomness.

    Args:
        transforms: torchvision's, kornia's, this package's, or functions of a batch that declare ``per_example``.

    Raises:
        ConfigurationError: One can't be done for each example of a batch by itself.
    """
    return Chain([_resolved(transform) for transform in listed(transforms)])


def _resolved(transform: Any) -> PerExample:
    if isinstance(transform, PerExample):
        return transform
    if is_kornia(transform):
        return FromKornia(transform)
    if is_torchvision(transform):
        return from_torchvision(transform)
    if not callable(transform):
        raise ConfigurationError(f"transforms must be callable, got {transform!r}")
    return Declared(transform)


def mixing_name(transform: nn.Module) -> str | None:
    """The name of the first of the transforms that mixes examples; ``None`` where none does."""
    for part in transform.modules():
        if isinstance(part, PerExample) and not part.per_example:
            return str(getattr(part, "name", type(part).__name__))
    return None


class Pipeline:
    """Augments batches.

    Args:
        plan: how.

    Raises:
        ConfigurationError: A transform can't be used, or the groups don't fit.
    """

    def __init__(self, plan: Augmentation) -> None:
        self.plan = plan
        self.transform = resolve(plan.transforms)
        self.groups = ExampleGroups(plan.groups, plan.by_group)
        self.choices = nn.ModuleList(resolve(choice) for choice in self.groups.choices)
        self._device: torch.device | None = None
        if self.groups and self.mixes_examples:
            raise ConfigurationError(
                f"{self.mixes_examples} mixes examples of all groups, which by_group gives transforms of their own: "
                "use one or the other"
            )

    @property
    def mixes_examples(self) -> str | None:
        """The name of a transform that mixes examples; ``None`` where each is augmented by itself."""
        names = [mixing_name(transform) for transform in (self.transform, *self.choices)]
        return next((name for name in names if name is not None), None)

    def __call__(
        self,
        batch: Any,
        index: Tensor,
        *,
        epoch: int,
        draw: int = 0,
        repeats: bool = False,
        repeated: bool = False,
    ) -> Any:
        """Return the augmented batch.

        Args:
            batch: as the collate function and the transfer hooks left it.
            index: numbers of its examples, int64 on the CPU, ``(B,)``.
            epoch: the epoch.
            draw: which draw of the epoch it is, where examples come several times in it.
            repeats: whether an example can come several times.
            repeated: whether the batch has the views of each example already, next to each other.
        """
        plan = self.plan
        views = plan.views
        if not repeated and views > 1:
            batch = repeat_rows(batch, views, rows=len(index))
            index = index.repeat_interleave(views)
        sample = self._sample(batch, len(index))
        copies = torch.arange(len(index)) % views if views > 1 else None
        if repeats and not repeated:
            times = occurrences(index)
            copies = times if copies is None else times // views * views + copies
        keys = row_keys(index, seed=plan.seed, epoch=epoch, draw=draw, copy=copies)
        self._move_to(sample.inputs.device)
        with torch.no_grad():
            done = self._run(sample, Draws(keys, views=views, shared=plan.seed * 2**20 + epoch), index, batch)
        return self._filled(batch, sample, done)

    def _move_to(self, device: torch.device) -> None:
        if device != self._device:
            self.transform.to(device)
            self.choices.to(device)
            self._device = device

    def _sample(self, batch: Any, rows: int) -> Sample:
        plan = self.plan
        inputs = get_field(batch, plan.input_key)
        if not isinstance(inputs, Tensor):
            raise ConfigurationError(
                f"the field input_key={plan.input_key!r} of a batch is a {type(inputs).__name__}: on the device it "
                "must be a tensor whose first dimension is the batch; for anything else use where='workers'"
            )
        if len(inputs) != rows:
            raise ConfigurationError(
                f"the batch has {len(inputs)} rows for {rows} examples (views={plan.views}): collate function and "
                "transfer hooks must keep one row for each example that was drawn"
            )
        followers = []
        for key, kind in (plan.follow or {}).items():
            values = get_field(batch, key)
            if not isinstance(values, Tensor) or len(values) != rows:
                raise ConfigurationError(
                    f"follow[{key!r}] must be a tensor with one row for each image; pad what differs in number, or "
                    "use where='workers'"
                )
            followers.append(Follower(kind, values))
        labels = None
        if plan.target_key is not None or (self.mixes_examples and isinstance(batch, list | tuple)):
            labels = get_field(batch, 1 if plan.target_key is None else plan.target_key)
        return Sample(inputs, tuple(followers), labels)

    def _run(self, sample: Sample, draws: Draws, index: Tensor, batch: Any) -> Sample:
        if not self.groups:
            return self.transform.run(sample, draws)
        choice = self.groups.of(index, batch)
        parts = []
        for number in sorted(set(choice.tolist())):
            rows = (choice == number).nonzero()[:, 0]
            chosen = self.transform if number < 0 else self.choices[number]
            some = draws.of(rows)
            some.views = draws.views  # a group has all views of its examples
            parts.append((rows, chosen.run(sample.rows(rows), some)))
        return Sample.collected(parts)

    def _filled(self, batch: Any, before: Sample, done: Sample) -> Any:
        plan = self.plan
        batch = put_field(batch, plan.input_key, done.inputs)
        for key, follower in zip(plan.follow or {}, done.followers, strict=True):
            batch = put_field(batch, key, follower.values)
        if done.labels is not before.labels and done.labels is not None:
            batch = put_field(batch, 1 if plan.target_key is None else plan.target_key, done.labels)
        return batch
