"""A bound of a clipping policy that moves from step to step, within limits.

Example:
    >>> bound = MovingBound("max_grad_norm", 1.0, low=0.5, high=2.0)
    >>> bound.move(0.1)  # not at a limit
    False
    >>> round(bound.value, 3)
    1.105
    >>> bound.state_dict()["max_grad_norm"] == bound.value
    True
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning_privacy.errors import CheckpointError

__all__ = ["MovingBound"]


class MovingBound:
    """A bound, where it began, and how far it may go.

    Args:
        name: under which a checkpoint has it.
        value: of the first step, above 0.
        low: least value.
        high: largest value.

    Attributes:
        initial: the value of the first step.
        value: the value of the next step.
    """

    def __init__(self, name: str, value: float, *, low: float, high: float) -> None:
        self._name, self._low, self._high = name, low, high
        self.initial = self.value = value

    def move(self, change: float) -> bool:
        """Multiply the value by ``exp(change)``, or take the nearer limit where that is beyond it.

        Args:
            change: any finite number.

        Returns:
            Whether it came to one of the limits just now.
        """
        before = self.value
        # In logarithms, so that a count drowned in noise leads to one of the limits and not to an overflow.
        logarithm = math.log(before) + change
        if logarithm <= math.log(self._low):
            self.value = self._low
        else:
            self.value = self._high if logarithm >= math.log(self._high) else math.exp(logarithm)
        return self.value != before and self.value in (self._low, self._high)

    def state_dict(self) -> dict[str, Any]:
        """Return the value of the next step, by the bound's name."""
        return {self._name: self.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with a saved value.

        Args:
            state: what :meth:`state_dict` returned.

        Raises:
            CheckpointError: there is no such bound in it, or it is outside the limits.
        """
        value = state.get(self._name)
        if set(state) != {self._name} or not isinstance(value, float):
            raise CheckpointError(
                f"the saved state of this clipping policy must be a {self._name}, got {dict(state)!r}; it is damaged "
                "or of another clipping policy"
            )
        if not self._low <= value <= self._high:
            raise CheckpointError(
                f"the saved {self._name} is {value!r}, outside of the limits {self._low!r} and {self._high!r}; resume "
                "with the limits the run was started with"
            )
        self.value = value
