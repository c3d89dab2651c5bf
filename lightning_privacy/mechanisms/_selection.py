"""Private choices among candidates by whole-number scores, drawn exactly.

Both ways of choosing flip coins that show heads with probability ``exp(-rate * gap)``, where ``gap`` is how far a
candidate's score is below the best one: permute-and-flip takes one of the heads at random, the exponential mechanism
draws candidates until one shows heads.

Example:
    >>> import numpy as np
    >>> gaps = np.array([[0, 2**40], [2**40, 0]])
    >>> permute_and_flip(gaps, Fraction(1), ExactRandomness(None)).tolist()
    [0, 1]
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from lightning_privacy.mechanisms._exact import ExactRandomness

__all__ = ["draw_exponential", "permute_and_flip", "score_gaps"]

# Cells within the sensitivity: rounding the scores to them raises the sensitivity by a millionth.
_CELLS_BITS = 20

# Gaps are cut here, where a candidate is as good as impossible. It is the same as raising each score to the best one
# less this, which changes no score by more than before.
_LARGEST_GAP = 2.0**50

# Coins flipped at once.
_BLOCK = 2**16


def score_gaps(scores: NDArray[np.float64], sensitivity: float) -> tuple[NDArray[np.int64], Fraction]:
    """Return how far each score is below the best of its row, in cells of a grid, and the sensitivity in cells.

    Args:
        scores: finite, shape (rows, candidates).
        sensitivity: the most by which one score can change.

    Returns:
        Whole numbers of the same shape, and the most by which one rounded score can change.
    """
    exponent = math.frexp(sensitivity)[1] - 1 - _CELLS_BITS
    # Exact: a shift of the exponent, and whole numbers. Their difference is exact wherever it is not cut.
    with np.errstate(over="ignore", under="ignore"):
        cells = np.rint(np.ldexp(scores, -exponent))
        # A score that overflows is brought to the largest number; what is close to it is so too.
        cells = np.clip(cells, -np.finfo(np.float64).max / 4, np.finfo(np.float64).max / 4)
        gaps = np.minimum(cells.max(axis=1, keepdims=True) - cells, _LARGEST_GAP)
    return gaps.astype(np.int64), Fraction(sensitivity) / Fraction(2) ** exponent + 1


def permute_and_flip(gaps: NDArray[np.int64], rate: Fraction, randomness: ExactRandomness) -> NDArray[np.int64]:
    """Return one candidate for each row; ``gaps`` >= 0 of shape (rows, candidates), each row with a 0."""
    heads = randomness.many_bernoulli_exp(gaps, rate)
    # The first head of a random order is a random head.
    chosen = randomness.each_below(heads.sum(axis=1))
    result: NDArray[np.int64] = (heads.cumsum(axis=1) > chosen[:, None]).argmax(axis=1)
    return result


def draw_exponential(gaps: NDArray[np.int64], rate: Fraction, randomness: ExactRandomness) -> NDArray[np.int64]:
    """Return one candidate for each row, with probability in proportion to ``exp(-rate * gap)``."""
    rows, candidates = gaps.shape
    result = np.zeros(rows, np.int64)
    pending = np.arange(rows)
    while len(pending):
        tries = max(1, _BLOCK // len(pending))
        tried = randomness.many_below(candidates, len(pending) * tries).reshape(len(pending), tries)
        heads = randomness.many_bernoulli_exp(gaps[pending[:, None], tried], rate)
        first = heads.argmax(axis=1)
        result[pending] = tried[np.arange(len(pending)), first]
        pending = pending[~heads.any(axis=1)]
    return result
