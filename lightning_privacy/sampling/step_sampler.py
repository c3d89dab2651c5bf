"""Batches that are functions of a secret key and the number of the step, the same in every replica.

What all samplers of private batches share: where the key comes from, how several processes agree on it, what a
position and a saved state are. A subclass says what the draw of a step is.

Example:
    >>> class Halves(StepSampler):
    ...     '''Every second example, from a random one of the two on.'''
    ...     def size(self, step):
    ...         return len(self.draw(step))
    ...     def draw(self, step):
    ...         return np.arange(self._generator(step, MEMBERS).integers(2), self.num_examples, 2)
    >>> sampler = Halves(4, steps=3, seed=0, num_replicas=None, rank=None)
    >>> [len(batch) for batch in sampler]
    [2, 2, 2]
"""

from __future__ import annotations

import hashlib
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from lightning_privacy._validate import non_negative_int, positive_int
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.sampling._agreement import agree, group_size, replica_of, share_key

__all__ = ["MEMBERS", "SIZES", "StepSampler"]

SIZES, MEMBERS = 0, 1
"""The two uses of a step's randomness: how many examples, and which."""

_STEP_BITS = 64


class StepSampler(Sampler[list[int]], ABC):
    """Base of :class:`PoissonSampler` and :class:`BalancedPoissonSampler`, which explain seeds and replicas.

    A subclass sets what :meth:`_parameters` and :meth:`_compared` return before it calls this ``__init__``.

    Args:
        num_examples: size of the data set, >= 1.
        steps: number of batches, >= 1.
        seed: a whole number >= 0; None for randomness from the operating system.
        num_replicas: number of processes that share each batch; needs ``rank``. None for 1.
        rank: which of them this is, 0 <= rank < num_replicas.

    Raises:
        ConfigurationError: an argument is out of range; replicas have neither a common seed nor a
            process group to agree over; or their arguments don't fit together.
    """

    def __init__(
        self, num_examples: int, *, steps: int, seed: int | None, num_replicas: int | None, rank: int | None
    ) -> None:
        self._num_examples = positive_int(num_examples=num_examples)
        self._steps = positive_int(steps=steps)
        self._seed = None if seed is None else non_negative_int(seed=seed)
        self._num_replicas, self._rank = _replica(num_replicas, rank)
        self._key: int | None = self._common_key()
        self._position = 0

    @abstractmethod
    def size(self, step: int) -> int:
        """Number of examples in the global draw of ``step``, without drawing them."""

    @abstractmethod
    def draw(self, step: int) -> NDArray[np.int64]:
        """Distinct indices of the global batch of ``step``, in random order; shape (size,)."""

    def _parameters(self) -> dict[str, Any]:
        """What a resumed sampler must have in common with the saved one, as plain Python values that may be saved."""
        return {"num_examples": self._num_examples, "steps": self._steps}

    def _compared(self) -> dict[str, Any]:
        """What replicas must have in common; only digests of it are exchanged."""
        return self._parameters()

    @property
    def num_examples(self) -> int:
        """Size of the data set."""
        return self._num_examples

    @property
    def steps(self) -> int:
        """Number of batches."""
        return self._steps

    @property
    def seed(self) -> int | None:
        """The seed that was passed, or None."""
        return self._seed

    @property
    def num_replicas(self) -> int:
        """Number of processes that share each draw."""
        return self._num_replicas

    @property
    def rank(self) -> int:
        """Which of the replicas this is."""
        return self._rank

    @property
    def position(self) -> int:
        """The step that is yielded next.

        A DataLoader with workers draws ahead of what the training loop has seen; set the position to
        the number of steps really taken before saving or going on.
        """
        return self._position

    @position.setter
    def position(self, value: int) -> None:
        position = non_negative_int(position=value)
        if position > self._steps:
            raise ConfigurationError(f"position must be at most steps={self._steps}, got {value!r}")
        self._position = position

    def batch(self, step: int) -> NDArray[np.int64]:
        """This replica's share of the draw of ``step``."""
        return self.draw(step)[self._rank :: self._num_replicas]

    def __iter__(self) -> Iterator[list[int]]:
        if self._position >= self._steps:
            raise ConfigurationError(
                f"all steps={self._steps} batches have been drawn, and a batch must not come twice: make a "
                f"{type(self).__name__} with steps = epochs x steps per epoch, or set position to go on from a step"
            )
        return self._iterate()

    def _iterate(self) -> Iterator[list[int]]:
        while self._position < self._steps:
            step = self._position
            self._position = step + 1
            yield self.batch(step).tolist()

    def __len__(self) -> int:
        return self._steps

    def state_dict(self) -> dict[str, Any]:
        """Parameters and position as plain Python types; the seed only if one was passed."""
        state = self._parameters()
        state["position"] = self._position
        if self._seed is not None:
            state["seed"] = self._seed
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved position.

        Raises:
            CheckpointError: the state is of a sampler with other parameters, or is not one at all.
        """
        own = self._parameters()
        if self._seed is not None and "seed" in state:
            own["seed"] = self._seed
        for name, value in own.items():
            if name not in state or state[name] != value:
                saved = repr(state[name]) if name in state else "nothing"
                raise CheckpointError(
                    f"the checkpoint's sampler has {name} {saved}, this one has {value!r}: the ledger would "
                    f"no longer describe the draws; resume with the same {name}"
                )
        try:
            self.position = state["position"]
        except (KeyError, ConfigurationError) as error:
            raise CheckpointError(f"the checkpoint's sampler has no usable position: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        if self._seed is None:
            del state["_key"]  # a file that holds the sampler must not tell who was sampled
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._seed is None:
            # Each replica would take another key; how they could agree on one is only known where all take part.
            self._key = _philox_key(None) if self._num_replicas == 1 else None

    def _common_key(self) -> int:
        """The generator's key, the same in every replica."""
        if self._num_replicas == 1:
            return _philox_key(self._seed)
        size = group_size()
        if size == self._num_replicas:
            same = self._compared() | {"seed": self._seed, "NumPy version": np.__version__}
            agree(same, rank=self._rank)
            return share_key() if self._seed is None else _philox_key(self._seed)
        if self._seed is None:
            group = f"the process group has {size} processes" if size > 1 else "torch.distributed is not initialised"
            raise ConfigurationError(
                f"seed must be given when num_replicas={self._num_replicas} and {group}: the replicas have no way "
                "to agree on their batches; call torch.distributed.init_process_group first, or let one process "
                "take secrets.randbits(128) and send it to the others as seed"
            )
        return _philox_key(self._seed)

    def _generator(self, step: int, use: int) -> np.random.Generator:
        if self._key is None:
            raise ConfigurationError(
                f"this copy of a sampler with num_replicas={self._num_replicas} and seed=None has no key: a key is "
                "never saved, and the replicas' batches must fit together; make a "
                f"{type(self).__name__} in every process"
            )
        # Philox is a function of key and counter (Salmon et al., 2011): step and use go into the two
        # high words of the counter, which leaves 2**128 values to each.
        counter = non_negative_int(step=step, bits=_STEP_BITS) << 192 | use << 128
        return np.random.Generator(np.random.Philox(key=self._key, counter=counter))


def _replica(num_replicas: int | None, rank: int | None) -> tuple[int, int]:
    if num_replicas is None and rank is None:
        if (size := group_size()) > 1:
            raise ConfigurationError(
                f"num_replicas and rank must be given in a process group of {size} processes, got None: pass "
                f"num_replicas={size}, rank=torch.distributed.get_rank() for batches that the processes share, or "
                "num_replicas=1, rank=0 for a sampler of this process alone"
            )
        return 1, 0
    return replica_of(num_replicas, rank)


def _philox_key(seed: int | None) -> int:
    if seed is None:
        return secrets.randbits(128)
    digest = hashlib.sha256(b"lightning_privacy poisson: %d" % seed).digest()
    return int.from_bytes(digest[:16], "big")
