"""Randomised response: every label tells the truth only with some probability.

Warner, "Randomized Response", 1965; for more than two classes Kairouz et al., "Extremal Mechanisms for Local
Differential Privacy", 2016. A label is kept with probability ``e^epsilon / (e^epsilon + k - 1)`` and is otherwise one
of the k - 1 others. That is the same as drawing it anew from all k with the probability that
:class:`~lightning_privacy.RandomizedResponseRelease` calls its noise parameter, which is how it is done here: in whole
numbers of 2**-64, rounded towards more noise.

Example:
    >>> from lightning_privacy.accounting import PrivacyLedger
    >>> ledger = PrivacyLedger(delta=1e-6)
    >>> noisy = randomized_response([0, 1, 2, 1], num_classes=3, epsilon=2.0, ledger=ledger)
    >>> len(noisy), ledger.epsilon(exact=True) <= 2.0
    (4, True)
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_privacy.accounting import PrivacyLedger, RandomizedResponseRelease
from lightning_privacy.mechanisms._charge import charge
from lightning_privacy.mechanisms._exact import ExactRandomness
from lightning_privacy.mechanisms._values import class_labels
from lightning_privacy.mechanisms.noise import NoiseSource

__all__ = ["randomized_response"]


def randomized_response(
    labels: Any,
    *,
    num_classes: int,
    epsilon: float,
    ledger: PrivacyLedger | None = None,
    noise: NoiseSource | None = None,
    purpose: str = "labels",
) -> Any:
    """Return labels of which each is true only with a probability that epsilon decides.

    Each label is about one record, and is charged once for all of them: what is released about one record does not
    depend on the others. What stands beside the label, such as the features, is not protected.

    Args:
        labels: tensor, array or list of whole numbers in [0, num_classes), shape (N,), or booleans for two classes; not
            changed. Or a single label.
        num_classes: number of classes, at least 2: all there can be, known without looking at the data.
        epsilon: bounds how much more likely an answer is under one label than under another, > 0.
        ledger: charged before anything is drawn.
        noise: None for the operating system's randomness; a seeded source makes the result reproducible and NOT
            PRIVATE.
        purpose: what the ledger's history says they are for.

    Returns:
        The noisy labels: a tensor on the same device and of the same type for a tensor, else an array of int64, or of
        booleans for booleans; an int or bool for a single label.

    Raises:
        ConfigurationError: an argument is out of range; nothing is charged.
        PrivacyBudgetExceeded: the ledger can't pay for it; nothing is charged or released.
    """
    release = RandomizedResponseRelease(epsilon, num_classes)
    single = isinstance(labels, bool | np.bool_ | int | np.integer)
    true = class_labels([labels] if single else labels, release.num_classes)
    charge(ledger, release, noise, label=purpose)
    randomness = ExactRandomness(noise)
    # A word below the threshold has the label drawn anew; a little above it is a little more noise than was charged.
    threshold = min(2**64 - 1, math.ceil(Fraction(release.noise_parameter) * 2**64))
    anew = randomness.words(len(true)) <= np.uint64(threshold)
    noisy = np.where(anew, randomness.many_below(release.num_classes, len(true)), true)
    if isinstance(labels, Tensor):
        return torch.from_numpy(noisy).to(labels.device, labels.dtype)
    if np.asarray(labels).dtype == np.bool_:
        noisy = noisy.astype(np.bool_)
    return noisy[0].item() if single else noisy
