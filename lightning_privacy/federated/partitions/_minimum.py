"""A minimum size for every client, by moving examples from the largest clients.

Drawing anew until every client is large enough, as is often done, need not end: with 1,000 clients and a
concentration of 0.1 some client is always empty. A repair ends, is the same every time, and changes nothing where
all clients are large enough already.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lightning_privacy.errors import ConfigurationError

__all__ = ["check_minimum", "fill_up"]


def check_minimum(num_clients: int, min_examples: int, num_examples: int) -> None:
    """Raise where there are too few examples to give every client its minimum."""
    if num_clients * min_examples > num_examples:
        raise ConfigurationError(
            f"min_examples must be at most {num_examples // num_clients} for num_clients={num_clients} and "
            f"{num_examples} examples, got {min_examples}"
        )


def fill_up(
    owners: npt.NDArray[np.int64], num_clients: int, min_examples: int, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Give every client its minimum.

    The largest clients are cut down to a common level, no lower than needed; which of their examples go, and to
    whom, is drawn at random.

    Args:
        owners: Client of each example, shape ``(num_examples,)``; not changed.
        num_clients: Number of clients.
        min_examples: What every client must have; ``num_clients * min_examples`` is at most the number of examples.
        generator: What is drawn from, only where a client is too small.
    """
    sizes = np.bincount(owners, minlength=num_clients)
    missing = np.maximum(min_examples - sizes, 0)
    needed = int(missing.sum())
    if needed == 0:
        return owners
    taken = _surplus(sizes, needed)
    # In random order and then by client, the first examples of each client are a random choice of them.
    order = generator.permutation(len(owners))
    order = order[np.argsort(owners[order], kind="stable")]
    rank = np.arange(len(owners)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    moved = order[rank < np.repeat(taken, sizes)]
    filled = owners.copy()
    filled[generator.permutation(moved)] = np.repeat(np.arange(num_clients), missing)
    return filled


def _surplus(sizes: npt.NDArray[np.int64], needed: int) -> npt.NDArray[np.int64]:
    """How many examples each client gives, ``needed`` in all, so that the largest remaining size is smallest."""
    low, high = 0, int(sizes.max())  # the highest level that yields enough is in [low, high)
    while high - low > 1:
        level = (low + high) // 2
        if np.maximum(sizes - level, 0).sum() >= needed:
            low = level
        else:
            high = level
    surplus = np.maximum(sizes - low, 0)
    donors = np.flatnonzero(surplus)
    surplus[donors[: int(surplus.sum()) - needed]] -= 1
    return surplus
