"""Normal variates from an AES-256-CTR keystream: the arithmetic behind :class:`NoiseSource`.

A normal variate costs one AES keystream and one Box-Muller transform (Box and Muller, "A Note on
the Generation of Random Normal Deviates", 1958): with ``u`` uniform on (0, 1) and ``a`` uniform
on (-pi, pi), ``sqrt(-2 ln u) cos a`` and ``sqrt(-2 ln u) sin a`` are two independent normals.

The variates come in *tiles* of ``TILE`` pairs. Tile ``k`` reads the keystream from a fixed offset,
so the value at a position depends on key, nonce and position only: not on how many values are
asked for, on the chunks they are computed in, or on the threads that compute them.

``u`` has 64 random bits in either precision, so the tail reaches ``sqrt(128 ln 2) = 9.4`` standard
deviations (32 bits would end it at 6.7); ``a`` has 32 bits in float32 and 64 in float64. In float64
cosine and sine come from the tangent ``t`` of half the angle, ``(1-t^2)/(1+t^2)`` and ``2t/(1+t^2)``:
of the three only the tangent is fast in NumPy's float64.

Example:
    >>> import numpy as np
    >>> out = np.empty(3, dtype=np.float32)
    >>> fill_normals(out, key=bytes(32), nonce=0, std=1.0)
    >>> longer = np.empty(5000, dtype=np.float32)
    >>> fill_normals(longer, key=bytes(32), nonce=0, std=1.0, threads=2)
    >>> bool((out == longer[:3]).all())
    True
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

__all__ = ["TILE", "fill_normals"]

TILE = 1024
"""Pairs of normals in a tile: a row long enough for vector instructions, short enough to waste."""

_CHUNK_TILES = 64  # tiles computed at once: enough that starting a cipher and the ufuncs costs little
_BLOCK = 16  # bytes of one AES block
_COUNTER_BITS = 48  # low bits of the counter block; the nonce takes the 80 above them
_MAX_THREADS = 4  # the cipher holds the interpreter lock, so more threads only wait for it
_SCALABLE = (1e-12, 1e12)  # standard deviations whose square is far from the float32 limits

_Floats = NDArray[np.floating[Any]]


class _Workspace:
    """Keystream and intermediate arrays of one thread and one precision, allocated once."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        single = dtype == np.float32
        angle = np.dtype(np.int32 if single else np.int64)
        radius_bytes, angle_bytes = 8 * TILE, angle.itemsize * TILE
        self.tile_bytes = radius_bytes + angle_bytes
        total = _CHUNK_TILES * self.tile_bytes
        self.zeros = _zeros(total)
        keystream = np.empty(total + _BLOCK, dtype=np.uint8)  # the cipher wants a block to spare
        self.keystream = keystream.data
        tiles = keystream[:total].reshape(_CHUNK_TILES, self.tile_bytes)
        self.radius_bits = tiles[:, :radius_bytes].view(np.int64)
        self.angle_bits = tiles[:, radius_bytes:].view(angle)
        self.radius, self.angle, self.cosine = (np.empty((_CHUNK_TILES, TILE), dtype) for _ in range(3))
        # A signed 64-bit word divided by 2**63 is uniform on (-1, 1); its absolute value is u.
        # The bounds keep ln(u) finite, and away from the 0 that rounding to 1 would make of it.
        self.to_unit = dtype.type(2.0**-63)
        self.lowest = dtype.type(2.0**-64)
        self.highest = dtype.type(1.0 - 2.0 ** (-24 if single else -53))
        # What the angle's word is multiplied by: the whole angle, or half of it for the tangent.
        self.to_angle = dtype.type(math.pi * 2.0 ** (-31 if single else -64))
        self.scalar = dtype.type
        self.single = single

    def compute(self, tiles: int, key: bytes, nonce: int, first_tile: int, variance: float) -> None:
        """Prepare radius, cosine and sine of ``tiles`` tiles from ``first_tile`` onwards."""
        length = tiles * self.tile_bytes
        counter = (nonce << _COUNTER_BITS) + first_tile * (self.tile_bytes // _BLOCK)
        cipher = Cipher(algorithms.AES(key), modes.CTR(counter.to_bytes(_BLOCK, "big"))).encryptor()
        cipher.update_into(self.zeros[:length], self.keystream[: length + _BLOCK])

        radius, angle, cosine = self.radius[:tiles], self.angle[:tiles], self.cosine[:tiles]
        np.copyto(radius, self.radius_bits[:tiles], casting="unsafe")
        np.multiply(radius, self.to_unit, out=radius)
        np.abs(radius, out=radius)
        np.clip(radius, self.lowest, self.highest, out=radius)
        np.log(radius, out=radius)
        np.multiply(radius, self.scalar(-2.0 * variance), out=radius)
        np.sqrt(radius, out=radius)
        np.copyto(angle, self.angle_bits[:tiles], casting="unsafe")
        np.multiply(angle, self.to_angle, out=angle)
        if self.single:
            np.cos(angle, out=cosine)
            np.sin(angle, out=angle)
        else:
            self._from_tangent(radius, angle, cosine)

    @staticmethod
    def _from_tangent(radius: _Floats, angle: _Floats, cosine: _Floats) -> None:
        """Cosine and sine of the doubled angles, but for the common 1 / (1 + t^2), which the radius takes."""
        tangent = np.tan(angle, out=angle)  # at most 1.7e16, as pi/2 is rounded down: its square is finite
        np.multiply(tangent, tangent, out=cosine)
        np.add(cosine, 1.0, out=cosine)
        np.divide(radius, cosine, out=radius)
        np.subtract(2.0, cosine, out=cosine)
        np.add(tangent, tangent, out=tangent)

    def write(self, out: _Floats) -> None:
        """Put the normals that were prepared into ``out`` of shape (tiles, 2, TILE)."""
        tiles = len(out)
        np.multiply(self.radius[:tiles], self.cosine[:tiles], out=out[:, 0])
        np.multiply(self.radius[:tiles], self.angle[:tiles], out=out[:, 1])


@cache
def _zeros(length: int) -> memoryview:
    """What is encrypted: read only, so that all threads share it."""
    return memoryview(bytes(length))


_local = threading.local()
_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


def _workspace(dtype: np.dtype[Any]) -> _Workspace:
    spaces: dict[str, _Workspace] = _local.__dict__.setdefault("spaces", {})
    space = spaces.get(dtype.name)
    if space is None:
        space = spaces[dtype.name] = _Workspace(dtype)
    return space


def _executor() -> ThreadPoolExecutor:
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(_MAX_THREADS - 1, thread_name_prefix="noise")
        return _pool


def _forget_threads() -> None:
    """A forked child has none of the parent's threads, and may have inherited a held lock."""
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


class _Call:
    """The chunks of one call, shared by the caller and its helpers.

    The caller never waits for a helper that the operating system does not run (torch's own threads
    go on spinning after an operation, so a free core may not be free): a chunk that a helper has begun
    and not delivered is computed again by the caller, and the helper's result is dropped. An error in a
    helper leaves its chunk undelivered, so the caller meets it too.
    """

    def __init__(self, out: _Floats, first_tile: int, key: bytes, nonce: int, variance: float) -> None:
        self._out = out
        self._first_tile = first_tile
        self._parameters = key, nonce, variance
        self._lock = threading.Lock()
        self._waiting = deque(range(0, len(out), _CHUNK_TILES))
        self._begun: set[int] = set()

    def _prepare(self, first: int) -> tuple[_Workspace, _Floats]:
        key, nonce, variance = self._parameters
        out = self._out[first : first + _CHUNK_TILES]
        space = _workspace(out.dtype)
        space.compute(len(out), key, nonce, self._first_tile + first, variance)
        return space, out

    def finish(self) -> None:
        """Compute what nobody has delivered; all chunks are written, once, when this returns."""
        while True:
            with self._lock:
                if self._waiting:
                    first = self._waiting.popleft()
                elif self._begun:
                    first = self._begun.pop()
                else:
                    return
            space, out = self._prepare(first)
            space.write(out)

    def help(self) -> None:
        """Take chunks off the caller as long as there are any."""
        while True:
            with self._lock:
                if not self._waiting:
                    return
                first = self._waiting.popleft()
                self._begun.add(first)
            space, out = self._prepare(first)
            with self._lock:  # the caller may have taken the chunk back, and returned the tensor
                if first in self._begun:
                    space.write(out)
                    self._begun.remove(first)


def fill_normals(out: _Floats, *, key: bytes, nonce: int, std: float, threads: int = 1, first_tile: int = 0) -> None:
    """Fill ``out`` with normals of mean 0 and standard deviation ``std``.

    Args:
        out: one-dimensional, contiguous, float32 or float64; at most 2**48 bytes of keystream.
        key: 32 bytes. One key must serve one precision only.
        nonce: 0 <= nonce < 2**80, not used before with this key unless the same values are wanted.
        std: finite and above 0.
        threads: upper limit of threads to compute with; the values do not depend on it.
        first_tile: ``out`` is what follows the first ``2 * TILE * first_tile`` values of the sequence.
    """
    inline = _SCALABLE[0] <= std <= _SCALABLE[1]
    variance = std * std if inline else 1.0
    whole = out.size // (2 * TILE)
    body = out[: whole * 2 * TILE].reshape(whole, 2, TILE)
    call = _Call(body, first_tile, key, nonce, variance)
    chunks = -(-whole // _CHUNK_TILES)
    for _ in range(min(threads, _MAX_THREADS, chunks) - 1):
        _executor().submit(call.help)
    call.finish()
    rest = out.size - body.size
    if rest:
        last = np.empty((1, 2, TILE), out.dtype)
        space = _workspace(out.dtype)
        space.compute(1, key, nonce, first_tile + whole, variance)
        space.write(last)
        out[body.size :] = last.reshape(-1)[:rest]
    if not inline:
        np.multiply(out, out.dtype.type(std), out=out)
