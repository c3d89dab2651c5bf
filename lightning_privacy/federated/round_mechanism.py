"""The mechanism of a round with client-level privacy: bound each client, sum, add noise, divide by a constant.

The Gaussian mechanism on the sum of the clipped deltas. Where the norm adapts, the number of clients within it is
released too, under noise of its own: both together are one vector of a bounded length, and the delta's noise is raised
so that the whole costs what the noise multiplier says (Andrew et al., "Differentially Private Learning with Adaptive
Clipping", 2021, Theorem 1).

Example:
    >>> import torch
    >>> from lightning_privacy.federated.client_accounting import CohortAccounting
    >>> from lightning_privacy.federated.client_target import ClientTarget
    >>> from lightning_privacy.federated.cohorts import PoissonCohorts
    >>> target = ClientTarget(delta=1e-5, epsilon=None, noise_multiplier=1.0, max_delta_norm=0.5, adaptive=None)
    >>> mechanism = RoundMechanism(target, 1.0, CohortAccounting.of(PoissonCohorts(10), num_clients=100))
    >>> noisy = mechanism.joined(0, torch.zeros(4), votes=0.0)
    >>> mechanism.add_noise(NoiseSource(), 0, noisy)
    >>> noisy.shape, mechanism.settle(noisy).shape, mechanism.release
    (torch.Size([5]), torch.Size([4]), SampledGaussian(noise_multiplier=1.0, sample_rate=0.1))
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_privacy.accounting import Release
from lightning_privacy.errors import ConfigurationError, PrivacyViolation
from lightning_privacy.federated.aggregation import Aggregator, WeightedMean
from lightning_privacy.federated.client_accounting import CohortAccounting
from lightning_privacy.federated.client_target import ClientTarget
from lightning_privacy.mechanisms import NoiseSource

__all__ = ["RoundMechanism", "refuse_aggregator"]

_DELTA, _COUNT = 0, 1  # streams of a round's noise


def refuse_aggregator(aggregator: Aggregator) -> None:
    """Refuse an aggregator whose result one clipped client can move by more than the noise hides.

    Args:
        aggregator: The run's.

    Raises:
        ConfigurationError: It is not the unweighted mean.
    """
    if type(aggregator) is WeightedMean and not aggregator.weighted:
        return
    reason = "nothing is known of how far one clipped client moves it"
    if isinstance(aggregator, WeightedMean):
        reason = "weights make a client's share depend on how much data it and the others have"
    raise ConfigurationError(
        f"aggregator {aggregator!r} can't be used with client privacy, whose noise is measured for a plain sum: "
        f"{reason}. Use WeightedMean(weighted=False)"
    )


class RoundMechanism:
    """Noise and divisor of every round of a run, and the clipping norm, which may move.

    It keeps no account: who calls :meth:`add_noise` has charged :attr:`release` before, once for each call.

    Args:
        target: What the user asked for.
        noise_multiplier: Standard deviation of the noise over the norm, for a round as a whole.
        accounting: How many clients there are, and how many come.

    Attributes:
        accounting: As given.

    Raises:
        ConfigurationError: The noise on the count is so small that nothing is left to the delta.
    """

    def __init__(self, target: ClientTarget, noise_multiplier: float, accounting: CohortAccounting) -> None:
        self.accounting = accounting
        self._noise_multiplier = noise_multiplier
        self._fixed_norm = target.max_delta_norm
        self._policy = target.policy(noise_multiplier, accounting.expected_size)

    @property
    def max_delta_norm(self) -> float:
        """The clipping norm of the next round."""
        return self._fixed_norm if self._policy is None else self._policy.norm_bound

    @property
    def delta_noise_multiplier(self) -> float:
        """Standard deviation of the noise on the sum of deltas, over the clipping norm."""
        if self._policy is None:
            return self._noise_multiplier
        return self._policy.gradient_noise_multiplier(self._noise_multiplier)

    @property
    def release(self) -> Release:
        """What a round is charged as; the same for all rounds."""
        return self.accounting.release(self._noise_multiplier, None if self._policy is None else self._policy.count_std)

    @property
    def label(self) -> str:
        """What a round is called in the ledger; with an adaptive norm it tells how the noise is shared out."""
        if self._policy is None:
            return "rounds"
        return f"rounds (noise {self.delta_noise_multiplier:.4g} on deltas, {self._policy.count_std:.4g} on the count)"

    def joined(self, round_number: int, total: Tensor, votes: Tensor | float) -> Tensor:
        """The sums of a round as one vector, checked; not private yet.

        Args:
            round_number: The round, for messages.
            total: Shape ``(P,)``, sum of the clipped deltas of all clients that came; zeros where nobody did.
            votes: Sum of their votes; 0 where nobody came.

        Returns:
            Shape ``(P + 1,)``, in the dtype of ``total`` or float32, whichever is wider: the sum and the votes.

        Raises:
            ConfigurationError: The sum is not a flat vector of floating-point numbers.
            PrivacyViolation: A sum is not finite.
        """
        if total.dim() != 1 or not total.is_floating_point():
            raise ConfigurationError(
                f"total must be a flat floating-point vector, got {total.dtype} of shape {tuple(total.shape)}"
            )
        dtype = torch.promote_types(total.dtype, torch.float32)
        joined = total.new_empty(total.numel() + 1, dtype=dtype)
        joined[:-1] = total
        joined[-1] = votes
        if not bool(joined.isfinite().all()):
            raise PrivacyViolation(
                f"the sum of round {round_number} is not finite, which no sum of clipped deltas is: something was "
                "added to it after clip(); nothing was released"
            )
        return joined

    def add_noise(self, noise: NoiseSource, round_number: int, joined: Tensor) -> None:
        """Make the sums of a round private: noise is added in place, and votes that nothing uses become zero.

        Args:
            noise: Where it comes from.
            round_number: Names the noise, where the source has a seed.
            joined: What :meth:`joined` gave.
        """
        noise.add_(joined[:-1], std=self.delta_noise_multiplier * self.max_delta_norm, step=round_number, stream=_DELTA)
        if self._policy is None:
            joined[-1] = 0.0  # the votes are no part of the release
        else:
            noise.add_(joined[-1:], std=self._policy.count_std, step=round_number, stream=_COUNT)

    def settle(self, noisy: Tensor) -> Tensor:
        """Return the private mean, and move the adaptive norm for the next round.

        Args:
            noisy: Shape ``(P + 1,)``, noisy sum and noisy votes.

        Returns:
            Shape ``(P,)``: the noisy sum over the expected size of a cohort.
        """
        if self._policy is not None:
            self._policy.observe(noisy[-1:], self.accounting.expected_size)
        return noisy[:-1] / self.accounting.expected_size

    def norm_state(self) -> dict[str, Any] | None:
        """Where the adaptive norm is, for a checkpoint; None where it is fixed."""
        return None if self._policy is None else self._policy.state_dict()

    def load_norm_state(self, state: Any) -> None:
        """Go on with the norm of a checkpoint, as :meth:`norm_state` gave it."""
        if self._policy is not None:
            self._policy.load_state_dict(state)
