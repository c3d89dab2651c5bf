"""Poisson sampling: every example enters every batch with the same probability, independently.

The amplification by sampling that DP-SGD's accounting rests on (Abadi et al., "Deep Learning with
Differential Privacy", 2016, section 3; Mironov, Talwar and Zhang, "Renyi Differential Privacy of the
Sampled Gaussian Mechanism", 2019) holds for this distribution of batches. Shuffled epochs are another
one, and their epsilon is higher.

A batch is drawn in time and memory proportional to its own size: first how many examples it has,
``b ~ Binomial(N, q)``, then which, uniformly among the subsets of that size. That is the same
distribution, as P(S) = C(N, b) q^b (1-q)^(N-b) / C(N, b) = q^b (1-q)^(N-b) for every S of size b.

A cap, ``max_batch_size``, keeps a uniformly random subset of a draw that exceeds it. Then one
example's presence can push out another's, which costs privacy: :meth:`PoissonSampler.release` gives
the release that accounts for it (Chua et al., "Scalable DP-SGD: Shuffling vs. Poisson Subsampling",
2024, section 3).

Example:
    >>> sampler = PoissonSampler(1000, sample_rate=0.01, steps=3, seed=0)
    >>> batches = list(sampler)
    >>> len(batches), batches[1] == sampler.draw(1).tolist()
    (3, True)
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from lightning_privacy._validate import non_negative_int, positive_int, probability
from lightning_privacy.accounting.releases import SampledGaussian, TruncatedSampledGaussian
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.sampling._agreement import agree, group_size, share_key

__all__ = ["PoissonSampler"]

_STEP_BITS = 64
_SIZES, _MEMBERS = 0, 1  # the two uses of a step's randomness
_MUST_AGREE = ("num_examples", "sample_rate", "steps", "max_batch_size")


class PoissonSampler(Sampler[list[int]]):
    """Batches by independent inclusion, for ``DataLoader(batch_sampler=...)``.

    The draw of a step is a function of (seed, step) alone, with NumPy's Philox generator: it does not
    depend on earlier draws, on the number of DataLoader workers, or on any global generator. (Another
    version of NumPy may draw other batches from the same seed.)

    Iterating yields one list of indices per step, from :attr:`position` to the last step, and moves
    the position. A step is never drawn twice: a batch that came back would not be independent of the
    first. Empty lists are part of the distribution.

    Who was in which batch must stay secret. Without a seed the sampler takes 128 bits from the
    operating system and never saves them. With a seed the batches are reproducible by whoever knows
    it, so a seed must be as secret as the data or the run is not private. A copied or unpickled
    sampler without a seed draws other batches than the original, and is at its position; one of
    several replicas refuses to draw.

    Several replicas compute the same global draw and take every ``num_replicas``-th index of it:
    disjoint shards that together are the draw and whose sizes differ by at most one. Where
    ``torch.distributed`` is initialised with as many processes, making the sampler is a collective
    operation: every process makes it at the same point, arguments and ranks are compared, and
    without a seed process 0 sends its 128 bits to the others. They are never saved either, so a
    resumed run, which makes its samplers anew, goes on with a fresh key. Without a process group of
    that size nothing can be compared: then a common seed is needed, and is trusted.

    ``num_replicas`` and ``rank`` are never guessed. A sampler that is made without them in a process
    group of several is refused, as independent batches of each process would be another
    distribution, and a collective operation that only one process enters would wait for ever.

    Args:
        num_examples: size of the data set, >= 1.
        sample_rate: probability that an example is in the batch of a step, in (0, 1].
        steps: number of batches, >= 1.
        max_batch_size: keep at most this many examples of a (global) draw; None for no cap.
        seed: a whole number >= 0; None for randomness from the operating system.
        num_replicas: number of processes that share each batch; needs ``rank``. None for 1.
        rank: which of them this is, 0 <= rank < num_replicas.

    Raises:
        ConfigurationError: an argument is out of range; replicas have neither a common seed nor a
            process group to agree over; or their arguments don't fit together.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> sampler = PoissonSampler(100, sample_rate=0.1, steps=5, seed=1)
        >>> loader = DataLoader(range(100), batch_sampler=sampler)
        >>> [len(batch) for batch in loader] == [sampler.size(step) for step in range(5)]
        True
    """

    def __init__(
        self,
        num_examples: int,
        *,
        sample_rate: float,
        steps: int,
        max_batch_size: int | None = None,
        seed: int | None = None,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        self._num_examples = positive_int(num_examples=num_examples)
        self._sample_rate = probability(sample_rate=sample_rate)
        self._steps = positive_int(steps=steps)
        self._max_batch_size = None if max_batch_size is None else positive_int(max_batch_size=max_batch_size)
        self._seed = None if seed is None else non_negative_int(seed=seed)
        self._num_replicas, self._rank = _replica(num_replicas, rank)
        self._key: int | None = self._common_key()
        self._position = 0

    def _common_key(self) -> int:
        """The generator's key, the same in every replica."""
        if self._num_replicas == 1:
            return _philox_key(self._seed)
        size = group_size()
        if size == self._num_replicas:
            same = {name: getattr(self, name) for name in (*_MUST_AGREE, "seed")}
            agree(same | {"NumPy version": np.__version__}, rank=self._rank)
            return share_key() if self._seed is None else _philox_key(self._seed)
        if self._seed is None:
            group = f"the process group has {size} processes" if size > 1 else "torch.distributed is not initialised"
            raise ConfigurationError(
                f"seed must be given when num_replicas={self._num_replicas} and {group}: the replicas have no way "
                "to agree on their batches; call torch.distributed.init_process_group first, or let one process "
                "take secrets.randbits(128) and send it to the others as seed"
            )
        return _philox_key(self._seed)

    @property
    def num_examples(self) -> int:
        """Size of the data set."""
        return self._num_examples

    @property
    def sample_rate(self) -> float:
        """Probability that an example is in the batch of a step (before the cap)."""
        return self._sample_rate

    @property
    def steps(self) -> int:
        """Number of batches."""
        return self._steps

    @property
    def max_batch_size(self) -> int | None:
        """The cap on a global draw."""
        return self._max_batch_size

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

    def release(self, noise_multiplier: float) -> SampledGaussian | TruncatedSampledGaussian:
        """What one step with Gaussian noise on the clipped sum of a batch costs.

        Args:
            noise_multiplier: standard deviation of the noise over the clipping norm, > 0.
        """
        if self._max_batch_size is None or self._max_batch_size >= self._num_examples:
            return SampledGaussian(noise_multiplier=noise_multiplier, sample_rate=self._sample_rate)
        return TruncatedSampledGaussian(
            noise_multiplier=noise_multiplier,
            sample_rate=self._sample_rate,
            num_examples=self._num_examples,
            max_batch_size=self._max_batch_size,
        )

    def size(self, step: int) -> int:
        """Number of examples in the global draw of ``step``, without drawing them."""
        drawn = int(self._generator(step, _SIZES).binomial(self._num_examples, self._sample_rate))
        return drawn if self._max_batch_size is None else min(drawn, self._max_batch_size)

    def draw(self, step: int) -> NDArray[np.int64]:
        """Distinct indices of the global batch of ``step``, in random order; shape (size,)."""
        generator = self._generator(step, _MEMBERS)
        # A uniform subset of a uniform subset is uniform: the cap needs no second draw. Sparse draws
        # use Floyd's algorithm, dense ones a partial shuffle.
        return generator.choice(self._num_examples, self.size(step), replace=False, shuffle=True)

    def batch(self, step: int) -> NDArray[np.int64]:
        """This replica's share of the draw of ``step``."""
        return self.draw(step)[self._rank :: self._num_replicas]

    def __iter__(self) -> Iterator[list[int]]:
        if self._position >= self._steps:
            raise ConfigurationError(
                f"all steps={self._steps} batches have been drawn, and a batch must not come twice: make "
                "a PoissonSampler with steps = epochs x steps per epoch, or set position to go on from a step"
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
        state = {name: getattr(self, name) for name in _MUST_AGREE}
        state["position"] = self._position
        if self._seed is not None:
            state["seed"] = self._seed
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved position.

        Raises:
            CheckpointError: the state is of a sampler with other parameters, or is not one at all.
        """
        own = {name: getattr(self, name) for name in _MUST_AGREE}
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

    def _generator(self, step: int, use: int) -> np.random.Generator:
        if self._key is None:
            raise ConfigurationError(
                f"this copy of a sampler with num_replicas={self._num_replicas} and seed=None has no key: a key is "
                "never saved, and the replicas' batches must fit together; make a PoissonSampler in every process"
            )
        # Philox is a function of key and counter (Salmon et al., 2011): step and use go into the two
        # high words of the counter, which leaves 2**128 values to each.
        counter = non_negative_int(step=step, bits=_STEP_BITS) << 192 | use << 128
        return np.random.Generator(np.random.Philox(key=self._key, counter=counter))

    def __repr__(self) -> str:
        return (
            f"PoissonSampler({self._num_examples}, sample_rate={self._sample_rate}, steps={self._steps}, "
            f"max_batch_size={self._max_batch_size}, seed={self._seed})"
        )


def _replica(num_replicas: int | None, rank: int | None) -> tuple[int, int]:
    if num_replicas is None and rank is None:
        if (size := group_size()) > 1:
            raise ConfigurationError(
                f"num_replicas and rank must be given in a process group of {size} processes, got None: pass "
                f"num_replicas={size}, rank=torch.distributed.get_rank() for batches that the processes share, or "
                "num_replicas=1, rank=0 for a sampler of this process alone"
            )
        return 1, 0
    if num_replicas is None or rank is None:
        raise ConfigurationError(
            f"num_replicas and rank must be given together, got num_replicas={num_replicas!r}, rank={rank!r}"
        )
    replicas, index = positive_int(num_replicas=num_replicas), non_negative_int(rank=rank)
    if index >= replicas:
        raise ConfigurationError(f"rank must be below num_replicas={replicas}, got {rank!r}")
    return replicas, index


def _philox_key(seed: int | None) -> int:
    if seed is None:
        return secrets.randbits(128)
    digest = hashlib.sha256(b"lightning_privacy poisson: %d" % seed).digest()
    return int.from_bytes(digest[:16], "big")
