"""Randomness by key: what is drawn depends on (seed, what it is for) and on nothing else.

A simulated federation must give the same model whatever the number of workers and the order in which clients
are trained. So nothing in a round is drawn from a generator that something else has drawn from: each draw has
a key, such as ``(seed, "cohort", round)``, and a generator of its own.

This is for simulation, not for secrecy: whoever knows the seed knows every draw. Noise of a private release
comes from :class:`~lightning_privacy.mechanisms.NoiseSource`, masks of a secure sum from the operating system.

Example:
    >>> derive_seed(0, "cohort", 3) == derive_seed(0, "cohort", 3)
    True
    >>> derive_seed(0, "cohort", 3) == derive_seed(0, "cohort", 4)
    False
    >>> with client_randomness(0, round_number=3, client=7):
    ...     first = torch.rand(2)
    >>> with client_randomness(0, round_number=3, client=7):
    ...     torch.equal(torch.rand(2), first)
    True
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import numpy as np
import torch

from lightning_privacy._validate import non_negative_int
from lightning_privacy.errors import ConfigurationError

__all__ = [
    "client_randomness",
    "derive_seed",
    "generator",
    "kept_randomness",
    "numpy_generator",
    "seed_client",
]

_DOMAIN = b"lp federated"  # keeps these seeds apart from those of samplers with the same number
_SEED_BYTES = 16
_TORCH_BITS = 64


def derive_seed(seed: int, *key: int | str) -> int:
    """A 128-bit seed for one use, by a hash (BLAKE2b, RFC 7693) of seed and key; the same on every machine.

    Parts are told apart by type and length: ``("a", "b")``, ``("ab",)``, ``(1, 2)`` and ``("1", 2)`` are four keys.

    Args:
        seed: The run's seed, a whole number >= 0.
        *key: What the seed is for: names and whole numbers, of either sign.

    Raises:
        ConfigurationError: The seed is no whole number >= 0, or a part of the key is neither a string nor a whole
            number.

    Example:
        >>> 0 <= derive_seed(1, "client", 2, 3) < 2**128
        True
    """
    parts: tuple[object, ...] = (non_negative_int(seed=seed), *key)
    encoded: list[bytes] = []
    for part in parts:
        if isinstance(part, str):
            kind, text = b"s", part.encode()
        elif isinstance(part, bool) or not isinstance(part, Integral):
            raise ConfigurationError(f"key must hold strings and whole numbers, got {part!r}")
        else:
            kind, text = b"i", b"%d" % int(part)
        encoded.append(b"%b%d:%b" % (kind, len(text), text))
    digest = hashlib.blake2b(b"".join(encoded), digest_size=_SEED_BYTES, person=_DOMAIN)
    return int.from_bytes(digest.digest(), "big")


def generator(seed: int, *key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator for one use; see :func:`derive_seed`.

    torch's CPU generator takes in 32 bits of the seed only, so two of many keys may share a stream. For shuffles
    and stochastic rounding that does no harm; where it would, take :func:`numpy_generator`, which takes in all 128.

    Args:
        seed: The run's seed, a whole number >= 0.
        *key: What the generator is for.
        device: Where it draws.

    Example:
        >>> torch.randperm(4, generator=generator(0, "shuffle", 1)).shape
        torch.Size([4])
    """
    made = torch.Generator(device)
    made.manual_seed(_low_bits(derive_seed(seed, *key)))
    return made


def numpy_generator(seed: int, *key: int | str) -> np.random.Generator:
    """A NumPy generator (Philox with a 128-bit key) for one use; see :func:`derive_seed`.

    Example:
        >>> bool(numpy_generator(0, "cohort", 1).random() == numpy_generator(0, "cohort", 1).random())
        True
    """
    return np.random.Generator(np.random.Philox(key=derive_seed(seed, *key)))


@contextmanager
def client_randomness(seed: int, round_number: int, client: int) -> Iterator[None]:
    """Seed the global generators by (seed, round, client) for the length of a block, then put them back.

    Dropout, shuffling data loaders and augmentation draw from global generators: those of torch (CPU and current
    accelerator), of NumPy and of ``random``. Inside the block they are a function of the three numbers; after it,
    also when it raises, they are exactly as before, so nothing a client does can be seen by the next one.

    An accelerator that torch has not initialised by then is left alone: a run on the CPU starts no GPU.

    Args:
        seed: The run's seed, a whole number >= 0.
        round_number: The round.
        client: The client.

    Example:
        >>> before = random.getstate()
        >>> with client_randomness(0, round_number=1, client=2):
        ...     _ = random.random(), np.random.rand(), torch.rand(1)
        >>> random.getstate() == before
        True
    """
    with kept_randomness():
        seed_client(seed, round_number, client)
        yield


@contextmanager
def kept_randomness() -> Iterator[None]:
    """Put the global generators back at the end of a block, where many clients are seeded one after the other."""
    accelerator = _accelerator()
    torch_state = torch.default_generator.get_state()
    accelerator_state = None if accelerator is None else accelerator.get_rng_state()
    numpy_state = np.random.get_state(legacy=False)
    python_state = random.getstate()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        if accelerator is not None and accelerator_state is not None:
            accelerator.set_rng_state(accelerator_state)
        torch.default_generator.set_state(torch_state)


def seed_client(seed: int, round_number: int, client: int) -> None:
    """Seed the global generators by (seed, round, client); inside :func:`kept_randomness`.

    Args:
        seed: The run's seed, a whole number >= 0.
        round_number: The round.
        client: The client.
    """
    # The three generators are no kin, so one seed does for all; torch's on the CPU and NumPy's take in 32 bits of it,
    # see generator().
    whole = derive_seed(seed, "client", round_number, client)
    torch_seed = _low_bits(whole)
    # torch.manual_seed would seed every accelerator as well, and queue a call where none is initialised.
    torch.default_generator.manual_seed(torch_seed)
    accelerator = _accelerator()
    if accelerator is not None:
        accelerator.manual_seed(torch_seed)
    np.random.seed(whole >> _TORCH_BITS & 0xFFFFFFFF)
    random.seed(whole)


def _low_bits(seed: int) -> int:
    return seed & ((1 << _TORCH_BITS) - 1)


@functools.cache
def _accelerator_module() -> Any:
    """The module of the current accelerator (``torch.cuda``, ...); asking for it loads libraries, so once is enough."""
    device = torch.accelerator.current_accelerator(check_available=True)
    return None if device is None else torch.get_device_module(device)


def _accelerator() -> Any:
    """The module of the current accelerator, if there is one and it has been initialised."""
    module = _accelerator_module()
    initialised = getattr(module, "is_initialized", None)
    return module if initialised is None or initialised() else None
