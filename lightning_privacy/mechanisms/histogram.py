"""How many records each class has, with noise: the counts that balanced batches may be computed from.

Counts of private labels say something about single records (a class with one member, say), so weights computed from
them are releases. Replacing one record by a null record, which is in no class, changes one count by one: sensitivity 1
for the whole histogram. (Under replacement by any other record two counts change, and epsilon is twice as large.)

The noise is rounded Laplace noise, drawn exactly and added as it is: see ``mechanisms/_exact.py``. Only the sums are
cut, to 2**62 in size, which matters for an epsilon below 1e-16.

Example:
    >>> from lightning_privacy.accounting import PrivacyLedger
    >>> ledger = PrivacyLedger(delta=1e-6)
    >>> counts = private_histogram([0, 0, 1] * 1000, num_classes=2, epsilon=1.0, ledger=ledger)
    >>> abs(int(counts[0]) - 2000) < 50, round(ledger.epsilon(exact=True), 3)
    (True, 1.0)
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_privacy._validate import positive_int
from lightning_privacy.accounting import LaplaceRelease, PrivacyLedger
from lightning_privacy.mechanisms._charge import charge
from lightning_privacy.mechanisms._exact import ExactRandomness, within_words
from lightning_privacy.mechanisms._values import class_labels
from lightning_privacy.mechanisms.noise import NoiseSource

__all__ = ["private_histogram"]


def private_histogram(
    labels: Any,
    *,
    num_classes: int,
    epsilon: float,
    ledger: PrivacyLedger | None = None,
    noise: NoiseSource | None = None,
) -> NDArray[np.int64]:
    """Return the number of records of each class, with Laplace noise of scale ``1 / epsilon``.

    Args:
        labels: tensor, array or list of whole numbers in [0, num_classes), shape (N,).
        num_classes: number of classes: all there can be, known without looking at the data.
        epsilon: what the whole histogram costs, > 0.
        ledger: charged before anything is drawn.
        noise: None for the operating system's randomness; a seeded source makes the result reproducible and NOT
            PRIVATE.

    Returns:
        Whole numbers, shape (num_classes,), at most 2**62 in size; unbiased, so a small class may come out negative.

    Raises:
        ConfigurationError: an argument is out of range; nothing is charged.
        PrivacyBudgetExceeded: the ledger can't pay for it; nothing is charged or released.
    """
    num_classes = positive_int(num_classes=num_classes)
    release = LaplaceRelease(epsilon)
    true = class_labels(labels, num_classes)
    charge(ledger, release, noise, label="class counts")
    counts = np.bincount(true, minlength=num_classes).astype(np.int64)
    return within_words(counts + ExactRandomness(noise).many_rounded_laplace(Fraction(release.epsilon), num_classes))
