"""The Gaussian mechanism, by default on a grid whose low bits say nothing.

Dwork et al., "Our Data, Ourselves: Privacy via Distributed Noise Generation", 2006; its exact cost is what
:class:`~lightning_privacy.GaussianRelease` charges. The noise is given by its multiplier or by the epsilon and delta it
must reach, which :mod:`~lightning_privacy.mechanisms.gaussian_calibration` turns into the multiplier.

Example:
    >>> import torch
    >>> from lightning_privacy.accounting import PrivacyLedger
    >>> ledger = PrivacyLedger(delta=1e-5)
    >>> noisy = gaussian(torch.zeros(3), sensitivity=2.0, noise_multiplier=4.0, ledger=ledger)
    >>> noisy.shape, round(ledger.epsilon(exact=True), 2)
    (torch.Size([3]), 0.93)
    >>> noisy = gaussian(3.0, sensitivity=2.0, epsilon=1.0, delta=1e-5, ledger=PrivacyLedger(delta=1e-5, budget=1.0))
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_privacy._validate import positive
from lightning_privacy.accounting import GaussianRelease, PrivacyLedger
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.mechanisms._charge import charge
from lightning_privacy.mechanisms._values import float_values
from lightning_privacy.mechanisms.gaussian_calibration import gaussian_noise_multiplier
from lightning_privacy.mechanisms.noise import NoiseSource

__all__ = ["gaussian"]

Value = TypeVar("Value", float, Tensor, NDArray[np.float64])

# The stream of a step that training never uses, so that with a seed the numbers are others than those of its steps.
_STREAM = 2**32 - 1


def gaussian(
    value: Value,
    *,
    sensitivity: float,
    noise_multiplier: float | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    ledger: PrivacyLedger | None = None,
    noise: NoiseSource | None = None,
) -> Value:
    """Return ``value`` with normal noise of standard deviation ``noise_multiplier * sensitivity`` on each number.

    Args:
        value: a number, or a floating-point tensor or array; not changed.
        sensitivity: the most by which the Euclidean norm of the difference can change when one record is replaced by a
            null record that contributes nothing (the ledger's neighbouring relation, "zero-out").
        noise_multiplier: noise over sensitivity, > 0; or, in its place,
        epsilon: what this release alone may cost at ``delta``, > 0; the least noise for that is used.
        delta: in (0, 1); goes with ``epsilon``.
        ledger: charged before anything is drawn.
        noise: where noise comes from; by default a new ``NoiseSource(secure=True)``, whose releases withstand attacks
            on floating point. A seeded source makes the result reproducible and NOT PRIVATE.

    Returns:
        The same type and shape.

    Raises:
        ConfigurationError: a number is out of range or not finite, or the noise is given in neither or both ways;
            nothing is charged.
        PrivacyBudgetExceeded: the ledger can't pay for it; nothing is charged or released.
    """
    if (noise_multiplier is None) == (epsilon is None and delta is None):
        raise ConfigurationError(
            f"give noise_multiplier, or epsilon and delta, and not both, got noise_multiplier={noise_multiplier!r}, "
            f"epsilon={epsilon!r} and delta={delta!r}"
        )
    if noise_multiplier is None:
        noise_multiplier = gaussian_noise_multiplier(epsilon=epsilon, delta=delta)
    numbers, back = float_values(value)
    std = positive(sensitivity=sensitivity) * positive(noise_multiplier=noise_multiplier)
    charge(ledger, GaussianRelease(noise_multiplier), noise)
    source = NoiseSource(secure=True) if noise is None else noise
    total = torch.from_numpy(numbers)
    source.add_(total, std=std, step=source.next_value(), stream=_STREAM)
    noisy: Value = back(total.numpy())
    return noisy
