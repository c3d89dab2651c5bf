"""A training set with a slot for each canary, whether the canary is in or out.

What an audit measures is how far one canary in place of nothing moves the model. Nothing else may move with it: not the
size of the data set, from which the sample rate comes, nor the size of a batch by which a noisy sum is divided. So a
canary that is out keeps its slot, is drawn like any example, and is left out of the batch that was drawn: the null
record of the ledger's neighbours.

Example:
    >>> slots = CanarySlots(["a", "b", "c"], {1: "canary of b", 3: "added"}, absent=[3])
    >>> len(slots), slots[0], slots[1], slots.hidden.tolist()
    (4, 'a', 'canary of b', [False, False, False, True])
    >>> slots.present().tolist()
    [0, 1, 2]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from lightning_privacy.audit.gradient_canaries import GradientCanaries

__all__ = ["CanarySlots", "ClientCanaries"]


class _Around(Dataset[Any]):
    """Stands in front of a data set and has its attributes.

    Args:
        dataset: The other one.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":  # while it is unpickled or copied
            raise AttributeError(name)
        return getattr(self.dataset, name)


class CanarySlots(_Around):
    """Training examples, canaries in place of some of them, and canaries added at the end.

    Args:
        dataset: The training set, of n examples.
        canaries: Canaries by slot: below n in place of an example, from n on added.
        absent: Slots of the canaries that are out.
        gradients: Canaries that are gradients and no examples; they have the last slots.
    """

    def __init__(
        self,
        dataset: Any,
        canaries: Mapping[int, Any],
        *,
        absent: Iterable[int] = (),
        gradients: GradientCanaries | None = None,
    ) -> None:
        super().__init__(dataset)
        self._examples = len(dataset)
        self._canaries = dict(canaries)
        self.gradients = gradients
        added = sum(slot >= self._examples for slot in self._canaries)
        self._size = self._examples + added + (0 if gradients is None else gradients.count)
        #: Which slots no batch ever holds, shape ``(N,)``.
        self.hidden: NDArray[np.bool_] = np.zeros(self._size, dtype=np.bool_)
        self.hidden[list(absent)] = True
        if gradients is not None:
            self.hidden[gradients.first_slot :] = True

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Any:
        slot = int(index)
        if slot in self._canaries:
            return self._canaries[slot]
        # A canary that is a gradient has no example; whoever looks at the data set gets one that is there anyway.
        return self.dataset[slot if slot < self._examples else slot % self._examples]

    def present(self) -> NDArray[np.int64]:
        """The slots that batches may hold."""
        return np.flatnonzero(~self.hidden)


class ClientCanaries(_Around):
    """A federated training set in which some clients are canaries: all they hold is made into canaries.

    Which clients there are is known when the data are shared out; then ``choose`` is asked.

    Args:
        dataset: The training set.
        choose: From the examples of each client to the canaries, by example, and the clients that are out.
    """

    def __init__(
        self,
        dataset: Any,
        choose: Callable[[Sequence[NDArray[np.int64]]], tuple[Mapping[int, Any], frozenset[int]]],
    ) -> None:
        super().__init__(dataset)
        self._choose = choose
        self._canaries: dict[int, Any] = {}

    def share_out(self, parts: Sequence[NDArray[np.int64]]) -> frozenset[int]:
        """Choose the canaries.

        Args:
            parts: The examples of each client.

        Returns:
            The clients that never take part, as if they held nothing.
        """
        canaries, absent = self._choose(parts)
        self._canaries = dict(canaries)
        return absent

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        slot = int(index)
        return self._canaries[slot] if slot in self._canaries else self.dataset[slot]
