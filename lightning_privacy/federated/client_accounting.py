"""What a round costs a client, by the way the cohort is drawn.

The ledger's neighbours differ in one client, which a null client replaces that takes part as it would and contributes
zero (:mod:`lightning_privacy.accounting.ledger`). With C the clipping norm, z the noise multiplier and the total
released as ``sum + N(0, (z C)^2)``:

- Poisson cohorts: the other members are drawn independently, so the two totals are ``(1-q) N(s) + q N(s + x)`` and
  ``N(s)``: the sampled Gaussian.
- Everyone: the Gaussian mechanism.
- A fixed number m of the N clients: when x is not drawn, somebody else, y, is. With s the sum of the cohort that
  holds y, the totals are mixtures, over s and y, of ``(1-q) N(s) + q N(s - y + x)`` and ``(1-q) N(s) + q N(s - y)``
  with q = m / N, and hockey-stick divergence is jointly convex, so the worst s and y count. By advanced joint
  convexity (Balle, Barthe and Gaboardi, "Privacy Amplification by Subsampling", 2018, Theorem 2) the divergence of that
  pair at ``1 + q (e^eps - 1)`` is at most q times that of ``N(2 C)`` from ``N(0)`` at ``e^eps``, as both ``s`` and
  ``s - y`` are within 2 C of ``s - y + x``. Moving N(0) further away only adds to it, so the pair
  ``(1-q) N(0) + q N(2 C)`` against ``(1-q) N(0) + q N(-2 C)``, which is its own mirror image, dominates in both
  directions and for all eps: a pair that may be composed. It is what ``dp_accounting`` composes for a truncated
  Poisson sample of rate 1 cut to m of N, :class:`~lightning_privacy.accounting.TruncatedSampledGaussian`, and it holds
  for a client replaced by any other as well. The price of the fixed size is real: who is not drawn makes room, so the
  noise must hide a change of up to 2 C, and epsilon is several times that of Poisson cohorts.

The sampling counts only while nobody who looks at the model knows who was drawn.

Example:
    >>> from lightning_privacy.federated.client_accounting import CohortAccounting
    >>> from lightning_privacy.federated.cohorts import PoissonCohorts, UniformCohorts
    >>> CohortAccounting.of(PoissonCohorts(10), num_clients=100).release(1.0).label
    'Gaussian, sampled (sigma 1, rate 0.1)'
    >>> CohortAccounting.of(UniformCohorts(10), num_clients=100).release(1.0).label
    'Gaussian, sampled (sigma 1, rate 1, at most 10 of 100)'
"""

from __future__ import annotations

from dataclasses import dataclass

from lightning_privacy.accounting import (
    AdaptiveClippingRelease,
    PrivacyLedger,
    Release,
    SampledGaussian,
    TruncatedSampledGaussian,
    calibrate_noise,
)
from lightning_privacy.errors import UnsupportedError
from lightning_privacy.federated.cohorts import AllClients, CohortSampler, PoissonCohorts, UniformCohorts

__all__ = ["CohortAccounting"]


@dataclass(frozen=True)
class CohortAccounting:
    """The numbers of a cohort that its cost depends on.

    Args:
        num_clients: N, clients there are.
        expected_size: clients of a round, on average.
        sample_rate: probability of a client to be drawn, where the draws are independent; 1 otherwise.
        fixed_size: clients of a round where the cohort has a fixed size below N; None otherwise.

    Example:
        >>> from lightning_privacy.federated.cohorts import AllClients
        >>> CohortAccounting.of(AllClients(), num_clients=7)
        CohortAccounting(num_clients=7, expected_size=7.0, sample_rate=1.0, fixed_size=None)
    """

    num_clients: int
    expected_size: float
    sample_rate: float
    fixed_size: int | None = None

    @classmethod
    def of(cls, cohort: CohortSampler, num_clients: int) -> CohortAccounting:
        """The accounting of a cohort sampler.

        Args:
            cohort: how cohorts are drawn.
            num_clients: how many clients there are.

        Raises:
            UnsupportedError: it is not known what such cohorts cost.
            ConfigurationError: there are too few clients.
        """
        size = cohort.expected_size(num_clients)
        # Exact types: a sub-class may draw in another way.
        if type(cohort) is PoissonCohorts:
            return cls(num_clients, size, cohort.sample_rate(num_clients))
        if type(cohort) is AllClients or (type(cohort) is UniformCohorts and cohort.cohort_size == num_clients):
            return cls(num_clients, size, 1.0)
        if type(cohort) is UniformCohorts:
            return cls(num_clients, size, 1.0, cohort.cohort_size)
        raise UnsupportedError(
            f"client privacy can't account for cohorts drawn by {cohort!r}: some clients take part more often than "
            "others, or by a rule that is not known here. Use client_sampling='poisson' (the least noise), 'uniform' "
            "or 'all'"
        )

    def release(self, noise_multiplier: float, count_noise_std: float | None = None) -> Release:
        """What one round is charged as.

        Args:
            noise_multiplier: of the whole release.
            count_noise_std: noise on the number of unclipped clients, where that is released too.
        """
        if self.fixed_size is not None:
            # Delta and count together are one vector of the bounded length, so the same bound holds.
            return TruncatedSampledGaussian(noise_multiplier, 1.0, self.num_clients, self.fixed_size)
        if count_noise_std is not None:
            return AdaptiveClippingRelease(noise_multiplier, self.sample_rate, count_noise_std)
        return SampledGaussian(noise_multiplier, self.sample_rate)

    def calibrate(self, *, epsilon: float, delta: float, rounds: int, spent: PrivacyLedger) -> float:
        """Least noise multiplier with which so many rounds, and what is spent, cost at most epsilon.

        Args:
            epsilon: what everything together may cost.
            delta: the delta of that epsilon.
            rounds: rounds to come.
            spent: a ledger whose releases count too.

        Raises:
            ConfigurationError: it is out of reach.
        """
        return calibrate_noise(
            epsilon=epsilon,
            delta=delta,
            sample_rate=self.sample_rate,
            steps=rounds,
            spent=spent,
            num_examples=None if self.fixed_size is None else self.num_clients,
            max_batch_size=self.fixed_size,
        )

    @property
    def caveats(self) -> tuple[str, ...]:
        """What limits the guarantee: on whose ignorance the sampling rests, and what it costs."""
        if self.sample_rate == 1.0 and self.fixed_size is None:
            return ()
        hidden = (
            "Epsilon counts on nobody knowing who was in which cohort: whoever knows the run's seed does, and for them "
            "every round costs as if all clients took part."
        )
        if self.fixed_size is None:
            return (hidden,)
        size = (
            "Cohorts of a fixed size cost several times the epsilon of Poisson ones of the same mean size, as a client "
            "who is not drawn makes room for another; client_sampling='poisson' needs less noise."
        )
        return hidden, size
