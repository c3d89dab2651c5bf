"""The best of several candidates, chosen with privacy: noisy maximum and exponential mechanism.

Each candidate has a score computed from private data: how many records vote for it, how well it fits. What is released
is which candidate was chosen, and nothing of the scores.

* :func:`noisy_max` adds exponential noise to each score and takes the largest sum. It is drawn as permute-and-flip
  (McKenna and Sheldon, "Permute-and-Flip: A New Mechanism for Differentially Private Selection", 2020), which has the
  same law (Ding et al., "The Permute-and-Flip Mechanism is Identical to Report-Noisy-Max with Exponential Noise",
  2021) and needs no noise with infinitely many digits. Its choice is never worse in expectation than that of
* :func:`exponential`, which takes a candidate with probability in proportion to ``exp(epsilon * score / (2 *
  sensitivity))`` (McSherry and Talwar, "Mechanism Design via Differential Privacy", 2007): the one to use where the
  probabilities themselves must have that form. It is report-noisy-max with Gumbel noise.

**Floating point.** Scores are rounded to a grid of powers of two, a millionth of the sensitivity apart; from there on
everything is whole numbers and exact (``mechanisms/_exact.py``). The rounding is part of the sensitivity.

**Neighbours.** ``sensitivity`` is the most by which any one score can change, up or down, when one record is replaced
by a null record that contributes nothing (the ledger's relation, "zero-out"). Where replacement of one record by any
other is meant, give the change under that. With ``monotonic=True`` all scores that change must change in one direction,
as counts do when a record is left out; then the same epsilon buys twice the accuracy.

Example:
    >>> from lightning_privacy.accounting import PrivacyLedger
    >>> ledger = PrivacyLedger(delta=1e-6)
    >>> noisy_max([10.0, 900.0, 20.0], sensitivity=1.0, epsilon=0.5, ledger=ledger)
    1
    >>> round(ledger.epsilon(exact=True), 3)
    0.5
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_privacy._validate import positive
from lightning_privacy.accounting import PrivacyLedger, SelectionRelease
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.mechanisms._charge import charge
from lightning_privacy.mechanisms._exact import ExactRandomness
from lightning_privacy.mechanisms._grid import Grid
from lightning_privacy.mechanisms._selection import draw_exponential, permute_and_flip
from lightning_privacy.mechanisms._values import score_rows
from lightning_privacy.mechanisms.noise import NoiseSource

__all__ = ["exponential", "noisy_max"]

_Choice = Callable[[NDArray[np.int64], Fraction, ExactRandomness], NDArray[np.int64]]


def noisy_max(
    scores: Any,
    *,
    sensitivity: float,
    epsilon: float,
    monotonic: bool = False,
    ledger: PrivacyLedger | None = None,
    noise: NoiseSource | None = None,
) -> Any:
    """Return the index of the candidate with the largest score after exponential noise.

    A candidate whose score is d below the best is returned with probability at most ``exp(-epsilon * d / (2 *
    sensitivity))``; without the 2 where the scores are monotonic.

    Args:
        scores: tensor, array or list of numbers: shape (candidates,) for one release, or (rows, candidates) for as many
            releases as there are rows, each charged on its own.
        sensitivity: the most by which any one score can change when one record is replaced by a null record (the
            ledger's neighbouring relation, "zero-out"), > 0.
        epsilon: what one release costs, > 0.
        monotonic: whether one record moves all scores that it moves in the same direction.
        ledger: charged before anything is drawn.
        noise: None for the operating system's randomness; a seeded source makes the result reproducible and NOT
            PRIVATE.

    Returns:
        The index as an int; for rows an array of int64 of shape (rows,), or a tensor on the same device for a tensor.

    Raises:
        ConfigurationError: an argument is out of range, there are no scores, or not all are finite; nothing is charged.
        PrivacyBudgetExceeded: the ledger can't pay for it; nothing is charged or released.

    Example:
        >>> noisy_max([[0, 100], [100, 0]], sensitivity=1, epsilon=1.0, monotonic=True).tolist()
        [1, 0]
    """
    return _choose(permute_and_flip, "noisy maximum", scores, sensitivity, epsilon, monotonic, ledger, noise)


def exponential(
    scores: Any,
    *,
    sensitivity: float,
    epsilon: float,
    monotonic: bool = False,
    ledger: PrivacyLedger | None = None,
    noise: NoiseSource | None = None,
) -> Any:
    """Return a candidate's index, with probability in proportion to ``exp(epsilon * score / (2 * sensitivity))``.

    Without the 2 where the scores are monotonic.

    Args:
        scores: as for :func:`noisy_max`.
        sensitivity: as for :func:`noisy_max`.
        epsilon: what one release costs, > 0.
        monotonic: as for :func:`noisy_max`.
        ledger: charged before anything is drawn.
        noise: None for the operating system's randomness; a seeded source makes the result reproducible and NOT
            PRIVATE.

    Returns:
        As :func:`noisy_max`.

    Raises:
        ConfigurationError: as :func:`noisy_max`.
        PrivacyBudgetExceeded: the ledger can't pay for it; nothing is charged or released.

    Example:
        >>> exponential([0.0, 1.0, 500.0], sensitivity=1.0, epsilon=1.0)
        2
    """
    return _choose(draw_exponential, "exponential mechanism", scores, sensitivity, epsilon, monotonic, ledger, noise)


def _choose(
    choice: _Choice,
    name: str,
    scores: Any,
    sensitivity: float,
    epsilon: float,
    monotonic: bool,
    ledger: PrivacyLedger | None,
    noise: NoiseSource | None,
) -> Any:
    release = SelectionRelease(epsilon)
    sensitivity = positive(sensitivity=sensitivity)
    if not isinstance(monotonic, bool):
        raise ConfigurationError(f"monotonic must be True or False, got {monotonic!r}")
    rows, single = score_rows(scores)
    charge(ledger, release, noise, count=len(rows), label=name)
    grid = Grid(sensitivity)
    gaps = grid.differences(rows.max(axis=1, keepdims=True), rows)
    rate = Fraction(release.epsilon) / ((1 if monotonic else 2) * grid.sensitivity)
    chosen = choice(gaps, rate, ExactRandomness(noise))
    if single:
        return int(chosen[0])
    return torch.from_numpy(chosen).to(scores.device) if isinstance(scores, Tensor) else chosen
