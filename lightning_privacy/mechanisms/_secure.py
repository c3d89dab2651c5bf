"""Noise whose floating-point representation says nothing: the arithmetic behind ``NoiseSource(secure=True)``.

**The leak.** Which floating-point numbers ``x + n`` can be depends on ``x``, so an observer may rule values of
``x`` out with certainty, whatever epsilon says: because the generator reaches only some values of ``n`` (Mironov,
"On Significance of the Least Significant Bits For Differential Privacy", 2012; Jin et al., "Are We There Yet? Timing
and Floating-Point Attacks on Differential Privacy Systems", 2022), and because adding ``x`` to any ``n`` rounds off
more low bits the larger ``x`` is (Haney et al., "Precision-based attacks and interval refining", 2022). Adding up
several draws (Holohan and Braghin, "Secure Random Sampling in Differential Privacy", 2021) answers the first and not
the second: ``1 + n`` is a multiple of 2**-24 wherever it lies in (-0.5, 0.5), and ``0 + n`` hardly ever is.

**The release.** :func:`add_on_grid` answers both. It computes ``y = g * round((x + n) / g)`` with ``n`` and the sum in
float64 and ``g`` the power of two in (std/512, std/256]. Every step is non-decreasing in ``n``, so ``y`` is released
exactly if ``n`` falls in an interval, which differs from the one that real arithmetic would give by the rounding
errors at its two ends. Each multiple of ``g`` can come out for each ``x``; its probability is that of the Gaussian
mechanism followed by rounding, which is post-processing, up to a small relative error.

**How small.** Write ``r`` for the radius of the Box-Muller pair in standard deviations. Function by function, ``n``
is off by at most about ``2**-49 r`` of them (64-bit words, float64, a few units in the last place for each of log,
square root, tangent and quotient), and the sum by ``2**-53 |x + n|``, which is less for sums up to 16 standard
deviations. Against cells of 2**-9 that is a relative error of at most ``2**-39 r`` and, as ``E[r^2] = 2``, a
Kullback-Leibler divergence of at most 2**-77 for a value. Divergences add up: for 2**32 values (a million parameters,
4,096 steps) it is 2**-45, and by Pinsker's inequality all that was released together is within 2**-23 = 1.2e-7 in
total variation of what the theory assumes. It grows with the square root of the number of values. Beyond
``r = 9.4``, which has probability 2**-64, there are no values. The error count of NumPy's functions is the one
assumption here besides AES.

The cost in accuracy is ``g**2 / 12``, below 1.3e-6 of the noise's variance.

Example:
    >>> import numpy as np
    >>> total = np.array([3.0, 0.1, -1e-9], dtype=np.float32)
    >>> add_on_grid(total, key=bytes(32), nonce=0, std=1.0)
    >>> bool((total % grid_spacing(1.0) == 0).all())
    True
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.mechanisms._normals import TILE, fill_normals

__all__ = ["DRAWS", "add_on_grid", "fill_without_gaps", "grid_spacing"]

DRAWS = 4
"""Draws behind one float64 value of :func:`fill_without_gaps`, each with a key of its own."""

_GRID_BITS = 8  # a cell is at most 2**-8 standard deviations wide
_LEAST, _LARGEST = 2.0**-900, 2.0**900  # the grid and its inverse stay far from the limits of float64
_BLOCK_TILES = 128  # values are worked on 2 MB at a time, whatever the size of the tensor

_Floats = NDArray[np.floating[Any]]


def grid_spacing(std: float) -> float:
    """Return the width of a cell: the largest power of two that is at most ``std / 256``.

    Args:
        std: standard deviation of the noise, between 2**-900 and 2**900.

    Raises:
        ConfigurationError: ``std`` is out of that range.
    """
    if not _LEAST <= std <= _LARGEST:
        raise ConfigurationError(
            f"std must be between {_LEAST:.1e} and {_LARGEST:.1e} for secure noise, got {std!r}: rescale the values"
        )
    return math.ldexp(1.0, math.frexp(std)[1] - 1 - _GRID_BITS)


def add_on_grid(values: _Floats, *, key: bytes, nonce: int, std: float, threads: int = 1) -> None:
    """Add normals to ``values`` in place and round each sum to a multiple of ``grid_spacing(std)``.

    What is stored is a function of that multiple: where ``values`` has too few bits for it, it is rounded again.

    Args:
        values: one-dimensional, contiguous, float32 or float64.
        key: 32 bytes, for this use only.
        nonce: as in :func:`fill_normals`.
        std: as in :func:`grid_spacing`.
        threads: upper limit of threads to compute with; the result does not depend on it.

    Raises:
        ConfigurationError: ``std`` is out of range.
    """
    spacing = grid_spacing(std)
    for block, sums in _blocks(values, [key], nonce, std, threads):
        np.add(sums, block, out=sums)
        np.multiply(sums, 1.0 / spacing, out=sums)
        np.rint(sums, out=sums)
        np.multiply(sums, spacing, out=sums)
        np.add(sums, 0.0, out=block, casting="same_kind")  # -0.0 becomes 0.0: its sign is not part of the cell


def fill_without_gaps(out: _Floats, *, keys: Sequence[bytes], nonce: int, std: float, threads: int = 1) -> None:
    """Fill ``out`` with normals that reach every floating-point number of their range.

    In float32 that takes one draw, made in float64 and rounded: each float32 above 2**-24 standard deviations stands
    for several values of the draw, a pair of them for more than 2**50 pairs. In float64 the draw itself has gaps, so
    ``DRAWS`` of them are added and halved: a sum that was seen is met by so many combinations that looking for one is
    hopeless (Holohan and Braghin, 2021, section 5.1).

    Args:
        out: one-dimensional, contiguous, float32 or float64.
        keys: ``DRAWS`` keys of 32 bytes, for this use only.
        nonce: as in :func:`fill_normals`.
        std: finite and above 0.
        threads: upper limit of threads to compute with; the values do not depend on it.
    """
    needed = keys[: 1 if out.dtype == np.float32 else DRAWS]
    for block, sums in _blocks(out, needed, nonce, std / math.sqrt(len(needed)), threads):
        np.copyto(block, sums, casting="same_kind")


def _blocks(
    values: _Floats, keys: Sequence[bytes], nonce: int, std: float, threads: int
) -> Iterator[tuple[_Floats, NDArray[np.float64]]]:
    """Yield ``values`` piece by piece, each with the sum of the keys' normals in float64."""
    length = 2 * TILE * _BLOCK_TILES
    total = np.empty(min(length, values.size), np.float64)
    draw = np.empty_like(total) if len(keys) > 1 else total
    for start in range(0, values.size, length):
        block = values[start : start + length]
        for number, key in enumerate(keys):
            target = (draw if number else total)[: block.size]
            first_tile = start // (2 * TILE)
            fill_normals(target, key=key, nonce=nonce, std=std, threads=threads, first_tile=first_tile)
            if number:
                np.add(total[: block.size], target, out=total[: block.size])
        yield block, total[: block.size]
