"""Shares by a symmetric Dirichlet distribution, as whole numbers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lightning_privacy._validate import positive
from lightning_privacy.errors import ConfigurationError

__all__ = ["check_alpha", "share_out"]

_LARGEST_ALPHA = 1e9  # the sum over clients of what the shares are drawn from must stay finite


def check_alpha(alpha: float) -> None:
    """Raise unless alpha is a concentration shares can be drawn with."""
    if positive(alpha=alpha) > _LARGEST_ALPHA:
        raise ConfigurationError(
            f"alpha must be at most {_LARGEST_ALPHA:g}, got {alpha!r}: for clients without any skew use IIDPartition"
        )


def share_out(count: int, num_clients: int, alpha: float, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """The client of each of ``count`` examples, in increasing order, with shares drawn from Dir(alpha, ..., alpha).

    Systematic sampling: equally spaced points with one random start, and an example for every point that falls into
    a client's share. A client gets its share rounded up or down, and its share exactly on average.
    """
    ends = np.cumsum(generator.dirichlet(np.full(num_clients, alpha)))
    points = (np.arange(count) + generator.random()) * (ends[-1] / count)
    owners: npt.NDArray[np.int64] = np.searchsorted(ends, points, side="right").astype(np.int64)
    # Rounding may put the last point on the very end.
    owners[owners == num_clients] = num_clients - 1
    return owners
