"""A quantile of a column of private numbers, such as the median to fill gaps with.

Smith, "Privacy-preserving Statistical Estimation with Optimal Convergence Rates", 2011, chooses a quantile by how far
its rank is from the wanted one. Here the candidates are the points of a grid between two public bounds, and the choice
is made by permute-and-flip (McKenna and Sheldon, 2020), which is never worse than the exponential mechanism.

**Score.** With L values below a candidate and M not above it, of n, the score is minus the distance of ``q n`` from the
interval [L, M]. Leaving out one value changes ``L - q n`` and ``M - q n`` by ``1 - q`` or by ``q``, so the score by at
most ``max(q, 1 - q)``. That ties are inside the interval is what finds a value that many records share.

Example:
    >>> from lightning_privacy.accounting import PrivacyLedger
    >>> ledger = PrivacyLedger(delta=1e-6)
    >>> ages = [20, 30, 40, 50, 60] * 1000
    >>> private_quantile(ages, 0.5, lower=0, upper=100, epsilon=1.0, cells=100, ledger=ledger)
    40.0
    >>> round(ledger.epsilon(exact=True), 3)
    1.0
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_privacy._validate import positive_int, within_open_unit
from lightning_privacy.accounting import PrivacyLedger, SelectionRelease
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.mechanisms._charge import charge
from lightning_privacy.mechanisms._exact import ExactRandomness
from lightning_privacy.mechanisms._selection import permute_and_flip
from lightning_privacy.mechanisms._values import column_values, public_bounds
from lightning_privacy.mechanisms.noise import NoiseSource

__all__ = ["private_quantile"]

# Ranks are whole numbers of this part of a record, so that q n is exact.
_PARTS = 2**20

_MAX_CELLS = 2**24


def private_quantile(
    values: Any,
    q: float,
    *,
    lower: float,
    upper: float,
    epsilon: float,
    cells: int = 2**16,
    ledger: PrivacyLedger | None = None,
    noise: NoiseSource | None = None,
) -> float:
    """Return a point of a grid between the bounds that about a share ``q`` of the values are below.

    Its rank is wrong by some ``2 max(q, 1 - q) ln(cells) / epsilon`` records, its value besides by up to half a cell.

    Args:
        values: tensor, array, series or list of numbers, shape (N,); those outside the bounds count as the bounds.
        q: 0.5 for the median; in (0, 1), used to a millionth.
        lower: smallest value there can be, known without looking at the data.
        upper: largest value there can be, known without looking at the data.
        epsilon: what the release costs, > 0, when one record is replaced by a null record, whose value is missing (the
            ledger's neighbouring relation, "zero-out").
        cells: steps of the grid between the bounds. For whole numbers their number (120 for ages up to 120) finds the
            value that many share best.
        ledger: charged before anything is drawn.
        noise: None for the operating system's randomness; a seeded source makes the result reproducible and NOT
            PRIVATE.

    Returns:
        The quantile.

    Raises:
        ConfigurationError: an argument is out of range, there are no values, or not all are finite; nothing is charged.
        PrivacyBudgetExceeded: the ledger can't pay for it; nothing is charged or released.
    """
    parts = round(within_open_unit(q=q) * _PARTS)
    low, high = public_bounds(lower, upper)
    release, cells = SelectionRelease(epsilon), positive_int(cells=cells)
    if cells > _MAX_CELLS:
        raise ConfigurationError(f"cells must be at most 2**24, got {cells}")
    numbers = column_values(values)
    charge(ledger, release, noise, label=f"quantile {q:.6g}")
    steps = np.rint((np.clip(numbers, low, high) - low) / (high - low) * cells).astype(np.int64)
    gaps = _rank_distances(np.bincount(steps, minlength=cells + 1), parts)
    rate = Fraction(release.epsilon) / (2 * max(parts, _PARTS - parts))
    chosen = int(permute_and_flip((gaps - gaps.min())[None], rate, ExactRandomness(noise))[0])
    return min(high, low + (high - low) * chosen / cells)  # multiplied first: whole numbers stay whole


def _rank_distances(counts: NDArray[np.int64], parts: int) -> NDArray[np.int64]:
    """How far the rank wanted is from those of each point, in parts of a record."""
    up_to = counts.cumsum()
    wanted = parts * int(up_to[-1])
    distances: NDArray[np.int64] = np.maximum((up_to - counts) * _PARTS - wanted, wanted - up_to * _PARTS)
    return distances.clip(min=0)
