"""The least noise with which so many steps keep within an epsilon.

Epsilon falls as the noise multiplier grows. A coarse grid, which is cheap and can only give more epsilon than the fine
one, leads to the neighbourhood of the answer; the fine grid decides there. The result is always on the private side.

Example:
    >>> from lightning_privacy.accounting.calibration import calibrate_noise
    >>> round(calibrate_noise(epsilon=3.0, delta=1e-5, sample_rate=0.5, steps=10), 2)
    2.48
"""

from __future__ import annotations

import math
from collections.abc import Callable

from lightning_privacy._validate import positive, positive_int, probability, within_open_unit
from lightning_privacy.accounting.ledger import PrivacyLedger
from lightning_privacy.accounting.pld import FINE_INTERVAL, Groups, composed, exact_epsilon
from lightning_privacy.accounting.releases import (
    Release,
    SampledGaussian,
    TruncatedSampledGaussian,
)
from lightning_privacy.errors import ConfigurationError

__all__ = ["calibrate_noise"]

# The result is at most 0.1% above the smallest noise that will do; half of that is left to the estimate of the slope.
_PRECISION = 5e-4

# Keeps the result private when a ledger adds up the same releases in another order, in floating point.
_ROUNDING = 1e-9

# Noise is sought between these. Below, epsilon is in the fifties and more; above, in the millionths.
_SMALLEST = 0.1
_LARGEST = 1e6

# Grids, as multiples of the fine one, with the precision worth having there. Each leads to the neighbourhood in
# which the next one looks.
_COARSER = ((100, 2e-3), (10, 2e-4))
_STEPS_PER_EPSILON = 200

# A search takes about five points. One that takes so many follows rounding errors, and a private point it has
# passed, if any, is the answer.
_MOST_POINTS = 40


def calibrate_noise(
    *,
    epsilon: float,
    delta: float,
    sample_rate: float,
    steps: int,
    spent: PrivacyLedger | None = None,
    num_examples: int | None = None,
    max_batch_size: int | None = None,
) -> float:
    """Smallest noise multiplier for which the steps, and what was spent before, cost at most epsilon.

    Args:
        epsilon: what everything together may cost, above 0.
        delta: the delta of that epsilon, in (0, 1).
        sample_rate: probability with which each example is in a step's batch, in (0, 1].
        steps: number of noisy steps still to come.
        spent: a ledger whose releases count too; it is not changed.
        num_examples: number of examples; with ``max_batch_size``, batches are cut to that size.
        max_batch_size: most examples of one batch.

    Returns:
        A noise multiplier of at least 0.1; exact epsilon with it is at most ``epsilon``, and it is at most 0.1% above
        the smallest for which this holds.

    Raises:
        ConfigurationError: if an argument is out of range, what was spent leaves nothing, or no usable noise is
            enough.
    """
    epsilon = positive(epsilon=epsilon)
    delta = within_open_unit(delta=delta)
    sample_rate = probability(sample_rate=sample_rate)
    steps = positive_int(steps=steps)
    if (num_examples is None) != (max_batch_size is None):
        raise ConfigurationError(
            f"num_examples and max_batch_size belong together, got num_examples={num_examples!r} and "
            f"max_batch_size={max_batch_size!r}; give both or neither"
        )
    groups: tuple[tuple[Release, int], ...] = () if spent is None else spent.groups
    _check_reach(epsilon, delta, groups)

    def release(sigma: float) -> Release:
        if num_examples is None or max_batch_size is None:
            return SampledGaussian(sigma, sample_rate)
        return TruncatedSampledGaussian(sigma, sample_rate, num_examples, max_batch_size)

    def with_steps(sigma: float) -> Groups:
        counts = dict(groups)
        step = release(sigma)
        counts[step] = counts.get(step, 0) + steps
        return tuple(counts.items())

    search = _Search(target=epsilon * (1.0 - _ROUNDING), guess=_guess(epsilon, delta, sample_rate, steps))
    for multiple, precision in _COARSER:
        interval = FINE_INTERVAL * multiple
        if interval * _STEPS_PER_EPSILON <= epsilon:
            search.run(
                lambda sigma, interval=interval: float(  # type: ignore[misc]
                    composed(with_steps(sigma), interval=interval).get_epsilon_for_delta(delta)
                ),
                precision=precision,
            )
    # The least noise of the coarse grids is private on the fine grid too, and too expensive to build there.
    if not search.at_floor:
        search.run(lambda sigma: exact_epsilon(with_steps(sigma), delta=delta), precision=_PRECISION)
    if not search.reached:
        raise ConfigurationError(
            f"epsilon {epsilon:g} at delta {delta:g} is out of reach for {steps} steps at sample rate "
            f"{sample_rate:g}: {_spent(groups, delta)}, and not even a noise multiplier of {_LARGEST:g} is enough for "
            f"the steps. Ask for a larger epsilon or delta, or take fewer steps or a lower sample rate."
        )
    return search.sigma


class _Search:
    """Search for the smallest noise with which epsilon, that falls with it, is at most the target.

    Works on logarithms, in which epsilon is close to a straight line. What one run finds, the next starts from.
    """

    def __init__(self, *, target: float, guess: float) -> None:
        self._target = target
        self._position = math.log(min(max(guess, _SMALLEST), _LARGEST))
        self._slope: float | None = None
        self.reached = False

    @property
    def sigma(self) -> float:
        """The noise multiplier found."""
        return math.exp(self._position)

    @property
    def at_floor(self) -> bool:
        """Whether the least noise that is considered is enough."""
        return self.reached and self._position <= math.log(_SMALLEST)

    def run(self, epsilon: Callable[[float], float], *, precision: float) -> None:
        """Find it for one function, to a relative precision; ``reached`` tells whether there is one in range."""
        floor, ceiling = math.log(_SMALLEST), math.log(_LARGEST)
        private: tuple[float, float] | None = None
        open_: tuple[float, float] | None = None
        last: tuple[float, float] | None = None
        widths: list[float] = []
        same_side = 0
        here = self._position
        for _ in range(_MOST_POINTS):
            value = epsilon(math.exp(here))
            error = math.log(value / self._target) if value > 0 else -math.inf
            if last is not None and here != last[0] and math.isfinite(error) and math.isfinite(last[1]):
                self._slope = (error - last[1]) / (here - last[0])
            last = (here, error)
            if error <= 0:
                private = last
                close = self._slope is not None and self._slope < 0 and error / self._slope <= precision
                if close or here <= floor or (open_ is not None and here - open_[0] <= precision):
                    self._position, self.reached = here, True
                    return
            else:
                open_ = last
                if here >= ceiling:
                    self._position, self.reached = here, False
                    return
                if private is not None and private[0] - here <= precision:
                    self._position, self.reached = private[0], True
                    return
            slope = self._slope if self._slope is not None and self._slope < -1e-3 else -1.0
            # Aim a little into the private side, so that the next point can be the last.
            step = -error / slope + precision / 4
            # Where epsilon levels off, steps that follow it would never arrive.
            same_side += 1
            step *= 2.0 ** min(max(0, same_side - 3), 16)
            here += min(max(step, -math.log(4.0)), math.log(4.0))
            if private is not None and open_ is not None:
                same_side = 0
                widths.append(private[0] - open_[0])
                stuck = len(widths) > 3 and widths[-1] > widths[-4] / 4
                if stuck or not open_[0] < here < private[0]:
                    here = (open_[0] + private[0]) / 2
            here = min(max(here, floor), ceiling)
        self.reached = private is not None
        self._position = here if private is None else private[0]


def _guess(epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """Noise from the Gaussian mechanism's bound, as if sampling shrank the losses by its rate."""
    spread = math.sqrt(2.0 * math.log(1.25 / delta))
    return max(0.6, sample_rate * math.sqrt(steps) * (spread + math.sqrt(spread**2 + 2.0 * epsilon)) / 2.0 / epsilon)


def _check_reach(epsilon: float, delta: float, groups: Groups) -> None:
    spent = exact_epsilon(groups, delta=delta)
    if spent >= epsilon:
        raise ConfigurationError(
            f"epsilon {epsilon:g} at delta {delta:g} is out of reach: {_spent(groups, delta)}, which leaves "
            f"nothing for training. Ask for an epsilon above that, or spend less before."
        )


def _spent(groups: Groups, delta: float) -> str:
    if not groups:
        return "nothing was spent before"
    what = ", ".join(f"{count} x {release.label}" for release, count in groups)
    return f"{exact_epsilon(groups, delta=delta):.6g} is spent already ({what})"
