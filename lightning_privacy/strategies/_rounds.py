"""What Lightning sees in place of batches: rounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["Round", "RoundLoader"]


class Round:
    """One communication round; hooks of callbacks get it where they would get a batch.

    Iterating gives one tensor with the numbers of the clients that were drawn, so that Lightning, which asks a batch
    for its size, finds that of the cohort. (A plain class: Lightning takes dataclasses apart.)

    Args:
        number: Of the round, from 0 over the whole training.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.cohort: list[int] = []

    def __iter__(self) -> Iterator[Tensor]:
        yield torch.tensor(self.cohort or [-1])

    def __repr__(self) -> str:
        return f"Round({self.number}, cohort={self.cohort})"


class RoundLoader:
    """An epoch's rounds; knows where a run was resumed in the middle of an epoch.

    Args:
        user_loader: The loader the user gave.
        rounds: Of an epoch.

    Example:
        >>> [item.number for item in RoundLoader(None, 2)]
        [0, 1]
    """

    def __init__(self, user_loader: Any, rounds: int) -> None:
        self.user_loader = user_loader
        self._rounds = rounds
        self._next = 0

    def __len__(self) -> int:
        return self._rounds

    def __iter__(self) -> Iterator[Round]:
        start, self._next = self._next, 0
        for index in range(start, self._rounds):
            # What is saved while round `index` is trained is where to go on after it.
            self._next = (index + 1) % self._rounds
            yield Round(index)

    def state_dict(self) -> dict[str, int]:
        """Where to go on."""
        return {"next": self._next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on there."""
        self._next = int(state["next"])
