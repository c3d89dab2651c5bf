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

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from lightning_privacy.mechanisms._exact import ExactRandomness

__all__ = ["draw_exponential", "permute_and_flip"]

# Coins flipped at once.
_BLOCK = 2**16


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
