"""The one source of randomness behind every noisy release.

Differential privacy holds only as long as nobody can predict the noise. ``NoiseSource()`` therefore
takes its key from the operating system and turns it into noise with AES-256 in counter mode, a
cryptographic generator: no number that was seen tells anything about one that was not, and neither
``torch.manual_seed`` nor ``seed_everything`` reaches it. ``NoiseSource(seed)`` is for tests and
debugging: the noise can be computed by anyone who knows the seed, so the run is not private, and
the source says so in a warning and in :attr:`NoiseSource.caveat`.

The guarantee is proved for real numbers, and floating-point normals are a grid with gaps (Mironov, "On
Significance of the Least Significant Bits For Differential Privacy", 2012): the low bits of a noisy
value can say more about it than epsilon allows. ``NoiseSource(secure=True).add_`` releases sums whose
low bits say nothing. Without it, don't publish single noisy sums at full precision where an adversary
would look at them.

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

import torch
from torch import Tensor

from lightning_privacy._validate import non_negative, non_negative_int
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.mechanisms._keys import secret
from lightning_privacy.mechanisms._normals import fill_normals
from lightning_privacy.mechanisms._process import this_process
from lightning_privacy.mechanisms._secure import DRAWS, add_on_grid, fill_without_gaps

__all__ = ["NoiseSource", "SeededNoiseWarning"]

_STEP_BITS = 48
_STREAM_BITS = 32  # together the 80 bits of nonce that the keystream leaves
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class SeededNoiseWarning(UserWarning):
    """A noise source was given a seed: the run is reproducible and therefore not private."""


class NoiseSource:
    """Normal noise that is unpredictable, or with a seed reproducible and not private.

    On the CPU both kinds draw from AES-256-CTR. On any other device the noise comes from that
    device's ``torch.Generator``: on CUDA Philox-4x32 with 10 rounds and a key of 63 bits, from the
    operating system or, with a seed, derived from (seed, step, stream). It is fast but *not*
    cryptographic, whoever learns the key can compute the noise of the whole run, and its float32
    normals end at about 6.7 standard deviations (9.4 on the CPU).

    ``secure=True`` closes what remains, at two to four times the cost on the CPU:

    * Every number comes from AES-256-CTR on the CPU, for tensors on any device. A tensor elsewhere
      is copied to the CPU and back.
    * :meth:`add_` releases ``value + noise`` on a grid that depends on ``std`` only, so which
      numbers can come out does not depend on the value: neither the gaps of the generator nor the
      low bits that an addition rounds off tell anything. ``mechanisms/_secure.py`` derives by how
      much the outcome can differ from the theory: 1.2e-7 in total variation for 2**32 values.
    * :meth:`normal_` gives noise without gaps. It stops attacks on the generator (which values can
      it reach, which uniforms led here), **not** those on a floating-point addition that somebody
      else makes with it; only :meth:`add_` does.

    What it does not protect against: an observer of the time a draw takes (the arithmetic has no
    branches that depend on the values, but nothing is promised of the processor), of the memory of
    the process, or of values before :meth:`add_`; and sums whose sensitivity is not what was
    declared, as where clipping in floating point exceeds its bound by a rounding error.

    A copy, an unpickled source or the child of a fork never repeats the noise of the original:
    an unseeded source takes a new key there. A seeded one keeps its seed, as its purpose is to
    repeat. Drawing is safe from several threads.

    Args:
        seed: None for a key from the operating system; a whole number >= 0 for a reproducible run.
        secure: withstand attacks on the floating-point representation; see above.

    Raises:
        ConfigurationError: ``seed`` is not a whole number >= 0, or ``secure`` not a bool.

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

    def __init__(self, seed: int | None = None, *, secure: bool = False) -> None:
        self._seed = None if seed is None else non_negative_int(seed=seed)
        if not isinstance(secure, bool):
            raise ConfigurationError(f"secure must be True or False, got {secure!r}")
        self._secure = secure
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
        self._process = this_process()
        self._calls = itertools.count()
        self._values = itertools.count()
        self._lock = threading.Lock()
        self._generators: dict[torch.device, torch.Generator] = {}
        self._keys = {dtype: secret(self._seed, f"normals {dtype}", 32) for dtype in (torch.float32, torch.float64)}
        self._secure_keys = [secret(self._seed, f"secure normals {number}", 32) for number in range(DRAWS)]
        self._grid_key = secret(self._seed, "normals on a grid", 32)

    @property
    def seed(self) -> int | None:
        """The seed that was passed, or None."""
        return self._seed

    @property
    def seeded(self) -> bool:
        """Whether the noise is reproducible, and the run therefore not private."""
        return self._seed is not None

    @property
    def secure(self) -> bool:
        """Whether the noise withstands attacks on its floating-point representation."""
        return self._secure

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
        std, nonce = self._checked(tensor, std, step, stream)
        with torch.no_grad():
            if std == 0.0 or tensor.numel() == 0:
                return tensor.zero_()
            if tensor.device.type == "cpu":
                return self._on_cpu(tensor, std, nonce, adding=False)
            if self._secure:
                return tensor.copy_(self._on_cpu(torch.empty_like(tensor, device="cpu"), std, nonce, adding=False))
            return tensor.normal_(0.0, std, generator=self._generator(tensor.device, nonce))

    def add_(self, tensor: Tensor, *, std: float, step: int, stream: int = 0) -> Tensor:
        """Add independent normals of mean 0 to ``tensor`` in place and return it: a whole release.

        A plain source adds what :meth:`normal_` gives. A secure one adds in float64 and rounds
        each sum to a multiple of a power of two in (std/512, std/256], so that its low bits say
        nothing; ``tensor`` must hold the *whole* sum, and what is added to it afterwards is not
        protected. Noise that several processes must agree on is added in one and sent to the others.

        Args:
            tensor: the sum to release: floating point, finite, any shape, layout and device.
            std: the standard deviation, finite and >= 0; with 0 the tensor stays as it is.
            step: as in :meth:`normal_`.
            stream: as in :meth:`normal_`.

        Raises:
            ConfigurationError: as in :meth:`normal_`; or the source is secure and ``std`` is not
                between 2**-900 and 2**900.
        """
        std, nonce = self._checked(tensor, std, step, stream)
        with torch.no_grad():
            if std == 0.0 or tensor.numel() == 0:
                return tensor
            if not self._secure:
                dtype = torch.promote_types(tensor.dtype, torch.float32)
                noise = torch.empty(tensor.shape, dtype=dtype, device=tensor.device)
                return tensor.add_(self.normal_(noise, std=std, step=step, stream=stream))
            if tensor.device.type == "cpu":
                return self._on_cpu(tensor, std, nonce, adding=True)
            return tensor.copy_(self._on_cpu(tensor.cpu(), std, nonce, adding=True))

    def _checked(self, tensor: Tensor, std: float, step: int, stream: int) -> tuple[float, int]:
        """Return the standard deviation and the nonce of a draw, or refuse it."""
        std = non_negative(std=std)
        nonce = non_negative_int(step=step, bits=_STEP_BITS) << _STREAM_BITS
        nonce |= non_negative_int(stream=stream, bits=_STREAM_BITS)
        if tensor.dtype not in _DTYPES:
            raise ConfigurationError(f"tensor must be a floating-point tensor, got dtype {tensor.dtype}")
        return std, nonce

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
        return int.from_bytes(secret(self._seed, f"seed for {purpose}", 16), "big")

    def next_value(self) -> int:
        """Return 0, 1, 2, ...: the number of a release that belongs to no step, for its own noise under a seed."""
        return next(self._values)

    def state_dict(self) -> dict[str, int]:
        """The seed, if one was passed; otherwise nothing, as a saved key would reveal the noise."""
        if self._seed is None:
            return {}
        return {"seed": self._seed, "secure": True} if self._secure else {"seed": self._seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Check that ``state`` continues the same noise; there is nothing else to restore.

        The values of a seeded source follow from the step, and an unseeded one starts anew, so
        that nothing a checkpoint holds says anything about the noise.

        Raises:
            CheckpointError: both have seeds and they differ, or only one of them is secure.
        """
        saved = state.get("seed")
        if self._seed is not None and saved is not None and saved != self._seed:
            raise CheckpointError(
                f"the checkpoint's noise has seed {saved}, this source has seed {self._seed}: pass the same "
                "seed to repeat the run, or none to continue it with unpredictable noise"
            )
        if self._seed is not None and saved is not None and bool(state.get("secure", False)) != self._secure:
            raise CheckpointError(
                f"the checkpoint's seeded noise has secure={not self._secure}, this source has secure="
                f"{self._secure}, so its values are other ones: pass the same, or no seed to continue with new noise"
            )

    def _ensure_own_process(self) -> None:
        if self._process != this_process():
            self._rekey()

    def _on_cpu(self, tensor: Tensor, std: float, nonce: int, *, adding: bool) -> Tensor:
        """Fill ``tensor`` with noise, or add noise to it on the secure grid."""
        self._ensure_own_process()
        dtype = torch.promote_types(tensor.dtype, torch.float32)
        if self._seed is None:
            nonce = next(self._calls)
        threads = torch.get_num_threads()
        direct = tensor.is_contiguous() and tensor.dtype == dtype
        if direct:
            work = tensor.detach()
        elif adding:
            work = tensor.detach().to(dtype, memory_format=torch.contiguous_format, copy=True)
        else:
            work = torch.empty(tensor.shape, dtype=dtype)
        values = work.numpy().reshape(-1)
        if adding:
            add_on_grid(values, key=self._grid_key, nonce=nonce, std=std, threads=threads)
        elif self._secure:
            fill_without_gaps(values, keys=self._secure_keys, nonce=nonce, std=std, threads=threads)
        else:
            fill_normals(values, key=self._keys[dtype], nonce=nonce, std=std, threads=threads)
        if not direct:
            tensor.copy_(work)
        elif not tensor.is_inference():
            torch.autograd.graph.increment_version(tensor)  # NumPy wrote where autograd does not look
        return tensor

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
        return {"seed": self._seed, "secure": self._secure}

    def __setstate__(self, state: dict[str, int | None]) -> None:
        self._seed = state["seed"]
        self._secure = bool(state.get("secure", False))
        self._rekey()

    def __repr__(self) -> str:
        return f"NoiseSource(seed={self._seed}, secure={self._secure})"
