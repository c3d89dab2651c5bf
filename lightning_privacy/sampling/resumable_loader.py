"""A DataLoader that a trainer can resume in the middle of an epoch.

Workers fetch ahead, so a sampler's own place is ahead of what was trained on. This loader counts the batches it has
handed out. Lightning asks a loader that has a ``state_dict`` for it at every checkpoint, and gives it back on resuming;
``StatefulDataLoader`` of torchdata does the same for any data set, and takes the samplers of this package too.

Example:
    >>> import torch
    >>> from lightning_privacy.sampling import BalancedSampler
    >>> data = torch.arange(6)
    >>> def make():
    ...     return ResumableDataLoader(data, batch_size=2, sampler=BalancedSampler([0, 0, 0, 0, 1, 1]))
    >>> whole, begun, resumed = list(make()), make(), make()
    >>> _ = next(iter(begun))
    >>> resumed.load_state_dict(begun.state_dict())
    >>> torch.equal(torch.cat(list(resumed)), torch.cat(whole[1:]))
    True
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.sampling.balanced_batches import BalancedBatchSampler
from lightning_privacy.sampling.passes import EpochSampler

__all__ = ["ResumableDataLoader"]

T_co = TypeVar("T_co", covariant=True)


class ResumableDataLoader(DataLoader[T_co]):
    """A ``DataLoader`` over a balanced sampler, with a state.

    Workers begin when the first batch is asked for, by when the trainer has told the sampler the epoch. What the data
    set itself draws, as for augmentation, is not part of the state.

    Args:
        *args: As for ``DataLoader``.
        **kwargs: As for ``DataLoader``; ``sampler`` must be a :class:`~lightning_privacy.sampling.BalancedSampler`, or
            ``batch_sampler`` a :class:`~lightning_privacy.sampling.BalancedBatchSampler`.

    Raises:
        ConfigurationError: There is no such sampler, or ``in_order`` is false, when no count says which batches
            were used.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        sampler = self.batch_sampler.sampler if isinstance(self.batch_sampler, BalancedBatchSampler) else self.sampler
        if not isinstance(sampler, EpochSampler):
            raise ConfigurationError(
                f"sampler must be a BalancedSampler, or batch_sampler a BalancedBatchSampler, got "
                f"{type(sampler).__name__}: only these can say where they are"
            )
        if not self.in_order:
            raise ConfigurationError("in_order must be True, got False: which batches were used could not be told")
        # A DataLoader refuses to be given another batch sampler, so these stay as they are.
        self._epochs = sampler
        self._step = getattr(self.batch_sampler, "batch_size", 1)
        self._used: tuple[int, int] | None = None

    @override
    def __iter__(self) -> Any:
        return self._batches()

    def _batches(self) -> Iterator[T_co]:
        epoch = start = 0
        for used, batch in enumerate(super().__iter__()):
            # By its first batch the sampler has begun its pass, and knows of which epoch that is.
            if used == 0:
                epoch, start = self._epochs.epoch, self._epochs.start
            self._used = (epoch, start + (used + 1) * self._step)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where the training loop is, in plain Python types."""
        if self._used is None or self._used[0] != self._epochs.epoch:
            return self._epochs.state_dict()
        return self._epochs.state_dict(self._used[1])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved place: the next pass is the rest of its epoch.

        Raises:
            CheckpointError: The state is of a sampler that draws otherwise.
        """
        self._epochs.load_state_dict(state)
        self._used = None
