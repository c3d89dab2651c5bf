"""Notices buffers and frozen parameters that training changes: nothing bounds what they take from an example.

Weights learn through clipped, noisy gradients. A buffer that a layer writes to in its forward (a running mean, a
codebook, a memory bank) does not, and a checkpoint contains it all the same. Neither does what else a module puts into
``state_dict()``, such as the states of a metric that is persistent.

Example:
    >>> import torch
    >>> module = torch.nn.Module()
    >>> module.register_buffer("mean", torch.zeros(2))
    >>> watch = BufferWatch(module)
    >>> _ = module.mean.add_(1)
    >>> watch.changed(), watch.changed()
    (['mean'], [])
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lightning_privacy.gradients.state_values import holds_more_than_a_count, state_values

__all__ = ["BufferWatch"]


class BufferWatch:
    """Compares buffers and frozen parameters with what they were; a whole number alone counts steps and the like.

    Args:
        module: The module that is watched, buffers that a checkpoint leaves out too.
        values: Remember what everything holds, for :meth:`differing`.
    """

    def __init__(self, module: nn.Module, *, values: bool = False) -> None:
        self._module = module
        self._known: set[str] = set()
        self._before = self._state()
        self._values: dict[str, Any] = state_values(module) if values else {}

    def changed(self) -> list[str]:
        """Return the buffers that were written to or replaced since the last call, each at most once.

        Cheap, and blind to what is written past the tensor itself (``buffer.data``, a NumPy view).
        """
        before, self._before = self._before, self._state()
        for name in before.keys() - self._before.keys():  # thawed: what it holds when it is frozen again was trained
            self._values.pop(name, None)
        names = [
            name
            for name, (buffer, version) in self._before.items()
            if name not in self._known
            and (name not in before or buffer is not before[name][0] or version != before[name][1])
        ]
        self._known.update(names)
        return names

    def differing(self) -> list[str]:
        """Return what holds something else than at the start, and was not told before.

        Looks at every value, also of entries of ``state_dict()`` that are neither parameters nor buffers (states of
        metrics, extra states): for the end of an epoch or of training, not for every step.
        """
        before, self._values = self._values, state_values(self._module)
        parameters = dict(self._module.named_parameters())
        names = [
            name
            for name, value in self._values.items()
            if name not in self._known
            and (value != before[name] if name in before else name not in parameters)  # a part that is frozen later
        ]
        self._known.update(names)
        return names

    def _state(self) -> dict[str, tuple[Tensor, int]]:
        # The version counts in-place changes; a tensor in place of another is told by identity, for which the old
        # one is kept: the id of one that is gone may come again.
        buffers = [(name, each) for name, each in self._module.named_buffers() if holds_more_than_a_count(each)]
        frozen = [(name, each) for name, each in self._module.named_parameters() if not each.requires_grad]
        return {name: (tensor, tensor._version) for name, tensor in buffers + frozen}
