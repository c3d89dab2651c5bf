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

from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from lightning_privacy._validate import positive_int, probability
from lightning_privacy.accounting.releases import SampledGaussian, TruncatedSampledGaussian
from lightning_privacy.sampling.step_sampler import MEMBERS, SIZES, StepSampler

__all__ = ["PoissonSampler"]


class PoissonSampler(StepSampler):
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
        self._sample_rate = probability(sample_rate=sample_rate)
        self._max_batch_size = None if max_batch_size is None else positive_int(max_batch_size=max_batch_size)
        super().__init__(num_examples, steps=steps, seed=seed, num_replicas=num_replicas, rank=rank)

    @override
    def _parameters(self) -> dict[str, Any]:
        return super()._parameters() | {"sample_rate": self._sample_rate, "max_batch_size": self._max_batch_size}

    @property
    def sample_rate(self) -> float:
        """Probability that an example is in the batch of a step (before the cap)."""
        return self._sample_rate

    @property
    def max_batch_size(self) -> int | None:
        """The cap on a global draw."""
        return self._max_batch_size

    def release(self, noise_multiplier: float) -> SampledGaussian | TruncatedSampledGaussian:
        """What one step with Gaussian noise on the clipped sum of a batch costs.

        Args:
            noise_multiplier: standard deviation of the noise over the clipping norm, > 0.
        """
        if self._max_batch_size is None or self._max_batch_size >= self.num_examples:
            return SampledGaussian(noise_multiplier=noise_multiplier, sample_rate=self._sample_rate)
        return TruncatedSampledGaussian(
            noise_multiplier=noise_multiplier,
            sample_rate=self._sample_rate,
            num_examples=self.num_examples,
            max_batch_size=self._max_batch_size,
        )

    @override
    def size(self, step: int) -> int:
        drawn = int(self._generator(step, SIZES).binomial(self.num_examples, self._sample_rate))
        return drawn if self._max_batch_size is None else min(drawn, self._max_batch_size)

    @override
    def draw(self, step: int) -> NDArray[np.int64]:
        generator = self._generator(step, MEMBERS)
        # A uniform subset of a uniform subset is uniform: the cap needs no second draw. Sparse draws
        # use Floyd's algorithm, dense ones a partial shuffle.
        return generator.choice(self.num_examples, self.size(step), replace=False, shuffle=True)

    def __repr__(self) -> str:
        return (
            f"PoissonSampler({self.num_examples}, sample_rate={self._sample_rate}, steps={self.steps}, "
            f"max_batch_size={self._max_batch_size}, seed={self.seed})"
        )
