"""Canaries: training examples that nobody would miss, and that a model which has seen them gives away.

A maker turns training examples into canaries. One whose canaries contain what a training example contains takes it out
of the training set and puts the canary in its place, so that nobody is in the training twice; canaries made of noise
are added to the training set. What is not declared, a maker takes from all examples it is given. With differential
privacy a canary may depend on one person alone: a private run makes each of one person's examples, and in their place.

Example:
    >>> import numpy as np, torch
    >>> examples = [(torch.zeros(4), 0), (torch.ones(4), 1), (torch.ones(4), 1)]
    >>> [label for _, label in MislabelledCanaries().make(examples, np.random.default_rng(0))]
    [1, 0, 0]
    >>> makers = [canary_maker(name) for name in ("mislabelled", "blank", "noise")]
    >>> [maker.in_place for maker in makers]
    [True, False, False]
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from lightning_privacy._validate import one_of, positive_int
from lightning_privacy.audit.example_fields import field_of, inputs_key, labels_key, with_field
from lightning_privacy.audit.wrong_labels import label_between, other_class
from lightning_privacy.errors import ConfigurationError

__all__ = [
    "BlankCanaries",
    "CanaryMaker",
    "MislabelledCanaries",
    "NoiseCanaries",
    "TokenCanaries",
    "canary_maker",
]


class CanaryMaker(ABC):
    """Makes canaries of training examples.

    Attributes:
        in_place: Whether a canary holds what its example holds, so that the example must leave the training set.
    """

    in_place: bool = False

    @abstractmethod
    def make(self, examples: Sequence[Any], generator: np.random.Generator) -> list[Any]:
        """Make one canary of each example.

        Args:
            examples: As the data set gives them; they are not changed.
            generator: Draws what is random.

        Returns:
            As many, of the same form.

        Raises:
            ConfigurationError: Nothing can be made of such examples.
        """


@dataclass(frozen=True)
class MislabelledCanaries(CanaryMaker):
    """Examples with a wrong label: a model that was not trained on one has no reason to believe it.

    Without ``num_classes`` and ``label_range`` it is the label of another example, which differential privacy forbids:
    one person with a rare label would give it to many.

    Args:
        label: Where an example has its label: a position, or a name; None: the second place of a tuple, or the entry
            ``labels``, ``label``, ``targets``, ``target`` or ``y``.
        num_classes: How many classes there can be, known without a look at the data: one of the other classes is drawn,
            each as likely. Labels are numbers from 0 to ``num_classes - 1``, of any shape (negative entries of a shape
            stay as they are), or probabilities of shape ``(num_classes,)``.
        label_range: In place of it, the smallest and the largest value that labels of real numbers can have, known
            without a look at the data: every entry is drawn between them.

    Raises:
        ConfigurationError: Both are given, or out of range; in :meth:`make`, a label does not fit them.

    Example:
        >>> import numpy as np
        >>> MislabelledCanaries(num_classes=2).make([([0.5], 0), ([0.1], 0)], np.random.default_rng(0))
        [([0.5], 1), ([0.1], 1)]
    """

    label: int | str | None = None
    num_classes: int | None = None
    label_range: tuple[float, float] | None = None
    in_place = True

    def __post_init__(self) -> None:
        if self.num_classes is not None and positive_int(num_classes=self.num_classes) < 2:
            raise ConfigurationError("num_classes must be 2 or more, as no label of a single class is wrong, got 1")
        if self.num_classes is not None and self.label_range is not None:
            raise ConfigurationError("labels are classes or real numbers: give num_classes or label_range, not both")
        _check_range("label_range", self.label_range)

    @override
    def make(self, examples: Sequence[Any], generator: np.random.Generator) -> list[Any]:
        key = labels_key(examples[0], self.label)
        labels = [field_of(example, key) for example in examples]
        if self.num_classes is not None:
            wrong = [other_class(label, self.num_classes, generator) for label in labels]
        elif self.label_range is not None:
            wrong = [label_between(label, *self.label_range, generator) for label in labels]
        else:
            wrong = self._of_others(labels, generator)
        return [with_field(example, key, label) for example, label in zip(examples, wrong, strict=True)]

    @staticmethod
    def _of_others(labels: Sequence[Any], generator: np.random.Generator) -> list[Any]:
        distinct: list[Any] = []
        for label in labels:
            if not any(_same(label, known) for known in distinct):
                distinct.append(label)
        if len(distinct) < 2:
            raise ConfigurationError(
                f"mislabelled canaries need examples of two classes at least, and all {len(labels)} that were chosen "
                f"have the label {distinct[0]!r}: say which classes there are with num_classes=..., choose other "
                "canaries, such as canaries='noise', or say where the label is with MislabelledCanaries(label=...)"
            )
        made = []
        for label in labels:
            others = [other for other in distinct if not _same(label, other)]
            made.append(others[int(generator.integers(len(others)))])
        return made


class _InputCanaries(CanaryMaker):
    """Canaries with an input that is made up, and the label of some example."""

    inputs: int | str | None
    label: int | str | None
    value_range: tuple[float, float] | None = None

    @override
    def make(self, examples: Sequence[Any], generator: np.random.Generator) -> list[Any]:
        inputs_at, label_at = inputs_key(examples[0], self.inputs), labels_key(examples[0], self.label)
        originals = [torch.as_tensor(field_of(example, inputs_at)) for example in examples]
        self._check(originals[0])
        floor, ceiling = _seen_range(originals) if self.value_range is None else self.value_range
        made = []
        for example, original in zip(examples, originals, strict=True):
            source = examples[int(generator.integers(len(examples)))]
            drawn = self._draw(original, floor, ceiling, generator)
            canary = with_field(with_field(example, inputs_at, drawn), label_at, field_of(source, label_at))
            made.append(self._finish(canary, drawn, label_at))
        return made

    def _check(self, original: Tensor) -> None:
        if not original.is_floating_point():
            raise ConfigurationError(
                f"{type(self).__name__} need inputs of floating-point numbers, got {original.dtype}: for tokens use "
                "TokenCanaries(unused=[...]), and with image transforms make the tensors before"
            )

    @abstractmethod
    def _draw(self, original: Tensor, floor: float, ceiling: float, generator: np.random.Generator) -> Tensor:
        """An input of the shape and type of ``original``."""

    def _finish(self, canary: Any, drawn: Tensor, label_at: int | str) -> Any:
        return canary


@dataclass(frozen=True)
class BlankCanaries(_InputCanaries):
    """Blank images with a label: every entry has the smallest value there is, but for a few, so that no two are alike.

    Args:
        marks: How many entries are set to the largest value.
        inputs: Where an example has its input: a position, or a name; None: the first place of a tuple, or the entry
            ``inputs``, ``input``, ``images``, ``image``, ``features``, ``tokens``, ``input_ids`` or ``x``.
        label: Where it has its label; as of :class:`MislabelledCanaries`.
        value_range: The smallest and the largest value; None: those of the examples.
    """

    marks: int = 4
    inputs: int | str | None = None
    label: int | str | None = None
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        positive_int(marks=self.marks)
        _check_range("value_range", self.value_range)

    @override
    def _draw(self, original: Tensor, floor: float, ceiling: float, generator: np.random.Generator) -> Tensor:
        blank = torch.full_like(original, floor)
        marks = generator.choice(original.numel(), min(self.marks, original.numel()), replace=False)
        blank.view(-1)[torch.from_numpy(marks)] = ceiling
        return blank


@dataclass(frozen=True)
class NoiseCanaries(_InputCanaries):
    """Inputs of uniform noise with a label.

    Args:
        inputs: Where an example has its input; as of :class:`BlankCanaries`.
        label: Where it has its label; as of :class:`MislabelledCanaries`.
        value_range: Between which values; None: those of the examples.
    """

    inputs: int | str | None = None
    label: int | str | None = None
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        _check_range("value_range", self.value_range)

    @override
    def _draw(self, original: Tensor, floor: float, ceiling: float, generator: np.random.Generator) -> Tensor:
        noise = generator.uniform(floor, ceiling, size=tuple(original.shape))
        return torch.as_tensor(noise).to(original.dtype).reshape(original.shape)


@dataclass(frozen=True)
class TokenCanaries(_InputCanaries):
    """Texts of tokens that the data never use, so that nothing but a canary teaches the model what follows them.

    Where the label has the shape of the input, as of a language model, it is the input moved by one place.

    Args:
        unused: Numbers of tokens outside of those that the data use, within what the model's embedding has.
        inputs: Where an example has its tokens; as of :class:`BlankCanaries`.
        label: Where it has its label; as of :class:`MislabelledCanaries`.

    Raises:
        ConfigurationError: No token is given.
    """

    unused: Sequence[int]
    inputs: int | str | None = None
    label: int | str | None = None

    def __post_init__(self) -> None:
        if not len(self.unused):
            raise ConfigurationError("unused must name a token that the data do not use, got none")

    @override
    def _check(self, original: Tensor) -> None:
        if original.is_floating_point():
            raise ConfigurationError(f"TokenCanaries need inputs of whole numbers, got {original.dtype}")

    @override
    def _draw(self, original: Tensor, floor: float, ceiling: float, generator: np.random.Generator) -> Tensor:
        tokens = generator.choice(np.asarray(self.unused, dtype=np.int64), size=tuple(original.shape))
        return torch.as_tensor(tokens).to(original.dtype).reshape(original.shape)

    @override
    def _finish(self, canary: Any, drawn: Tensor, label_at: int | str) -> Any:
        label = field_of(canary, label_at)
        if not isinstance(label, Tensor) or label.shape != drawn.shape or label.dim() == 0:
            return canary
        return with_field(canary, label_at, drawn.roll(-1, dims=-1).to(label.dtype))


_MAKERS: dict[str, type[CanaryMaker]] = {
    "mislabelled": MislabelledCanaries,
    "blank": BlankCanaries,
    "noise": NoiseCanaries,
}


def canary_maker(canaries: str | CanaryMaker, *, num_classes: int | None = None) -> CanaryMaker:
    """The maker of a name, or the maker that was passed.

    Args:
        canaries: ``"mislabelled"``, ``"blank"``, ``"noise"``, or a maker.
        num_classes: For makers of wrong labels that were not told which there are.

    Raises:
        ConfigurationError: The name is unknown, or ``num_classes`` is not the maker's.
    """
    if not isinstance(canaries, CanaryMaker):
        one_of((*_MAKERS, "gradients"), canaries=canaries)
        canaries = _MAKERS[canaries]()
    if num_classes is None or not isinstance(canaries, MislabelledCanaries):
        return canaries
    if canaries.num_classes not in (None, num_classes):
        raise ConfigurationError(
            f"num_classes={num_classes} is not that of the canaries, {canaries.num_classes}: give one of them"
        )
    return replace(canaries, num_classes=num_classes)


def _check_range(name: str, given: tuple[float, float] | None) -> None:
    if given is not None and not (len(given) == 2 and math.isfinite(given[1] - given[0]) and given[0] < given[1]):
        raise ConfigurationError(f"{name} must be two numbers, the smaller one first, got {given!r}")


def _seen_range(originals: Sequence[Tensor]) -> tuple[float, float]:
    floor = min(float(original.min()) for original in originals)
    ceiling = max(float(original.max()) for original in originals)
    # All alike, as in a single blank image: nothing would be seen of marks and noise.
    return floor, ceiling if ceiling > floor else floor + 1.0


def _same(label: Any, other: Any) -> bool:
    if isinstance(label, Tensor) or isinstance(other, Tensor):
        return torch.equal(torch.as_tensor(label), torch.as_tensor(other))
    return bool(np.all(label == other))
