"""How often each class is drawn: from counts to shares.

A *cell* is what is balanced: a class, a group, or a class within a group. With n examples in a cell and one example of
it weighted w(n), the cell's share of what is drawn is proportional to n w(n):

* ``inverse``: w = 1 / n, equal shares.
* ``sqrt``: w = 1 / sqrt(n) (Mahajan et al. 2018, section 2.2), half way on a logarithmic scale.
* ``effective_number``: w = (1 - beta) / (1 - beta^n) (Cui et al. 2019, equation 2), near ``inverse`` for cells that are
  small against 1 / (1 - beta) and unweighted for large ones.
* ``repeat_factor``: w = max(1, sqrt(t / f)) for a class that f of all examples have (Gupta et al. 2019, section 4.2);
  only classes rarer than the threshold t are drawn more often.

Example:
    >>> import numpy as np
    >>> cell_shares(np.array([900, 100]), "inverse").tolist()
    [0.5, 0.5]
    >>> cell_shares(np.array([900, 100]), "sqrt").round(2).tolist()
    [0.75, 0.25]
    >>> cell_shares(np.array([900, 100]), {"healthy": 0.8, "ill": 0.2}, names=["healthy", "ill"]).tolist()
    [0.8, 0.2]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightning_privacy._validate import probability, within_open_unit
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.sampling.labels import label_array

__all__ = [
    "Weighting",
    "cell_name",
    "cell_shares",
    "effective_number_weights",
    "example_weights",
    "repeat_factors",
]

Counts: TypeAlias = NDArray[np.int64]
Shares: TypeAlias = NDArray[np.float64]
Weighting: TypeAlias = str | Mapping[Any, float] | Callable[[Counts], Any]

_SUM_TOLERANCE = 1e-6


def effective_number_weights(counts: Counts, beta: float = 0.9999) -> Shares:
    """Weight of one example of each cell by the effective number of examples.

    Args:
        counts: Examples of each cell, shape ``(C,)``.
        beta: In (0, 1); the paper uses 0.9, 0.99, 0.999 and 0.9999.

    Returns:
        Shape ``(C,)``.

    Example:
        >>> effective_number_weights(np.array([1, 2]), beta=0.5).round(3).tolist()
        [1.0, 0.667]
    """
    within_open_unit(beta=beta)
    return np.asarray((1 - beta) / -np.expm1(counts * math.log(beta)), np.float64)


def repeat_factors(labels: object, *, threshold: float = 0.001) -> Shares:
    """How often each example of a long-tailed set is repeated in an epoch, by its rarest class.

    Args:
        labels: One class per example, shape ``(N,)``, or 0 and 1 for each example and class, shape ``(N, L)``.
        threshold: In (0, 1]; classes that fewer of the examples have are repeated.

    Returns:
        Shape ``(N,)``, at least 1; to be given as ``BalancedSampler(weights=...)``. An example without any class
        has 1.

    Raises:
        ConfigurationError: A value is missing, or an entry of ``(N, L)`` labels is neither 0 nor 1.

    Example:
        >>> repeat_factors([[1, 0], [1, 0], [1, 0], [1, 1]], threshold=1.0).tolist()
        [1.0, 1.0, 1.0, 2.0]
    """
    threshold = probability(threshold=threshold)
    values = label_array(labels)
    if values.ndim == 1:
        _, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
        return np.maximum(1.0, np.sqrt(threshold * len(values) / counts))[codes]
    if values.dtype.kind not in "biu" or values.min() < 0 or values.max() > 1:
        raise ConfigurationError(
            f"labels of shape {values.shape} must be 0 or 1 for each example and class, got {np.unique(values)[:5]}"
        )
    present = values.astype(bool)
    frequency = np.maximum(present.sum(0), 1) / len(present)
    factors = np.maximum(1.0, np.sqrt(threshold / frequency))
    return np.asarray(np.where(present, factors, 1.0).max(1), np.float64)


_EXAMPLE_WEIGHTS: dict[str, Callable[[Counts], Shares]] = {
    "inverse": lambda counts: 1.0 / counts,
    "sqrt": lambda counts: 1.0 / np.sqrt(counts),
    "effective_number": effective_number_weights,
    "repeat_factor": lambda counts: np.maximum(1.0, np.sqrt(0.001 * counts.sum() / counts)),
}


def cell_shares(counts: Counts, weighting: Weighting = "inverse", *, names: Sequence[Hashable] | None = None) -> Shares:
    """Which share of the draws each cell gets.

    Args:
        counts: Examples of each cell, shape ``(C,)``, all at least 1.
        weighting: ``"inverse"``, ``"sqrt"``, ``"effective_number"`` or ``"repeat_factor"``; or a mapping of each cell's
            name to its share, together 1; or a function of ``counts`` that returns the weight of one example of each
            cell, so that ``lambda n: 1 / n`` is ``"inverse"``.
        names: What a mapping calls the cells; by default 0 to C - 1. A cell of several parts may also be called by
            its parts with ``*`` between, as in ``"1*female"``.

    Returns:
        float64 of shape ``(C,)``, its sum 1.

    Raises:
        ConfigurationError: The weighting is unknown; shares are negative, missing, not together 1, or asked for a cell
            without examples; the function returns something else.
    """
    counts = np.asarray(counts, np.int64)
    if isinstance(weighting, Mapping):
        return _given_shares(weighting, list(range(len(counts))) if names is None else names)
    if isinstance(weighting, str):
        if weighting not in _EXAMPLE_WEIGHTS:
            options = ", ".join(map(repr, _EXAMPLE_WEIGHTS))
            raise ConfigurationError(
                f"weighting must be one of {options}, a mapping of shares or a function of the counts, "
                f"got {weighting!r}"
            )
        weights = _EXAMPLE_WEIGHTS[weighting](counts)
    elif callable(weighting):
        weights = _given_weights(weighting(counts), counts)
    else:
        raise ConfigurationError(f"weighting must be a name, a mapping or a function, got {weighting!r}")
    shares = counts * weights
    return np.asarray(shares / shares.sum(), np.float64)


def example_weights(weights: object, *, num_examples: int | None = None) -> Shares:
    """Weights that were given for each example, checked.

    Args:
        weights: One number >= 0 per example, not all of them 0; in any form that labels may have.
        num_examples: How many there must be.

    Returns:
        float64 of shape ``(N,)``.

    Raises:
        ConfigurationError: There are too many or too few, or one is negative, NaN or infinite, or none is above 0.
    """
    convert = getattr(weights, "to_numpy", None)
    raw = weights.detach().cpu() if hasattr(weights, "detach") else convert() if callable(convert) else weights
    try:
        values = np.array(raw, np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"weights must be one number per example, got {weights!r}: {error}") from error
    if values.ndim != 1 or len(values) == 0 or (num_examples is not None and len(values) != num_examples):
        expected = (
            "one number per example" if num_examples is None else f"one number for each of {num_examples} examples"
        )
        raise ConfigurationError(f"weights must be {expected}, got shape {values.shape}")
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if len(bad):
        raise ConfigurationError(
            f"weights must be finite numbers >= 0, got {values[bad[0]]} at position {bad[0]} (and {len(bad) - 1} more)"
        )
    if not values.any():
        raise ConfigurationError("weights must have one number > 0 at least, got only 0: nothing could be drawn")
    return values


def cell_name(name: Hashable) -> str:
    """A cell's name as text: its parts with ``*`` between."""
    return "*".join(map(str, name)) if isinstance(name, tuple) else str(name)


def _given_weights(returned: object, counts: Counts) -> Shares:
    weights = np.asarray(returned, np.float64)
    if weights.shape != counts.shape or not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ConfigurationError(
            f"weighting must return one finite weight >= 0 for each of {len(counts)} cells, not all of them 0, "
            f"got {returned!r}"
        )
    return weights


def _given_shares(weighting: Mapping[Any, float], names: Sequence[Hashable]) -> Shares:
    places: dict[Hashable, int] = {cell_name(name): place for place, name in enumerate(names)}
    places |= {name: place for place, name in enumerate(names)}
    shares = np.full(len(names), -1.0)
    for key, share in weighting.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not math.isfinite(share) or share < 0:
            raise ConfigurationError(f"weighting must map to finite shares >= 0, got {share!r} for {key!r}")
        if key in places:
            shares[places[key]] = share
        elif share > 0:
            raise ConfigurationError(
                f"weighting asks for a share of {share} for {key!r}, which no example belongs to: there are "
                f"{_some(names)}; leave it out"
            )
    left_out = [name for name, share in zip(names, shares, strict=True) if share < 0]
    if left_out:
        raise ConfigurationError(f"weighting has no share for {_some(left_out)}: give one to each, 0 to never draw it")
    if abs(shares.sum() - 1) > _SUM_TOLERANCE:
        raise ConfigurationError(f"weighting must map to shares that are together 1, got {shares.sum():.9g}")
    return np.asarray(shares / shares.sum(), np.float64)


def _some(names: Sequence[Hashable], limit: int = 10) -> str:
    listed = ", ".join(repr(name) for name in names[:limit])
    return listed if len(names) <= limit else f"{listed} and {len(names) - limit} more"
