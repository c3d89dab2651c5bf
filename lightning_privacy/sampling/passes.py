"""One global sequence of indices per epoch, divided among processes, resumed in its middle.

What a sampler has to say is only which index stands where in an epoch; dividing, counting and saving is here.

Example:
    >>> import numpy as np
    >>> class Ascending(EpochSampler):
    ...     def _blocks(self, epoch, start):
    ...         yield np.arange(self.num_samples)[start * self.num_replicas + self.rank :: self.num_replicas]
    >>> first = Ascending(num_examples=6, num_samples=6, seed=0, num_replicas=2, rank=0)
    >>> drawn = iter(first)
    >>> next(drawn), first.state_dict()["position"]
    (0, 2)
    >>> second = Ascending(num_examples=6, num_samples=6, seed=0, num_replicas=2, rank=1)
    >>> second.load_state_dict(first.state_dict())
    >>> list(second)
    [3, 5]
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from itertools import chain
from operator import length_hint
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import distributed as dist
from torch.utils.data import DistributedSampler
from typing_extensions import override

from lightning_privacy._validate import non_negative_int, positive_int
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.sampling._agreement import group_size, replica_of

__all__ = ["EpochSampler"]

# Lists of this length stay in the cache from the moment they are made until they are read.
_LIST = 4096


class EpochSampler(DistributedSampler[int]):
    """A sampler that divides its draws among the processes itself.

    As it is a ``DistributedSampler``, Lightning neither replaces nor wraps it, and tells it each epoch's number. What
    remains when ``num_samples`` is divided by the processes is left out, so that all have equally many.

    Args:
        num_examples: Size of the data set.
        num_samples: Length of an epoch over all processes.
        seed: Of all draws; the same in all processes.
        num_replicas: How many processes share the draws. By default those of the process group, looked up when it is
            needed, so that the sampler can be made before there is one.
        rank: Which of them this is.

    Attributes:
        epoch: Number of the epoch that is drawn. A pass that was drawn to its end is followed by the next epoch,
            unless :meth:`set_epoch` says otherwise.

    Raises:
        ConfigurationError: An argument is out of range, or only one of ``num_replicas`` and ``rank`` is given.
    """

    def __init__(  # DistributedSampler's own wants a process group, or its numbers, now
        self, *, num_examples: int, num_samples: int, seed: int, num_replicas: int | None, rank: int | None
    ) -> None:
        self.num_examples = num_examples
        self.num_samples = positive_int(num_samples=num_samples)
        self.seed = non_negative_int(seed=seed)
        self._replica = None if num_replicas is None and rank is None else replica_of(num_replicas, rank)
        self.dataset = range(num_examples)  # type: ignore[assignment] # for who looks for what is divided
        self.shuffle, self.drop_last = True, True
        self.epoch = 0
        self._advance = False
        self._resume: tuple[int, int] | None = None
        self._start = self._position = 0
        self._indices: Iterator[int] = iter(())

    @abstractmethod
    def _blocks(self, epoch: int, start: int) -> Iterator[NDArray[np.signedinteger]]:
        """This process's indices of an epoch from its place ``start`` on, in pieces of any length."""

    @property
    def num_replicas(self) -> int:  # type: ignore[override]
        """Number of processes that share the draws: as given, else those of the process group as it is now."""
        return group_size() if self._replica is None else self._replica[0]

    @property
    def rank(self) -> int:  # type: ignore[override]
        """Which of the processes this is."""
        if self._replica is not None:
            return self._replica[1]
        return dist.get_rank() if group_size() > 1 else 0

    @property
    def total_size(self) -> int:  # type: ignore[override]
        """Number of indices that all processes together draw in an epoch."""
        return len(self) * self.num_replicas

    @property
    def position(self) -> int:
        """How many indices of this epoch this process has drawn.

        A loader with workers draws ahead of what the training loop has seen: tell :meth:`state_dict` how many examples
        were used, or take a :class:`~lightning_privacy.sampling.ResumableDataLoader`.
        """
        return self._position - length_hint(self._indices)

    @property
    def start(self) -> int:
        """At which position the latest pass began: above 0 where it goes on from a saved state."""
        return self._start

    @override
    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass. Lightning calls it.

        Args:
            epoch: Its number, >= 0. Another one than now, or one that is over, begins at its first index.
        """
        over = self._advance and self._resume is None
        if non_negative_int(epoch=epoch) != self.epoch or over:
            self._resume, self._position, self._indices = None, 0, iter(())
        self.epoch = int(epoch)
        self._advance = False

    @override
    def __len__(self) -> int:
        length = self._local_length()
        if length == 0:
            raise ConfigurationError(
                f"num_samples={self.num_samples} leaves nothing for one of {self.num_replicas} processes: ask for more"
            )
        return length

    def _local_length(self) -> int:
        return self.num_samples // self.num_replicas

    @override
    def __iter__(self) -> Iterator[int]:
        # A chain of lists: an index costs no step of a Python function.
        return chain.from_iterable(self._pass())

    def _pass(self) -> Iterator[Iterator[int]]:
        # Runs when the first index is asked for: an epoch may be chosen between iter() and then.
        start = 0
        if self._advance:
            self.epoch, self._advance = self.epoch + 1, False
        elif self._resume is not None:
            start = self._local(self._resume[1])
        self._resume = None
        epoch, position = self.epoch, start
        self._start, self._position, self._indices = start, start, iter(())
        for block in self._blocks(epoch, start):
            for begin in range(0, len(block), _LIST):
                indices = block[begin : begin + _LIST].tolist()
                position += len(indices)
                self._position, self._indices = position, iter(indices)
                yield self._indices
        self._advance = self.epoch == epoch

    def _local(self, place: int) -> int:
        """The first place of this process at or after a place of the global sequence."""
        return min(-(-place // self.num_replicas), len(self))

    def _must_agree(self) -> dict[str, Any]:
        """What the draws depend on, in plain Python types."""
        return {"seed": self.seed, "num_samples": self.num_samples, "num_examples": self.num_examples}

    def state_dict(self, position: int | None = None) -> dict[str, Any]:
        """Where the sampler is, in plain Python types.

        Args:
            position: How many examples of the epoch this process has used, where a loader has drawn further ahead:
                batches done times batch size, at most.
        """
        if position is None and self._resume is not None:
            place = self._resume[1]
        else:
            local = self.position if position is None else min(non_negative_int(position=position), len(self))
            place = local * self.num_replicas
        return self._must_agree() | {"epoch": self.epoch, "position": place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved place; the number of processes may be another one.

        The next pass is what remains of the saved epoch. A state of an epoch's end leads to the next epoch.

        Raises:
            CheckpointError: The state is of a sampler that draws otherwise, or is not one at all.
        """
        for name, value in self._must_agree().items():
            if name not in state or state[name] != value:
                saved = repr(state[name]) if name in state else "nothing"
                raise CheckpointError(
                    f"the checkpoint's sampler has {name} {saved}, this one has {value!r}: it would draw other "
                    "examples; resume with the same data and arguments"
                )
        try:
            epoch = non_negative_int(epoch=state["epoch"])
            place = non_negative_int(position=state["position"])
        except (KeyError, ConfigurationError) as error:
            raise CheckpointError(f"the checkpoint's sampler has no usable place: {error}") from error
        self.epoch, self._resume = epoch, (epoch, place)
        self._position, self._indices = self._local(place), iter(())
        self._advance = self._position == len(self)
