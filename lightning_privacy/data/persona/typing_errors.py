"""Errors of typing: a neighbouring key, a letter too few, one too many, two in the wrong order.

Example:
    >>> import numpy as np
    >>> mistype("Katharina", np.random.default_rng(1)) != "Katharina"
    True
"""

from __future__ import annotations

import numpy as np

__all__ = ["mistype"]

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS = {
    letter: row[max(place - 1, 0) : place] + row[place + 1 : place + 2]
    for row in _ROWS
    for place, letter in enumerate(row)
}
_TRIES = 8


def mistype(text: str, generator: np.random.Generator) -> str:
    """The text with one error of typing.

    Args:
        text: What should be typed.
        generator: Chooses place and kind of the error.

    Returns:
        Another text; the same only where no error would show, as in an empty one.
    """
    for _ in range(_TRIES):
        if not text:
            break
        # One draw for place and kind: this is called for every error there is.
        place, kind = divmod(int(generator.integers(0, len(text) * 4)), 4)
        mistyped = _KINDS[kind](text, place)
        if mistyped and mistyped != text:
            return mistyped
    return text


def _neighbour(text: str, place: int) -> str:
    letter = text[place]
    keys = _NEIGHBOURS.get(letter.lower(), "x")
    key = keys[place % len(keys)]
    return text[:place] + (key.upper() if letter.isupper() else key) + text[place + 1 :]


def _lost(text: str, place: int) -> str:
    return text[:place] + text[place + 1 :]


def _doubled(text: str, place: int) -> str:
    return text[: place + 1] + text[place:]


def _exchanged(text: str, place: int) -> str:
    return text[:place] + text[place : place + 2][::-1] + text[place + 2 :]


_KINDS = (_neighbour, _lost, _doubled, _exchanged)
