"""Notices buffers and frozen parameters that training changes: nothing bounds what they take from an example.

Weights learn through clipped, noisy gradients. A buffer that a layer writes to in its forward (a running mean, a
codebook, a memory bank) does not, and a checkpoint contains it all the same.

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

from torch import Tensor, nn

__all__ = ["BufferWatch"]


class BufferWatch:
    """Compares buffers and frozen parameters with what they were; a whole number alone counts steps and the like.

    Args:
        module: The module that is watched, buffers that a checkpoint leaves out too.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._known: set[str] = set()
        self._before = self._state()

    def changed(self) -> list[str]:
        """Return the buffers that were written to or replaced since the last call, each at most once."""
        before, self._before = self._before, self._state()
        names = [
            name
            for name, (buffer, version) in self._before.items()
            if name not in self._known
            and (name not in before or buffer is not before[name][0] or version != before[name][1])
        ]
        self._known.update(names)
        return names

    def _state(self) -> dict[str, tuple[Tensor, int]]:
        # The version counts in-place changes; a tensor in place of another is told by identity, for which the old
        # one is kept: the id of one that is gone may come again.
        buffers = [
            (name, buffer)
            for name, buffer in self._module.named_buffers()
            if buffer.is_floating_point() or buffer.numel() > 1
        ]
        frozen = [(name, each) for name, each in self._module.named_parameters() if not each.requires_grad]
        return {name: (tensor, tensor._version) for name, tensor in buffers + frozen}
