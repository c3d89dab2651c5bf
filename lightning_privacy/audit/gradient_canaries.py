"""Canaries that are gradients: one entry as long as the clipping bound, and nothing else.

No example does more to the sum of clipped gradients, and none is easier to see in it: who sees every private gradient
adds up the entry over the steps ("Dirac canaries": Nasr et al., "Tight Auditing of Differentially Private Machine
Learning", 2023, section 4; Steinke, Nasr and Jagielski, 2023, section 6). They are drawn, clipped and charged like
examples.

The sum is the best to look at where every step has noise of its own. Where noise comes back, it does not average out,
and the entry of a canary stands out by how much it changes from step to step.

Example:
    >>> canaries = GradientCanaries([True, False, True], first_slot=10, seed=0)
    >>> canaries.place(100)
    >>> len(canaries.drawn([3, 10, 11])), canaries.positions.shape  # of slots 10 to 12, 11 is out
    (1, (3,))
    >>> canaries.observe([0.5, 0.0, 0.25])
    >>> canaries.observe([0.5, 0.0, 0.25])
    >>> canaries.sums.tolist(), canaries.variances.tolist()
    ([1.0, 0.0, 0.5], [0.0, 0.0, 0.0])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lightning_privacy.errors import CheckpointError, ConfigurationError

__all__ = ["GradientCanaries"]


class GradientCanaries:
    """Which entries of the gradient are canaries, and what was seen there.

    Args:
        coins: Which of them are in, shape ``(m,)``.
        first_slot: Slot of the first one in the training set; the others follow.
        seed: Of the choice of entries, which is no secret.
    """

    def __init__(self, coins: ArrayLike, *, first_slot: int, seed: int) -> None:
        self.coins: NDArray[np.bool_] = np.asarray(coins, dtype=np.bool_)
        self.first_slot = first_slot
        #: What was seen at each entry, added up over the steps, shape ``(m,)``.
        self.sums: NDArray[np.float64] = np.zeros(len(self.coins))
        self._squares: NDArray[np.float64] = np.zeros(len(self.coins))
        self._steps = 0
        #: The entry of each canary, shape ``(m,)``; empty before :meth:`place`.
        self.positions: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._seed = seed
        self._num_entries = 0

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.coins)

    def place(self, num_entries: int) -> None:
        """Choose the entries; the same ones whenever there are as many to choose from.

        Args:
            num_entries: Entries of the private gradient.

        Raises:
            ConfigurationError: Fewer than canaries, or other than before.
        """
        if self._num_entries == num_entries:
            return  # asked in every step
        if num_entries < self.count:
            raise ConfigurationError(
                f"num_canaries must be at most the number of parameters that are trained privately, {num_entries}, as "
                f"each canary takes one of them, got {self.count}"
            )
        if self._num_entries != 0:
            raise ConfigurationError(
                f"the gradient has {num_entries} entries and had {self._num_entries} before: parameters were frozen or "
                "unfrozen during an audit by gradients, whose canaries would move; audit by examples instead, such as "
                "canaries='mislabelled'"
            )
        self._num_entries = num_entries
        self.positions = np.random.default_rng(self._seed).choice(num_entries, self.count, replace=False)

    def drawn(self, slots: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """The entries of the canaries that are in, among the slots that were drawn for a step.

        Args:
            slots: Of the whole training set.
        """
        numbers = np.asarray(slots, dtype=np.int64) - self.first_slot
        numbers = numbers[(numbers >= 0) & (numbers < self.count)]
        return self.positions[numbers[self.coins[numbers]]]

    @property
    def variances(self) -> NDArray[np.float64]:
        """How much each entry changed from step to step, shape ``(m,)``."""
        steps = max(1, self._steps)
        spread: NDArray[np.float64] = np.maximum(self._squares / steps - (self.sums / steps) ** 2, 0.0)
        return spread

    def observe(self, values: ArrayLike) -> None:
        """Take in what a private gradient holds at the entries.

        Args:
            values: Shape ``(m,)``.
        """
        seen = np.asarray(values, dtype=np.float64)
        self.sums += seen
        self._squares += seen**2
        self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        """What was seen so far, in plain Python types."""
        return {"sums": self.sums.tolist(), "squares": self._squares.tolist(), "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave.

        Args:
            state: What it gave.

        Raises:
            CheckpointError: It is damaged, or of another number of canaries.
        """
        try:
            sums, squares = (np.array(state[name], dtype=np.float64) for name in ("sums", "squares"))
            steps = int(state["steps"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"what the checkpoint's audit has seen can't be read: {error!r}") from error
        if sums.shape != self.sums.shape or squares.shape != self.sums.shape:
            raise CheckpointError(f"the checkpoint's audit has seen {sums.shape} entries of {self.count} canaries")
        self.sums, self._squares, self._steps = sums, squares, steps
