"""Attribute inference: does a model tell somebody's gender, age or town to one who knows the rest of the record?

What the rest of the record tells by itself is no fault of the model, so every figure stands beside the one of the same
attacker without the model. And what a model tells about people it never saw is what it has learned of the world; only
what it tells more about its own training examples is a leak of their records (Yeom et al., "Privacy Risk in Machine
Learning: Analyzing the Connection to Overfitting", 2018). Both differences are given.

Two attackers. :func:`candidate_attack` is for models that take the attribute as an input: it tries every value and
takes the one under which the record fits best. :func:`learned_attack` is for any model: from people whose attribute it
knows it learns what outputs go with which value.

Example:
    >>> import numpy as np
    >>> candidate_attack([[0.1, 2.0], [1.0, 0.5]]).tolist()  # losses under value 0 and under value 1
    [0, 1]
    >>> truth, member = np.array([0, 1] * 50), np.arange(100) < 50
    >>> figures = attribute_figures(truth, np.zeros(100, int), truth, member)
    >>> figures.gain.value, figures.member_gain.value
    (0.5, 0.0)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from lightning_privacy._validate import positive, within_open_unit
from lightning_privacy.audit.audit_file import AuditResult
from lightning_privacy.audit.membership import NOT_PRIVATE
from lightning_privacy.audit.membership_scores import check_losses
from lightning_privacy.audit.roc import Estimate, share_interval
from lightning_privacy.errors import ConfigurationError

__all__ = ["AttributeFigures", "attribute_figures", "candidate_attack", "learned_attack"]

_ITERATIONS = 1000


@dataclass(frozen=True)
class AttributeFigures:
    """How often an attribute is guessed.

    Attributes:
        people: Number of people.
        accuracy: Share guessed right with the model, and its interval (Clopper and Pearson).
        baseline: Share guessed right without it, likewise.
        gain: Their difference: what the model adds (interval of Agresti and Min 2005, for pairs).
        member_gain: The gain for people in the training data less the gain for others: what their being in it adds
            (normal interval).
        confidence: Of the intervals.
    """

    people: int
    accuracy: Estimate
    baseline: Estimate
    gain: Estimate
    member_gain: Estimate
    confidence: float

    def result(self, attribute: str, *, title: str | None = None) -> AuditResult:
        """These figures as an audit file.

        Args:
            attribute: What was guessed, such as ``"gender"``.
            title: Headline.
        """
        added = "more" if self.gain.value >= 0 else "fewer"
        sentence = (
            f"An attacker who uses the model guesses {attribute} right for {self.accuracy.value:.1%} of the people, "
            f"and for {self.baseline.value:.1%} without the model: {abs(self.gain.value):.1%} {added}. "
        )
        if self.member_gain.low > 0:
            sentence += "For people in the training data the model tells more than for others."
        else:
            sentence += "That it tells more for people in the training data than for others can't be seen."
        points = [
            ("Guessed right with the model", self.accuracy),
            ("Guessed right without it", self.baseline),
            ("What the model adds", self.gain),
            ("What being in the training data adds", self.member_gain),
        ]
        return AuditResult(
            kind="attribute",
            title=f"Attribute inference: {attribute}" if title is None else title,
            verdict="measured",
            sentence=sentence,
            rows=[
                ("People", f"{self.people:,}"),
                ("Confidence of the intervals", f"{self.confidence:.0%}"),
                *((name, estimate.text()) for name, estimate in points),
                ("Note", NOT_PRIVATE),
            ],
            extra={
                "attribute": attribute,
                "figures": {
                    "accuracy": self.accuracy._asdict(),
                    "baseline": self.baseline._asdict(),
                    "gain": self.gain._asdict(),
                    "member_gain": self.member_gain._asdict(),
                },
            },
        )


def candidate_attack(losses: npt.ArrayLike, prior: npt.ArrayLike | None = None) -> npt.NDArray[np.int64]:
    """Guess the value of an attribute under which the model fits each record best.

    Args:
        losses: Of the record with each of K values in place of the true one, -log p, shape ``(K, N)``.
        prior: How frequent each value is, shape ``(K,)`` or ``(K, N)``; None for equally frequent.

    Returns:
        Numbers of values, shape ``(N,)``; of equally good ones the first.

    Raises:
        ConfigurationError: Shapes don't agree, a loss is not finite, or a frequency is not a number from 0.
    """
    values = check_losses(losses)
    if values.ndim != 2 or not values.size:
        raise ConfigurationError(f"losses must be of shape (values, people), got {values.shape}")
    if prior is None:
        return np.asarray(values.argmin(axis=0), np.int64)
    frequency = np.asarray(prior, np.float64)
    if frequency.ndim == 1:
        frequency = frequency[:, None]
    if frequency.shape not in (values.shape, (len(values), 1)) or not (frequency >= 0).all():
        raise ConfigurationError(
            f"prior must hold {len(values)} frequencies of at least 0, got {prior!r} of shape {frequency.shape}"
        )
    with np.errstate(divide="ignore"):
        return np.asarray((values - np.log(frequency)).argmin(axis=0), np.int64)


def learned_attack(
    known: npt.ArrayLike, attribute: npt.ArrayLike, auxiliary: npt.ArrayLike, *, regularisation: float = 1.0
) -> npt.NDArray[np.int64]:
    """Guess an attribute by logistic regression, learned on people whose attribute the attacker knows.

    Called with the model's outputs among what is known, and once without, it gives the guesses of
    :func:`attribute_figures`.

    Args:
        known: What the attacker sees of each person, such as the label as an indicator and the model's outputs, shape
            ``(N, F)``; scaled to unit variance over the auxiliary people.
        attribute: Numbers of values, shape ``(N,)``; only those of auxiliary people are looked at.
        auxiliary: True for people the attacker learns from, shape ``(N,)``. They must not be among those the figures
            are made of.
        regularisation: Strength of the penalty on the squared weights.

    Returns:
        Guesses for all people, shape ``(N,)``.

    Raises:
        ConfigurationError: Shapes don't agree, a number is not finite, or there is nothing to learn from.
    """
    from sklearn.linear_model import LogisticRegression

    features, values, learn = np.asarray(known, np.float64), np.asarray(attribute), np.asarray(auxiliary)
    people = len(values)
    if features.ndim != 2 or len(features) != people or learn.shape != (people,) or learn.dtype != np.bool_:
        raise ConfigurationError(
            f"known of shape (N, F), attribute and auxiliary (True or False) of shape (N,) must agree, got "
            f"{features.shape}, {values.shape} and {learn.dtype} of {learn.shape}"
        )
    if not np.isfinite(features).all():
        raise ConfigurationError("known must hold finite numbers only")
    seen = np.unique(values[learn])
    if not seen.size:
        raise ConfigurationError("auxiliary must be True for some people: the attacker learns from them")
    if seen.size == 1:
        return np.full(people, seen[0], np.int64)
    centre, scale = features[learn].mean(axis=0), features[learn].std(axis=0)
    features = (features - centre) / np.where(scale > 0, scale, 1.0)
    model = LogisticRegression(C=1 / positive(regularisation=regularisation), max_iter=_ITERATIONS)
    model.fit(features[learn], values[learn])
    return np.asarray(model.predict(features), np.int64)


def attribute_figures(
    guessed: npt.ArrayLike,
    guessed_without: npt.ArrayLike,
    truth: npt.ArrayLike,
    member: npt.ArrayLike,
    *,
    confidence: float = 0.95,
) -> AttributeFigures:
    """Compare guesses with the model with guesses without it.

    Args:
        guessed: With the model, shape ``(N,)``.
        guessed_without: By the same attacker without it, shape ``(N,)``.
        truth: Shape ``(N,)``.
        member: True for people whose record was in the training data, shape ``(N,)``.
        confidence: Of each interval.

    Raises:
        ConfigurationError: Shapes don't agree, or there are no members or no others.
    """
    error = 1 - within_open_unit(confidence=confidence)
    true = np.asarray(truth)
    right, right_without = np.asarray(guessed) == true, np.asarray(guessed_without) == true
    inside = np.asarray(member)
    shapes = {np.asarray(guessed).shape, np.asarray(guessed_without).shape, true.shape, inside.shape}
    if len(shapes) != 1 or true.ndim != 1 or inside.dtype != np.bool_:
        raise ConfigurationError(
            "guessed, guessed_without, truth and member (True or False) must have one entry per person, got shapes "
            f"{sorted(shapes)} and member of type {inside.dtype}"
        )
    if not inside.any() or inside.all():
        raise ConfigurationError(
            f"member must be True for some people and False for others, got {inside.sum()} members"
        )
    deviations = float(norm.isf(error / 2))
    gain, _ = _paired(right, right_without)
    shifted, shifted_variance = _paired(right, right_without, added=0.5)
    width = deviations * math.sqrt(shifted_variance)
    groups = [(right[group], right_without[group]) for group in (inside, ~inside)]
    more = _paired(*groups[0])[0] - _paired(*groups[1])[0]
    spread = deviations * math.sqrt(sum(_paired(*group, added=0.5)[1] for group in groups))
    return AttributeFigures(
        people=len(true),
        accuracy=_share(right, error),
        baseline=_share(right_without, error),
        gain=Estimate(gain, min(gain, shifted - width), max(gain, shifted + width)),
        member_gain=Estimate(more, more - spread, more + spread),
        confidence=confidence,
    )


def _share(right: npt.NDArray[np.bool_], error: float) -> Estimate:
    count = int(right.sum())
    low, high = share_interval(count, len(right), low_error=error / 2, high_error=error / 2)
    return Estimate(count / len(right), low, high)


def _paired(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_], *, added: float = 0.0) -> tuple[float, float]:
    """Difference of two shares of the same people, and its variance; ``added`` to each cell of their table."""
    only_first, only_second = (first & ~second).sum() + added, (second & ~first).sum() + added
    total = len(first) + 4 * added
    difference = (only_first - only_second) / total
    return float(difference), float((only_first + only_second - total * difference**2) / total**2)
