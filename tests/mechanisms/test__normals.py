"""The keystream-to-normals arithmetic, against scalar Python and against the normal distribution."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lightning_privacy.mechanisms import _normals
from lightning_privacy.mechanisms._normals import TILE, fill_normals

KEY = bytes(range(32))
TYPES = [np.float32, np.float64]


def _filled(count, dtype=np.float32, *, nonce=0, std=1.0, threads=1, key=KEY):
    out = np.full(count, np.nan, dtype)
    fill_normals(out, key=key, nonce=nonce, std=std, threads=threads)
    return out


def _reference(position, *, single, nonce, std):
    """One normal, from the documented layout with plain integers and ``math``."""
    tile, inside = divmod(position, 2 * TILE)
    half, column = divmod(inside, TILE)
    word = 4 if single else 8
    tile_bytes = (8 + word) * TILE
    counter = (nonce << 48) + tile * tile_bytes // 16
    cipher = Cipher(algorithms.AES(KEY), modes.CTR(counter.to_bytes(16, "big"))).encryptor()
    stream = cipher.update(bytes(tile_bytes))
    radius_bits = int.from_bytes(stream[8 * column : 8 * column + 8], "little", signed=True)
    start = 8 * TILE + word * column
    angle_bits = int.from_bytes(stream[start : start + word], "little", signed=True)
    radius = std * math.sqrt(-2.0 * math.log(abs(radius_bits) / 2**63))
    angle = math.pi * angle_bits / 2 ** (8 * word - 1)
    return radius * (math.sin(angle) if half else math.cos(angle))


@pytest.mark.parametrize("dtype", TYPES)
def test_values_are_box_muller_of_the_keystream(dtype):
    single = dtype == np.float32
    count = 2 * TILE * 130 + 1500  # more than two chunks, and a last tile that is cut
    values = _filled(count, dtype, nonce=9, std=0.7)
    positions = [0, 1, TILE - 1, TILE, 2 * TILE - 1, 2 * TILE, 128 * 1024, 131072, 200_001, count - 1]
    expected = [_reference(p, single=single, nonce=9, std=0.7) for p in positions]
    np.testing.assert_allclose(values[positions], expected, rtol=0, atol=4e-6 if single else 1e-12)


@pytest.mark.parametrize("dtype", TYPES)
def test_distribution_is_normal(dtype):
    """Kolmogorov-Smirnov and four moments at n = 1,000,000; fixed key, so the outcome is fixed.

    For a fresh key each of the five checks would fail with probability below 1e-6: KS by its p-value,
    the moments at 5 standard errors. A standard deviation 1% off fails, as 5 standard errors are 0.35%.
    """
    count = 1_000_000
    values = _filled(count, dtype).astype(np.float64)
    assert stats.kstest(values, "norm").pvalue > 1e-6
    assert abs(values.mean()) < 5 / math.sqrt(count)
    assert abs(values.std() - 1.0) < 5 * math.sqrt(0.5 / count)
    assert abs((values**3).mean()) < 5 * math.sqrt(15 / count)
    assert abs((values**4).mean() - 3.0) < 5 * math.sqrt(96 / count)


@pytest.mark.parametrize("bound", [3.0, 4.0, 4.5])
def test_tails_have_their_weight(bound):
    """Counts beyond the bound among 4,000,000 values; error probability below 1e-6 for a fresh key."""
    count = 4_000_000
    beyond = int((np.abs(_filled(count, key=bytes(32))) > bound).sum())
    expected = 2 * stats.norm.sf(bound)
    low, high = stats.binom.ppf([5e-7, 1 - 5e-7], count, expected)
    assert low <= beyond <= high


def test_halves_of_a_pair_are_uncorrelated():
    """Correlations of values and of squares at lags 1, TILE and 2 TILE, each at 5 standard errors."""
    values = _filled(1_000_000).astype(np.float64)
    for lag in (1, TILE, 2 * TILE):
        left, right = values[:-lag], values[lag:]
        assert abs(np.corrcoef(left, right)[0, 1]) < 5 / math.sqrt(len(left))
        assert abs(np.corrcoef(left**2, right**2)[0, 1]) < 5 / math.sqrt(len(left))


@pytest.mark.parametrize(
    ("dtype", "word", "radius"),
    [
        (np.float32, 0, math.sqrt(128 * math.log(2))),
        (np.float64, 0, math.sqrt(128 * math.log(2))),
        (np.float32, -(2**63), math.sqrt(2 * 2.0**-24)),
        (np.float64, -(2**63), math.sqrt(2 * 2.0**-53)),
        (np.float32, 3, math.sqrt(-2 * math.log(3 / 2**63))),
    ],
)
def test_tail_reaches_nine_sigma_and_is_never_infinite_or_zero(dtype, word, radius, monkeypatch):
    """The extreme words of the keystream, which no test would ever meet by drawing."""

    class Constant:
        def __init__(self, *_):
            pass

        def encryptor(self):
            return self

        def update_into(self, data, out):
            view = np.frombuffer(out, np.uint8, len(data))
            view[:] = 0
            view.reshape(-1, 8 * TILE + np.dtype(dtype).itemsize * TILE)[:, : 8 * TILE].view(np.int64)[:] = word

    monkeypatch.setattr(_normals, "Cipher", Constant)
    assert _filled(1, dtype)[0] == pytest.approx(radius, rel=1e-6)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("eighths", range(-4, 4))
def test_direction_is_right_where_the_tangent_is_extreme(eighths, dtype, monkeypatch):
    """Multiples of 45 degrees; at 180 the tangent of half the angle is 1.6e16."""

    class Turned:
        def __init__(self, *_):
            pass

        def encryptor(self):
            return self

        def update_into(self, data, out):
            word = np.dtype(dtype).itemsize
            rows = np.frombuffer(out, np.uint8, len(data)).reshape(-1, (8 + word) * TILE)
            rows[:, : 8 * TILE].view(np.int64)[:] = 2**62
            rows[:, 8 * TILE :].view(f"i{word}")[:] = eighths * 2 ** (8 * word - 3)

    monkeypatch.setattr(_normals, "Cipher", Turned)
    radius, angle = math.sqrt(2 * math.log(2)), eighths * math.pi / 4
    tolerance = 4e-7 if dtype == np.float32 else 4e-16
    values = _filled(2 * TILE, dtype)[[0, TILE]]
    np.testing.assert_allclose(values, [radius * math.cos(angle), radius * math.sin(angle)], rtol=0, atol=tolerance)


@settings(max_examples=60, deadline=None)
@given(
    first=st.integers(1, 70 * 2 * TILE),
    second=st.integers(1, 70 * 2 * TILE),
    threads=st.integers(1, 4),
    dtype=st.sampled_from(TYPES),
)
def test_value_depends_on_position_not_on_length_or_threads(first, second, threads, dtype):
    short, long = sorted((first, second))
    np.testing.assert_array_equal(_filled(short, dtype), _filled(long, dtype, threads=threads)[:short])


def test_a_helper_that_is_late_is_neither_waited_for_nor_heard(monkeypatch):
    """Its chunk is computed by the caller; what it delivers after the return must not be written."""
    expected = _filled(1_000_000)
    caller, go_on, late = threading.current_thread(), threading.Event(), threading.Semaphore(0)
    compute, calls_of_help = _normals._Workspace.compute, _normals._Call.help

    def stalled(self, *arguments):
        compute(self, *arguments)
        if threading.current_thread() is not caller:
            assert go_on.wait(60)

    def signalling(self):
        calls_of_help(self)
        late.release()

    monkeypatch.setattr(_normals._Workspace, "compute", stalled)
    monkeypatch.setattr(_normals._Call, "help", signalling)
    out = np.full(1_000_000, np.nan, np.float32)
    fill_normals(out, key=KEY, nonce=0, std=1.0, threads=3)
    np.testing.assert_array_equal(out, expected)
    out[:] = 0
    go_on.set()
    assert late.acquire(timeout=60)
    assert late.acquire(timeout=60)
    assert not out.any()


def test_helpers_do_deliver(monkeypatch):
    """With a caller that waits, the helpers compute every chunk, and the values are the same."""
    count = 2 * TILE * _normals._CHUNK_TILES * 7
    expected = _filled(count)
    finish, calls_of_help, helped = _normals._Call.finish, _normals._Call.help, threading.Event()
    monkeypatch.setattr(_normals._Call, "help", lambda self: (calls_of_help(self), helped.set()))
    monkeypatch.setattr(_normals._Call, "finish", lambda self: (helped.wait(60), finish(self)))
    np.testing.assert_array_equal(_filled(count, threads=2), expected)


@pytest.mark.parametrize("chunk", [1, 7, 300])
def test_value_does_not_depend_on_the_chunk(chunk, monkeypatch):
    expected = _filled(500_000)
    monkeypatch.setattr(_normals, "_CHUNK_TILES", chunk)
    monkeypatch.setattr(_normals, "_local", type(_normals._local)())
    np.testing.assert_array_equal(_filled(500_000, threads=1), expected)


def test_threads_share_the_chunks_without_loss():
    count = 2 * TILE * 64 * 9 + 77
    np.testing.assert_array_equal(_filled(count, threads=4), _filled(count))


def test_nonces_and_keys_give_unrelated_values():
    """Correlation at 5 standard errors: probability 6e-7 for a fresh key."""
    base = _filled(100_000)
    for other in (_filled(100_000, nonce=1), _filled(100_000, nonce=2**79), _filled(100_000, key=bytes(32))):
        assert not (base == other).any()
        assert abs(np.corrcoef(base, other)[0, 1]) < 5 / math.sqrt(100_000)


@pytest.mark.parametrize("std", [1e-30, 1e-13, 1e13, 1e30])
def test_extreme_scales_neither_vanish_nor_overflow(std):
    np.testing.assert_allclose(_filled(5000, std=std), _filled(5000) * np.float32(std), rtol=1e-6)
