"""The one source of randomness behind every noisy release.

Differential privacy holds only as long as nobody can predict the noise. ``NoiseSource()`` therefore
takes its key from the operating system and turns it into noise with AES-256 in counter mode, a
cryptographic generator: no number that was seen tells anything about one that was not, and neither
``torch.manual_seed`` nor ``seed_everything`` reaches it. ``NoiseSource(seed)`` is for tests and
debugging: the noise can be computed by anyone who knows the seed, so the run is not private, and
the source says so in a warning and in :attr:`NoiseSource.caveat`.

What is not covered: the guarantee is proved for real numbers, and floating-point normals are a
grid with gaps (Mironov, "On Significance of the Least Significant Bits For Differential Privacy",
2012). The low bits of a noisy value can say more about it than epsilon allows; don't publish single
noisy sums at full precision where an adversary would look at them.

Example:
    >>> import torch
    >>> noise = NoiseSource()
    >>> noise.seeded
    False
    >>> noise.normal_(torch.empty(3, 2), std=0.5, step=0).shape
    torch.Size([3, 2])
"""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from torch import Tensor

from lightning_privacy._validate import non_negative, non_negative_int
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.mechanisms._normals import fill_normals

__all__ = ["NoiseSource", "SeededNoiseWarning"]

_STEP_BITS = 48
_STREAM_BITS = 32  # together the 80 bits of nonce that the keystream leaves
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


class SeededNoiseWarning(UserWarning):
    """A noise source was given a seed: the run is reproducible and therefore not private."""


def _derive(seed: int, purpose: str, length: int) -> bytes:
    """Bytes that depend on ``seed`` and ``purpose`` only (HKDF, RFC 5869)."""
    material = seed.to_bytes(max(1, (seed.bit_length() + 7) // 8), "big")
    info = b"lightning_privacy noise: " + purpose.encode()
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=None, info=info).derive(material)


class NoiseSource:
    """Normal noise that is unpredictable, or with a seed reproducible and not private.

    On the CPU both kinds draw from AES-256-CTR. On any other device the noise comes from that
    device's ``torch.Generator`` (Philox on CUDA), seeded with 63 bits from the operating system
    or, with a seed, derived from (seed, step, stream). The device generator is fast but *not*
    cryptographic: an adversary who sees enough of its raw output can predict the rest.

    A copy, an unpickled source or the child of a fork never repeats the noise of the original:
    an unseeded source takes a new key there. A seeded one keeps its seed, as its purpose is to
    repeat. Drawing is safe from several threads.

    Args:
        seed: None for a key from the operating system; a whole number >= 0 for a reproducible run.

    Raises:
        ConfigurationError: ``seed`` is not a whole number >= 0.

    Warns:
        SeededNoiseWarning: a seed was passed.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore", SeededNoiseWarning)
        ...     first, second = NoiseSource(seed=7), NoiseSource(seed=7)
        >>> a, b = (source.normals(4, std=1.0, step=3) for source in (first, second))
        >>> bool((a == b).all())
        True
        >>> first.caveat
        'The noise was drawn from a fixed seed: whoever knows the seed can remove it. NOT PRIVATE.'
    """

    def __init__(self, seed: int | None = None) -> None:
        self._seed = None if seed is None else non_negative_int(seed=seed)
        if self._seed is not None:
            warnings.warn(
                "NoiseSource was given a seed: the run is reproducible and therefore NOT PRIVATE, whatever "
                "epsilon is reported; leave seed=None for a run whose guarantee must hold",
                SeededNoiseWarning,
                stacklevel=2,
            )
        self._rekey()

    def _rekey(self) -> None:
        """Take new keys: from the operating system, or the same ones again when seeded."""
        self._process = (os.getpid(), _forks)
        self._calls = itertools.count()
        self._lock = threading.Lock()
        self._generators: dict[torch.device, torch.Generator] = {}
        self._keys = {dtype: self._secret(f"normals {dtype}", 32) for dtype in (torch.float32, torch.float64)}

    def _secret(self, purpose: str, length: int) -> bytes:
        return os.urandom(length) if self._seed is None else _derive(self._seed, purpose, length)

    @property
    def seed(self) -> int | None:
        """The seed that was passed, or None."""
        return self._seed

    @property
    def seeded(self) -> bool:
        """Whether the noise is reproducible, and the run therefore not private."""
        return self._seed is not None

    @property
    def caveat(self) -> str | None:
        """The sentence a ledger shows about this source; None when there is nothing to say."""
        if self._seed is None:
            return None
        return "The noise was drawn from a fixed seed: whoever knows the seed can remove it. NOT PRIVATE."

    def normal_(self, tensor: Tensor, *, std: float, step: int, stream: int = 0) -> Tensor:
        """Fill ``tensor`` in place with independent normals of mean 0 and return it.

        A seeded source gives, on the CPU, values that depend on (seed, step, stream), the precision
        and the position in row-major order only; on another device they also depend on its
        generator and the tensor's size. An unseeded source gives new noise at every call.

        Args:
            tensor: floating point, any shape, layout in memory and device. Half precisions are
                drawn in float32 and rounded. Autograd does not record the filling.
            std: the standard deviation, finite and >= 0; with 0 the tensor is exactly zero.
            step: the step the noise is for, 0 <= step < 2**48.
            stream: tells apart draws of one step, 0 <= stream < 2**32.

        Raises:
            ConfigurationError: an argument is out of range, or ``tensor`` is not floating point.
        """
        std = non_negative(std=std)
        nonce = non_negative_int(step=step, bits=_STEP_BITS) << _STREAM_BITS
        nonce |= non_negative_int(stream=stream, bits=_STREAM_BITS)
        if tensor.dtype not in _DTYPES:
            raise ConfigurationError(f"tensor must be a floating-point tensor, got dtype {tensor.dtype}")
        with torch.no_grad():
            if std == 0.0 or tensor.numel() == 0:
                return tensor.zero_()
            if tensor.device.type != "cpu":
                return tensor.normal_(0.0, std, generator=self._generator(tensor.device, nonce))
            self._fill(tensor, std, nonce)
        return tensor

    def normals(
        self,
        shape: int | Sequence[int],
        *,
        std: float,
        step: int,
        stream: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Return a new tensor of ``shape`` filled as by :meth:`normal_`.

        Args:
            shape: number of elements, or a shape.
            std: as in :meth:`normal_`.
            step: as in :meth:`normal_`.
            stream: as in :meth:`normal_`.
            dtype: a floating-point type.
            device: where the tensor lives.

        Raises:
            ConfigurationError: as in :meth:`normal_`.
        """
        size = tuple(shape) if isinstance(shape, Sequence) else (int(shape),)
        return self.normal_(torch.empty(size, dtype=dtype, device=device), std=std, step=step, stream=stream)

    def bernoulli_seed(self, purpose: str) -> int:
        """Return 128 bits to seed a sampler with: from (seed, purpose), or new from the system.

        Args:
            purpose: names the use, so that two uses of one seeded source get unrelated seeds.
        """
        return int.from_bytes(self._secret(f"seed for {purpose}", 16), "big")

    def state_dict(self) -> dict[str, int]:
        """The seed, if one was passed; otherwise nothing, as a saved key would reveal the noise."""
        return {} if self._seed is None else {"seed": self._seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Check that ``state`` continues the same noise; there is nothing else to restore.

        The values of a seeded source follow from the step, and an unseeded one starts anew, so
        that nothing a checkpoint holds says anything about the noise.

        Raises:
            CheckpointError: both have seeds and they differ.
        """
        saved = state.get("seed")
        if self._seed is not None and saved is not None and saved != self._seed:
            raise CheckpointError(
                f"the checkpoint's noise has seed {saved}, this source has seed {self._seed}: pass the same "
                "seed to repeat the run, or none to continue it with unpredictable noise"
            )

    def _ensure_own_process(self) -> None:
        if self._process != (os.getpid(), _forks):
            self._rekey()

    def _fill(self, tensor: Tensor, std: float, nonce: int) -> None:
        self._ensure_own_process()
        double = tensor.dtype == torch.float64
        key = self._keys[torch.float64 if double else torch.float32]
        if self._seed is None:
            nonce = next(self._calls)
        direct = tensor.is_contiguous() and tensor.dtype in self._keys
        if direct:
            values = tensor.detach().numpy().reshape(-1)
        else:
            values = np.empty(tensor.numel(), np.float64 if double else np.float32)
        fill_normals(values, key=key, nonce=nonce, std=std, threads=torch.get_num_threads())
        if not direct:
            tensor.copy_(torch.from_numpy(values).view(tensor.shape))
        elif not tensor.is_inference():
            torch.autograd.graph.increment_version(tensor)  # NumPy wrote where autograd does not look

    def _generator(self, device: torch.device, nonce: int) -> torch.Generator:
        self._ensure_own_process()
        with self._lock:
            generator = self._generators.get(device)
            if generator is None:
                generator = self._generators[device] = torch.Generator(device)
                generator.manual_seed(int.from_bytes(os.urandom(8), "big") >> 1)
            if self._seed is not None:
                call = b"device" + nonce.to_bytes((_STEP_BITS + _STREAM_BITS) // 8, "big")
                digest = hashlib.sha256(self._keys[torch.float32] + call).digest()
                generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
            return generator

    def __getstate__(self) -> dict[str, int | None]:
        return {"seed": self._seed}

    def __setstate__(self, state: dict[str, int | None]) -> None:
        self._seed = state["seed"]
        self._rekey()

    def __repr__(self) -> str:
        return f"NoiseSource(seed={self._seed})"
