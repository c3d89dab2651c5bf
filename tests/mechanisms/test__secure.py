"""Noise on a grid and noise without gaps: what an observer of floating-point values can tell about their origin.

The attacks here decide between two origins of a released value by membership alone: a value that one origin can't
have produced came from the other, whatever epsilon says. Each attack is shown to work on the plain source first.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.mechanisms import NoiseSource, _normals, _secure
from lightning_privacy.mechanisms._normals import TILE, fill_normals
from lightning_privacy.mechanisms._secure import DRAWS, add_on_grid, fill_without_gaps, grid_spacing

KEY = bytes(range(32))
KEYS = [bytes([number]) * 32 for number in range(DRAWS)]
TYPES = [np.float32, np.float64]


def _plain(count, dtype=np.float32):
    out = np.empty(count, dtype)
    fill_normals(out, key=KEY, nonce=0, std=1.0)
    return out


def _without_gaps(count, dtype=np.float32, *, std=1.0, threads=1):
    out = np.full(count, np.nan, dtype)
    fill_without_gaps(out, keys=KEYS, nonce=0, std=std, threads=threads)
    return out


def _on_grid(values, *, std=1.0, nonce=0, threads=1):
    out = values.copy()
    add_on_grid(out, key=KEY, nonce=nonce, std=std, threads=threads)
    return out


def _possible(released, origin):
    """Which released float32 numbers are ``origin + n``, rounded, for some float32 ``n``."""
    guess = released - np.float32(origin)
    near = [guess, np.nextafter(guess, np.float32(np.inf)), np.nextafter(guess, np.float32(-np.inf))]
    return np.any([np.float32(origin) + n == released for n in near], axis=0)


def test_p29_low_bits_betray_the_origin_of_a_plain_sum_and_not_of_a_secure_one():
    """Rounding of the addition: values near 0 keep bits that no sum with 1 has (Haney et al., 2022)."""
    zeros, ones = np.zeros(100_000, np.float32), np.ones(100_000, np.float32)
    plain = zeros + _plain(100_000), ones + _plain(100_000)
    assert _possible(plain[0], 0).all()
    assert _possible(plain[1], 1).all()
    assert (~_possible(plain[0], 1)).mean() > 0.15, "the attack tells a sixth of the zeros from ones with certainty"
    gapless = zeros + _without_gaps(100_000)
    assert (~_possible(gapless, 1)).mean() > 0.15, "noise alone can't help it: the docstring says so"
    secure = _on_grid(zeros), _on_grid(ones)
    for released in secure:
        assert _possible(released, 0).all()
        assert _possible(released, 1).all()
        assert (released % grid_spacing(1.0) == 0).all()
        assert not np.signbit(released[released == 0]).any(), "the sign of a zero halves its cell"


def _around(value, count):
    values, low, high = [value], value, value
    for _ in range(count):
        low, high = (np.nextafter(v, value.dtype.type(end)) for v, end in ((low, -np.inf), (high, np.inf)))
        values += [low, high]
    return values


def _preimages(first, second):
    """Which pairs are Box-Muller of some radius and angle: those next to the ones real arithmetic gives."""
    dtype = first.dtype
    radius = np.hypot(first.astype(np.float64), second).astype(dtype)
    angle = np.arctan2(second.astype(np.float64), first.astype(np.float64))
    hit = np.zeros(len(first), bool)
    for turn in _around((angle if dtype == np.float32 else angle / 2).astype(dtype), 3):
        if dtype == np.float32:
            parts = [(length * np.cos(turn), length * np.sin(turn)) for length in _around(radius, 3)]
        else:
            tangent = np.tan(turn)
            square = tangent * tangent + 1
            parts = [(w * (2 - square), w * (tangent + tangent)) for w in (r / square for r in _around(radius, 3))]
        for cosine, sine in parts:
            hit |= (cosine == first) & (sine == second)
    return hit.mean()


@pytest.mark.parametrize(("dtype", "shift"), [(np.float32, 3 * 2.0**-12), (np.float64, 3 * 2.0**-40)])
def test_p29_pairs_of_plain_noise_have_preimages_that_shifted_ones_lack(dtype, shift):
    """Membership in the support of Box-Muller at full resolution (Jin et al., 2022), 8,192 pairs.

    A shift so small that the addition rounds little: what tells the origins apart is the generator. For the
    secure source the two rates differ by less than 5 standard errors, which fails with probability 6e-7.
    """
    count = 8192
    shift = dtype(shift)

    def rates(values):
        pairs = values.reshape(-1, 2, TILE)
        first, second = pairs[:, 0].ravel(), pairs[:, 1].ravel()
        return _preimages(first, second), _preimages(first + shift, second + shift)

    unshifted, shifted = rates(_plain(2 * count, dtype))
    assert unshifted > 0.999
    assert shifted < 0.4, "the attack excludes the wrong origin for most pairs"
    unshifted, shifted = rates(_without_gaps(2 * count, dtype))
    assert abs(unshifted - shifted) < 5 * math.sqrt(2 * 0.25 / count)


class _CoarseCipher:
    """A keystream with ten random bits in each word, every combination of which comes once in 2**20 pairs."""

    def __init__(self, _, mode):
        self._counter = int.from_bytes(mode.nonce, "big") & (2**48 - 1)

    def encryptor(self):
        return self

    def update_into(self, data, out):
        double = len(data) % (16 * TILE) == 0 and self.double
        word = 8 if double else 4
        tile_bytes = (8 + word) * TILE
        first = self._counter * 16 // tile_bytes * TILE
        pairs = np.arange(first, first + len(data) // tile_bytes * TILE).reshape(-1, TILE)
        view = np.frombuffer(out, np.uint8, len(data)).reshape(-1, tile_bytes)
        view[:, : 8 * TILE].view(np.int64)[:] = (2 * (pairs >> 10) + 1) << 52
        turns = (2 * (pairs & 1023) + 1) - 1024
        view[:, 8 * TILE :].view(np.int64 if double else np.int32)[:] = turns << (53 if double else 21)


def test_p29_reachable_values_identify_the_origin_of_plain_noise_and_not_of_secure_noise(monkeypatch):
    """The whole support, enumerated at a small resolution (Mironov, 2012)."""
    monkeypatch.setattr(_normals, "Cipher", _CoarseCipher)
    count, shift = 2**21, np.float32(0.3)
    monkeypatch.setattr(_CoarseCipher, "double", False, raising=False)
    plain = _plain(count)
    support = np.unique(plain)
    assert np.isin(plain + shift, support).mean() < 0.15, "nine in ten shifted values are in no unshifted support"
    monkeypatch.setattr(_CoarseCipher, "double", True)
    unshifted, shifted = _on_grid(np.zeros(count, np.float32)), _on_grid(np.full(count, shift))
    inside = np.isin(shifted, np.unique(unshifted)).mean()
    assert inside > 0.995, "only the ends of a range that ten bits cut at 3.9 standard deviations tell"


@pytest.mark.parametrize("origin", [0.0, 0.1234567, 1000.3])
@pytest.mark.parametrize("dtype", TYPES)
def test_sums_have_the_law_of_a_rounded_gaussian(origin, dtype):
    """Chi-squared over the cells of 1,000,000 sums, and two moments; each fails with probability below 1e-6.

    The tails beyond 2.5 standard deviations are one cell each. Noise 1% too large is off by 14 standard errors.
    """
    count, std = 1_000_000, 0.7
    spacing = grid_spacing(std)
    values = np.full(count, origin, dtype)
    released = _on_grid(values, std=std)
    cells = np.round(released.astype(np.float64) / spacing)
    assert (cells * spacing == released).all()
    centre = float(values[0])
    lowest, highest = (math.floor((centre + side * 2.5 * std) / spacing) for side in (-1, 1))
    edges = (np.arange(lowest, highest + 1) + 0.5) * spacing
    expected = np.diff(stats.norm(centre, std).cdf(np.concatenate([[-np.inf], edges, [np.inf]]))) * count
    observed = np.bincount(np.searchsorted(edges, released), minlength=len(expected))
    assert expected.min() > 30
    assert stats.chisquare(observed, expected * (count / expected.sum())).pvalue > 1e-6
    noise = (released.astype(np.float64) - centre) / std
    assert abs(noise.mean()) < 5 / math.sqrt(count)
    assert abs(noise.var() - 1.0) < 5 * math.sqrt(2 / count)


@pytest.mark.parametrize("dtype", TYPES)
def test_noise_without_gaps_is_normal(dtype):
    """Kolmogorov-Smirnov and moments at n = 400,000, each with error probability below 1e-6 for fresh keys."""
    count = 400_000
    values = _without_gaps(count, dtype, std=3.0).astype(np.float64) / 3.0
    assert stats.kstest(values, "norm").pvalue > 1e-6
    assert abs(values.mean()) < 5 / math.sqrt(count)
    assert abs(values.var() - 1.0) < 5 * math.sqrt(2 / count)
    assert abs((values**3).mean()) < 5 * math.sqrt(15 / count)
    assert abs((values**4).mean() - 3.0) < 5 * math.sqrt(96 / count)
    assert abs(np.corrcoef(values[:-TILE], values[TILE:])[0, 1]) < 5 / math.sqrt(count - TILE)


def test_each_sum_is_the_nearest_multiple_of_exact_arithmetic():
    """Against fractions: only sums within 1e-12 cells of a boundary may go either way."""
    values = np.linspace(-300, 300, 2000).astype(np.float32)
    noise = np.empty(2000)
    fill_normals(noise, key=KEY, nonce=5, std=0.9)
    spacing = Fraction(grid_spacing(0.9))
    for value, n, released in zip(values, noise, _on_grid(values, std=0.9, nonce=5), strict=True):
        cell = (Fraction(float(value)) + Fraction(float(n))) / spacing
        assert abs(Fraction(float(released)) / spacing - cell) <= Fraction(1, 2) + Fraction(1, 10**12)


@pytest.mark.parametrize(
    ("std", "spacing"), [(1.0, 2.0**-8), (0.999, 2.0**-9), (1.999, 2.0**-8), (3e-20, 2.0**-73), (2.0**-900, 2.0**-908)]
)
def test_cell_is_a_power_of_two_just_below_a_256th_of_the_deviation(std, spacing):
    assert grid_spacing(std) == spacing
    assert std / 512 < spacing <= std / 256


@pytest.mark.parametrize("std", [1e-300, 1e300])
def test_deviations_without_a_grid_are_refused(std):
    with pytest.raises(ConfigurationError, match=r"std must be between .* for secure noise, got 1e[-+]300"):
        NoiseSource(secure=True).add_(torch.zeros(3), std=std, step=0)


@pytest.mark.parametrize("dtype", TYPES)
def test_values_depend_on_position_not_on_blocks_length_or_threads(dtype, monkeypatch):
    count = 2 * TILE * 5 + 77
    sums, noise = _on_grid(np.ones(count, dtype), threads=3), _without_gaps(count, dtype, threads=3)
    monkeypatch.setattr(_secure, "_BLOCK_TILES", 2)
    np.testing.assert_array_equal(_on_grid(np.ones(count, dtype)), sums)
    np.testing.assert_array_equal(_without_gaps(count, dtype), noise)
    np.testing.assert_array_equal(_on_grid(np.ones(300, dtype)), sums[:300])


def test_all_draws_enter_a_double():
    base = _without_gaps(100, np.float64)
    for number in range(DRAWS):
        keys = [KEY if position == number else key for position, key in enumerate(KEYS)]
        other = np.empty(100)
        fill_without_gaps(other, keys=keys, nonce=0, std=1.0)
        assert (other != base).all()
