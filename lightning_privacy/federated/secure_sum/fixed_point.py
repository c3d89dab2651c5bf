"""Numbers as multiples of a power of two, whose sums are exact.

Masks hide a number only if all values of a finite ring are possible, so vectors are summed as whole numbers modulo
2^64. The modulus is larger than any sum can get: what would not fit is refused, never wrapped or clipped.

Example:
    >>> import torch
    >>> from lightning_privacy.federated.secure_sum.fixed_point import FixedPoint
    >>> code = FixedPoint(fraction_bits=8, max_abs=100.0)
    >>> parts = [code.encode(torch.tensor([1.5, -2.0])), code.encode(torch.tensor([0.25, -0.5]))]
    >>> code.decode(parts[0] + parts[1], count=2)
    tensor([ 1.7500, -2.5000], dtype=torch.float64)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_privacy._validate import non_negative_int, positive, positive_int
from lightning_privacy.errors import ConfigurationError, PrivacyViolation

__all__ = ["FixedPoint", "Words"]

Words = npt.NDArray[np.uint64]
"""A vector modulo 2^64."""

# Sums stay below half the modulus, so that signs can be told.
_CAPACITY = 2**63


@dataclass(frozen=True)
class FixedPoint:
    """Multiples of ``2**-fraction_bits`` up to ``max_abs``, as 64-bit words.

    The defaults resolve 2e-10 and leave room for 32,767 parties.

    Args:
        fraction_bits: bits after the point, at most 62.
        max_abs: largest absolute value of an entry.

    Raises:
        ConfigurationError: a number is out of range, or two such entries would not fit.

    Example:
        >>> FixedPoint().check(parties=32_767)
        >>> FixedPoint(fraction_bits=40).check(parties=1000)
        Traceback (most recent call last):
            ...
        lightning_privacy.errors.ConfigurationError: the sum of 1000 vectors with entries up to 65536 ...
    """

    fraction_bits: int = 32
    max_abs: float = 65536.0

    def __post_init__(self) -> None:
        bits = non_negative_int(fraction_bits=self.fraction_bits)
        if bits > 62:
            raise ConfigurationError(f"fraction_bits must be at most 62, got {bits}")
        positive(max_abs=self.max_abs)
        self.check(1)

    @property
    def _largest(self) -> int:
        return math.ceil(math.ldexp(self.max_abs, self.fraction_bits))

    def check(self, parties: int) -> None:
        """Refuse more parties than a sum has room for.

        Raises:
            ConfigurationError: their sum may reach half the modulus.
        """
        if positive_int(parties=parties) * self._largest >= _CAPACITY:
            raise ConfigurationError(
                f"the sum of {parties} vectors with entries up to {self.max_abs:g} in steps of "
                f"2**-{self.fraction_bits} doesn't fit in 63 bits: choose fewer fraction_bits or a smaller max_abs"
            )

    def encode(self, vector: Tensor) -> Words:
        """Round a vector to the nearest multiples.

        Args:
            vector: shape ``(P,)``, floating point.

        Returns:
            Shape ``(P,)``, negative numbers as their complement to 2^64.

        Raises:
            ConfigurationError: an entry is not finite, or beyond ``max_abs``: it would have to be clipped.
        """
        if vector.dim() != 1 or not vector.is_floating_point():
            raise ConfigurationError(
                f"vector must be floating point of shape (P,), got {vector.dtype} of shape {tuple(vector.shape)}"
            )
        values = vector.detach().to("cpu", torch.float64).numpy()
        # Written so that a NaN is found too.
        outside = ~(np.abs(values) <= self.max_abs)
        if outside.any():
            entry = int(outside.argmax())
            raise ConfigurationError(
                f"entry {entry} of a vector for a secure sum is {values[entry]}, and max_abs is {self.max_abs:g}: it "
                f"would have to be clipped ({int(outside.sum())} of {len(values)} entries). Clip the deltas, or choose "
                "a larger max_abs with fewer fraction_bits"
            )
        return np.rint(values * 2.0**self.fraction_bits).astype(np.int64).view(np.uint64)

    def decode(self, total: Words, count: int) -> Tensor:
        """Turn a sum back into numbers.

        Args:
            total: shape ``(P,)``, the sum modulo 2^64.
            count: how many vectors are in it.

        Returns:
            Shape ``(P,)``, float64: exact where the sum has no more than 53 bits.

        Raises:
            PrivacyViolation: a number is larger than so many entries can add up to, so something was left masked or
                was tampered with.
        """
        signed = total.view(np.int64)
        limit = count * self._largest
        if signed.size and (int(signed.max()) > limit or int(signed.min()) < -limit):
            raise PrivacyViolation(
                f"the unmasked sum of {count} vectors has entries beyond {count} * {self.max_abs:g}, which can't be: a "
                "message was changed on its way, or a party doesn't keep to the protocol"
            )
        return torch.from_numpy(signed.astype(np.float64) * 2.0**-self.fraction_bits)
