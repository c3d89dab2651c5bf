"""How a private run balances classes or groups, and what it may know about them.

A loader with a :class:`~lightning_privacy.BalancedSampler` asks for balance. Under differential privacy it can be had
in two ways, and both need to know how many examples each class has, which is private. (Which classes there are is taken
as public knowledge.)

**By sampling** (the default): rare classes are drawn with a higher probability. An example's epsilon grows with its own
probability, so the run is charged at the largest: 1% of 50,000 examples as half of every batch of 500 means that each
of the rare ones is in every second batch. Prefer it when the rare class is not much rarer than the batches are small
(a factor of 2 to 5), when ``max_sample_rate`` keeps the price in bounds, or when rare examples have small gradients.

**By weights on the losses** (``loss_weighting="inverse"``): everybody is drawn with the same probability, and the loss
of a rare example counts for more. It costs nothing beyond the counts. But the weighted gradient is clipped like any
other, so that an example adds at most ``max_grad_norm`` however large its weight: a class of 1% can't make up half of
the sum where gradients are at the bound already. Prefer it for rates out of reach of the budget, for moderate imbalance
(up to some 10 to 1) and with a bound above the usual gradient norm.

Example:
    >>> PrivateBalance(max_sample_rate=0.05, count_epsilon=0.1)
    PrivateBalance(max_sample_rate=0.05, count_epsilon=0.1, public_counts=False, loss_weighting=None, ...)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral

from lightning_privacy._validate import positive, probability
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.sampling.weighting import Weighting

__all__ = ["PrivateBalance"]

_SHARE_OF_EPSILON = 0.05
_EPSILON_ALONE = 0.1


@dataclass(frozen=True)
class PrivateBalance:
    """Settings of balance for ``DifferentialPrivacy(balance=...)``.

    Args:
        max_sample_rate: Largest probability of any example to be in the batch of a step, in (0, 1], which is what is
            charged. None: as high as full balance needs; an error tells the largest that fits where that can't be paid.
        count_epsilon: What the noisy count of the examples of each class may cost, > 0; its noise is of the order of
            1 / count_epsilon examples. None: 5% of the run's epsilon, or 0.1 where only a noise multiplier is given.
        public_counts: True declares that the counts (or the weights of a ``WeightedRandomSampler``, which are functions
            of them) are public knowledge; they are then used as they are and cost nothing. A mapping from the names of
            the classes to their counts does the same for counts from elsewhere, or for noisy ones that were released
            and are in the ledger.
        loss_weighting: Balance by weights on the losses in place of the sampling: ``"inverse"``, ``"sqrt"``,
            ``"effective_number"``, a mapping of the shares of the classes, or a function of counts; see
            :func:`~lightning_privacy.sampling.weighting.cell_shares`. The weights average to 1. Examples must keep
            their places in the batch.
        max_noise_multiplier: Most noise to train with where epsilon alone sets it. Where balance needs more, an error
            tells the largest balance that fits.

    Raises:
        ConfigurationError: A number is out of range, or two settings contradict each other.
    """

    max_sample_rate: float | None = None
    count_epsilon: float | None = None
    public_counts: bool | Mapping[str, int] = False
    loss_weighting: Weighting | None = None
    max_noise_multiplier: float | None = None

    def __post_init__(self) -> None:
        if self.max_sample_rate is not None:
            probability(max_sample_rate=self.max_sample_rate)
        if self.count_epsilon is not None:
            positive(count_epsilon=self.count_epsilon)
        if self.max_noise_multiplier is not None:
            positive(max_noise_multiplier=self.max_noise_multiplier)
        if isinstance(self.public_counts, Mapping):
            counts = {str(name): count for name, count in self.public_counts.items()}
            values: dict[str, object] = dict(counts)
            for name, count in values.items():
                if isinstance(count, bool) or not isinstance(count, Integral):
                    raise ConfigurationError(f"public_counts must map to whole numbers, got {count!r} for {name!r}")
            object.__setattr__(self, "public_counts", counts)
        elif not isinstance(self.public_counts, bool):
            raise ConfigurationError(
                "public_counts must be True, False or a mapping from class to number of examples, got "
                f"{self.public_counts!r}"
            )
        if self.public_counts is not False and self.count_epsilon is not None:
            raise ConfigurationError(
                f"count_epsilon={self.count_epsilon!r} pays for noisy counts, and public_counts says that they are "
                "public: give one of the two"
            )
        if self.loss_weighting is not None and self.max_sample_rate is not None:
            raise ConfigurationError(
                f"max_sample_rate={self.max_sample_rate!r} is for balance by sampling, and loss_weighting="
                f"{self.loss_weighting!r} balances by weights, with one rate for all: give one of the two"
            )

    def epsilon_of_counts(self, epsilon: float | None) -> float:
        """What the noisy counts of a run cost.

        Args:
            epsilon: The run's epsilon, or None.

        Example:
            >>> PrivateBalance().epsilon_of_counts(3.0)
            0.15
        """
        if self.count_epsilon is not None:
            return self.count_epsilon
        return _EPSILON_ALONE if epsilon is None else round(_SHARE_OF_EPSILON * epsilon, 12)
