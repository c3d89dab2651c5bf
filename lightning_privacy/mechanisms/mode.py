"""The most frequent class of private labels, such as what to fill gaps of a category with.

Example:
    >>> from lightning_privacy.accounting import PrivacyLedger
    >>> ledger = PrivacyLedger(delta=1e-6)
    >>> private_mode([0, 1, 1] * 1000, num_classes=2, epsilon=1.0, ledger=ledger)
    1
    >>> round(ledger.epsilon(exact=True), 3)
    1.0
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from lightning_privacy._validate import positive_int
from lightning_privacy.accounting import PrivacyLedger, SelectionRelease
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.mechanisms._charge import charge
from lightning_privacy.mechanisms._exact import ExactRandomness
from lightning_privacy.mechanisms._selection import permute_and_flip
from lightning_privacy.mechanisms._values import class_labels
from lightning_privacy.mechanisms.noise import NoiseSource

__all__ = ["private_mode"]


def private_mode(
    labels: Any,
    *,
    num_classes: int,
    epsilon: float,
    ledger: PrivacyLedger | None = None,
    noise: NoiseSource | None = None,
) -> int:
    """Return the class with most records, or one with nearly as many.

    A class with d records fewer is returned with probability at most ``exp(-epsilon * d)``. This is
    :func:`~lightning_privacy.noisy_max` of the counts, which change by one and in one direction only.

    Args:
        labels: tensor, array or list of whole numbers in [0, num_classes), shape (N,).
        num_classes: number of classes: all there can be, known without looking at the data.
        epsilon: what the release costs, > 0, when one record is replaced by a null record, which is in no class (the
            ledger's neighbouring relation, "zero-out").
        ledger: charged before anything is drawn.
        noise: None for the operating system's randomness; a seeded source makes the result reproducible and NOT
            PRIVATE.

    Returns:
        The class.

    Raises:
        ConfigurationError: an argument is out of range, or there are no labels; nothing is charged.
        PrivacyBudgetExceeded: the ledger can't pay for it; nothing is charged or released.
    """
    num_classes = positive_int(num_classes=num_classes)
    release = SelectionRelease(epsilon)
    true = class_labels(labels, num_classes)
    if len(true) == 0:
        raise ConfigurationError("labels must not be empty: there is nothing to release the mode of")
    charge(ledger, release, noise, label="mode")
    counts = np.bincount(true, minlength=num_classes)
    gaps = (counts.max() - counts).astype(np.int64)[None]
    return int(permute_and_flip(gaps, Fraction(release.epsilon), ExactRandomness(noise))[0])
