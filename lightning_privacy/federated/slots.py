"""Where a module's tensors are, so that a step that puts others in their place can be undone.

A training step may write ``p.data = ...``, assign a new tensor to a registered buffer, or change a parameter that
doesn't train. Values that are only copied back and forth would then go to tensors that the module no longer holds,
and one client's values would stay in it.

Example:
    >>> import torch
    >>> from torch import nn
    >>> layer = nn.Linear(2, 1, bias=False)
    >>> layer.register_buffer("center", torch.zeros(2))
    >>> slots, known = TensorSlots(layer), layer.center
    >>> layer.center = layer.center + 1
    >>> layer.weight.data = torch.ones(1, 2)
    >>> slots.take_back()
    >>> layer.center is known, known.tolist(), layer.weight.tolist()
    (True, [1.0, 1.0], [[1.0, 1.0]])
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["TensorSlots"]


class TensorSlots:
    """The parameters and buffers of a module, as objects and as memory.

    Args:
        module: The module, on its device.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._parameters = [
            (layer, name, parameter, parameter.detach())
            for layer in module.modules()
            for name, parameter in layer._parameters.items()
            if parameter is not None
        ]
        self._buffers = [(layer, dict(layer._buffers)) for layer in module.modules()]

    @torch.no_grad()
    def take_back(self) -> None:
        """Put the known tensors where they were, with the values of those found in their place.

        A value of another shape or type is dropped; so is a buffer that was not there before.
        """
        for layer, name, parameter, memory in self._parameters:
            held = layer._parameters.get(name)
            if held is not parameter:
                layer._parameters[name] = parameter
                _take_over(memory, held)
            if parameter.data_ptr() != memory.data_ptr() or parameter.shape != memory.shape:
                _take_over(memory, parameter.detach())
                parameter.data = memory
        for layer, known in self._buffers:
            if layer._buffers.keys() == known.keys() and all(layer._buffers[name] is known[name] for name in known):
                continue
            for name in [name for name in layer._buffers if name not in known]:
                del layer._buffers[name]
            for name, tensor in known.items():
                found = layer._buffers.get(name)
                if found is not tensor:
                    layer._buffers[name] = tensor
                    _take_over(tensor, found)


def _take_over(known: Tensor | None, found: Any) -> None:
    if isinstance(known, Tensor) and isinstance(found, Tensor) and known.shape == found.shape:
        known.copy_(found)
