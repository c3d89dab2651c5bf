"""The coins of an audit, one for each canary, and the guesses about them.

Each canary is in the training or out of it by a fair coin of the operating system, independently of all others. Who
audits sees scores, one for each canary and higher for one that looks as if it was in, and guesses the coins of those
with the highest and the lowest scores; about the rest it says nothing (Steinke, Nasr and Jagielski, "Privacy Auditing
with One (1) Training Run", 2023, Algorithm 1).

Example:
    >>> import numpy as np
    >>> coins = read_coins("a8", count=5)
    >>> coins.tolist(), write_coins(coins)
    ([True, False, True, False, True], 'a8')
    >>> guesses = guess_coins(np.array([3.0, 1.0, 2.0, 0.0, 5.0]), highest=2, lowest=1)
    >>> guesses.tolist(), count_correct(guesses, coins)
    ([1, 0, 0, -1, 1], 3)
"""

from __future__ import annotations

import secrets

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_privacy._validate import non_negative_int, positive_int
from lightning_privacy.errors import ConfigurationError

__all__ = ["count_correct", "draw_coins", "guess_coins", "read_coins", "write_coins"]


def draw_coins(count: int) -> NDArray[np.bool_]:
    """Throw fair and independent coins, from the operating system's randomness.

    Args:
        count: How many, at least 1.

    Returns:
        Shape ``(count,)``; True: the canary is in.

    Raises:
        ConfigurationError: ``count`` is not a whole number of at least 1.
    """
    count = positive_int(count=count)
    return read_coins(secrets.token_hex(-(-count // 8)), count=count)


def write_coins(coins: ArrayLike) -> str:
    """The coins as hexadecimal text, the first one in the highest bit."""
    return np.packbits(np.asarray(coins, dtype=np.bool_)).tobytes().hex()


def read_coins(text: str, *, count: int) -> NDArray[np.bool_]:
    """The coins that :func:`write_coins` wrote.

    Args:
        text: Hexadecimal.
        count: How many there are.

    Raises:
        ConfigurationError: The text has not as many.
    """
    count = positive_int(count=count)
    try:
        packed = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"text must be hexadecimal, got {text!r}") from error
    if len(packed) != -(-count // 8):
        raise ConfigurationError(f"text must hold {count} coins in {-(-count // 8)} bytes, got {len(packed)} bytes")
    return np.unpackbits(packed, count=count).astype(np.bool_)


def guess_coins(scores: ArrayLike, *, highest: int, lowest: int) -> NDArray[np.int8]:
    """Guess that the canaries with the highest scores were in, and those with the lowest out.

    Scores that are equal are told apart by their place, which has nothing to do with the coins.

    Args:
        scores: Finite, shape ``(m,)``.
        highest: How many to call in.
        lowest: How many to call out.

    Returns:
        Shape ``(m,)``: 1 for in, -1 for out, 0 for no guess.

    Raises:
        ConfigurationError: A score is not finite, or there are more guesses than canaries.
    """
    values = np.asarray(scores, dtype=np.float64)
    highest, lowest = non_negative_int(highest=highest), non_negative_int(lowest=lowest)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ConfigurationError("scores must be finite numbers, one for each canary")
    if highest + lowest > len(values):
        raise ConfigurationError(
            f"highest + lowest must be at most the number of canaries, {len(values)}, got {highest} + {lowest}"
        )
    order = np.argsort(values, kind="stable")
    guesses = np.zeros(len(values), dtype=np.int8)
    guesses[order[:lowest]] = -1
    guesses[order[len(values) - highest :]] = 1
    return guesses


def count_correct(guesses: ArrayLike, coins: ArrayLike) -> int:
    """How many guesses are right.

    Args:
        guesses: Shape ``(m,)``, as :func:`guess_coins` gives them.
        coins: Shape ``(m,)``.

    Raises:
        ConfigurationError: There are not as many of one as of the other.
    """
    made, true = np.asarray(guesses), np.asarray(coins, dtype=np.bool_)
    if made.shape != true.shape:
        raise ConfigurationError(f"guesses have shape {made.shape} and coins {true.shape}: one for each canary")
    return int(((made == 1) & true).sum() + ((made == -1) & ~true).sum())
