"""In which form a model's scores become an answer, and what each form protects.

A score vector is a probability for each class. When one record of the training data is replaced, the model may become
any other, and its score vector move by as much as 1 in total variation: half of its sum of absolute differences. That
is the ``sensitivity``, and 1 is the only value that is true of every model. With it, noise protects each record of the
training data, indeed the whole data set and the model, and costs much accuracy. Less can be declared where it is
known: the mean of the scores of m models trained on disjoint records moves by at most 1/m, the idea of PATE (Papernot
et al., 2017) and of Dwork and Feldman, "Privacy-preserving Prediction", 2018.

=====================  =================================================  ==========================================
mode                   what is answered                                   what protects the training data
=====================  =================================================  ==========================================
``label``              the class                                          nothing but a private training
``rounded``            scores rounded to some decimals                    nothing but a private training
``noisy_scores``       scores with Laplace noise of scale 2 s / epsilon   each answer epsilon, whatever the training
``noisy_argmax``       the largest score after noise                      each answer epsilon, whatever the training
``randomized_label``   the class, or with some probability another one    each answer epsilon, whatever the training
=====================  =================================================  ==========================================

With sensitivity 1 ``randomized_label`` is right most often; ``noisy_argmax`` is better below one half. A model that
was trained with differential privacy needs no noise: its answers are computed from weights that are private already,
and cost nothing. Labels alone do reveal members of the training set of one that was not (Choquette-Choo et al.,
"Label-Only Membership Inference Attacks", 2021). What is asked about, the input, is protected by none of them.

Example:
    >>> import torch
    >>> RoundedScores(decimals=1).answer(torch.tensor([[0.26, 0.74]]), None).scores
    tensor([[0.3000, 0.7000]])
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from lightning_privacy._validate import non_negative_int, positive, probability
from lightning_privacy.accounting import LaplaceRelease, PureRelease, Release, SelectionRelease
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.mechanisms import NoiseSource, laplace, noisy_max, randomized_response

__all__ = [
    "MODES",
    "AnswerMode",
    "Answers",
    "LabelOnly",
    "NoisyArgmax",
    "NoisyScores",
    "RandomizedLabel",
    "RoundedScores",
    "answer_mode",
    "probabilities",
]


@dataclass(frozen=True)
class Answers:
    """What is answered to a batch of inputs.

    Args:
        labels: Classes, int64, shape ``(N,)``.
        scores: One for each class, shape ``(N, C)``, where the mode gives scores.
    """

    labels: Tensor
    scores: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)


class AnswerMode(ABC):
    """Turns scores into answers."""

    name: ClassVar[str]

    @property
    def release(self) -> Release | None:
        """What one answer costs by itself; None where there is no noise."""
        return None

    @abstractmethod
    def answer(self, scores: Tensor, noise: NoiseSource | None) -> Answers:
        """The answers to scores.

        Args:
            scores: Probabilities in float64, shape ``(N, C)``.
            noise: None for the operating system's randomness.
        """


@dataclass(frozen=True)
class LabelOnly(AnswerMode):
    """The class with the largest score."""

    name: ClassVar[str] = "label"

    @override
    def answer(self, scores: Tensor, noise: NoiseSource | None) -> Answers:
        return Answers(scores.argmax(1))


@dataclass(frozen=True)
class RoundedScores(AnswerMode):
    """Scores rounded to a number of decimals; it makes attacks harder and proves nothing.

    Args:
        decimals: At most 6.
    """

    decimals: int = 2
    name: ClassVar[str] = "rounded"

    def __post_init__(self) -> None:
        if non_negative_int(decimals=self.decimals) > 6:
            raise ConfigurationError(f"decimals must be at most 6, got {self.decimals}: more are no rounding")

    @override
    def answer(self, scores: Tensor, noise: NoiseSource | None) -> Answers:
        rounded = scores.round(decimals=self.decimals)
        return Answers(rounded.argmax(1), rounded)


@dataclass(frozen=True)
class _Noisy(AnswerMode):
    """What modes with noise share.

    Args:
        epsilon: Of one answer.
        sensitivity: By how much, in total variation, one record of training data can move a score vector.
    """

    epsilon: float
    sensitivity: float = 1.0

    def __post_init__(self) -> None:
        # As floats, so that equal modes have equal releases.
        object.__setattr__(self, "epsilon", positive(epsilon=self.epsilon))
        object.__setattr__(self, "sensitivity", probability(sensitivity=self.sensitivity))


@dataclass(frozen=True)
class NoisyScores(_Noisy):
    """Scores with Laplace noise of scale ``2 * sensitivity / epsilon``; they may lie outside of 0 to 1."""

    name: ClassVar[str] = "noisy_scores"

    @property
    @override
    def release(self) -> Release:
        return LaplaceRelease(self.epsilon)

    @override
    def answer(self, scores: Tensor, noise: NoiseSource | None) -> Answers:
        # Total variation s is a sum of absolute differences of 2 s.
        noisy = laplace(scores, sensitivity=2.0 * self.sensitivity, epsilon=self.epsilon, noise=noise)
        return Answers(noisy.argmax(1), noisy)


@dataclass(frozen=True)
class NoisyArgmax(_Noisy):
    """The class with the largest score after exponential noise of scale ``2 * sensitivity / epsilon``."""

    name: ClassVar[str] = "noisy_argmax"

    @property
    @override
    def release(self) -> Release:
        return SelectionRelease(self.epsilon)

    @override
    def answer(self, scores: Tensor, noise: NoiseSource | None) -> Answers:
        # A single score moves by at most the total variation.
        return Answers(noisy_max(scores, sensitivity=self.sensitivity, epsilon=self.epsilon, noise=noise))


@dataclass(frozen=True)
class RandomizedLabel(AnswerMode):
    """The class, with probability e^epsilon / (e^epsilon + C - 1), or any other one.

    Args:
        epsilon: Of one answer.
    """

    epsilon: float
    name: ClassVar[str] = "randomized_label"

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", positive(epsilon=self.epsilon))

    @property
    @override
    def release(self) -> Release:
        # Another model has another label, and not a uniform one: the cost of a null record would be too little.
        return PureRelease(self.epsilon)

    @override
    def answer(self, scores: Tensor, noise: NoiseSource | None) -> Answers:
        classes = scores.shape[1]
        return Answers(randomized_response(scores.argmax(1), num_classes=classes, epsilon=self.epsilon, noise=noise))


#: The modes by name.
MODES: Mapping[str, type[AnswerMode]] = {
    mode.name: mode for mode in (LabelOnly, RoundedScores, NoisyScores, NoisyArgmax, RandomizedLabel)
}


def answer_mode(name: str | AnswerMode, **settings: Any) -> AnswerMode:
    """The mode of a name.

    Args:
        name: One of :data:`MODES`, or a mode itself.
        settings: Of the mode; None for what was not given.

    Raises:
        ConfigurationError: The name is unknown, or a setting is missing, superfluous or out of range.
    """
    given = {setting: value for setting, value in settings.items() if value is not None}
    if isinstance(name, AnswerMode):
        if given:
            raise ConfigurationError(f"{', '.join(given)} must be given to {type(name).__name__} itself")
        return name
    if name not in MODES:
        raise ConfigurationError(f"mode must be one of {', '.join(MODES)}, got {name!r}")
    wanted = MODES[name].__dataclass_fields__  # type: ignore[attr-defined] # each of them is a dataclass
    superfluous = set(given) - set(wanted)
    if superfluous:
        raise ConfigurationError(
            f"{', '.join(sorted(superfluous))} has no meaning with mode={name!r}, which takes "
            f"{', '.join(wanted) or 'nothing'}"
        )
    if "epsilon" in wanted and "epsilon" not in given:
        raise ConfigurationError(f"epsilon must be given with mode={name!r}: what one answer may cost, such as 1.0")
    return MODES[name](**given)


def probabilities(outputs: Tensor) -> Tensor:
    """Probabilities of the classes from a model's outputs.

    A row that is not finite becomes uniform: an error in its place would be an answer without noise.

    Args:
        outputs: Logits, shape ``(N, C)``; one column, or shape ``(N,)``, is the logit of the second of two classes.

    Returns:
        In float64, shape ``(N, C)`` with C at least 2; rows sum to 1.

    Raises:
        ConfigurationError: The outputs have another shape.
    """
    logits = outputs.detach().cpu().double()
    if logits.dim() == 1:
        logits = logits[:, None]
    if logits.dim() != 2 or logits.shape[1] == 0:
        raise ConfigurationError(
            f"the model must give one row of class scores for each input, got outputs of shape {list(outputs.shape)}"
        )
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    scores = logits.softmax(1)
    uniform = torch.full_like(scores, 1.0 / scores.shape[1])
    finite = logits.isfinite().all(1, keepdim=True)
    return torch.where(finite, scores, uniform)
