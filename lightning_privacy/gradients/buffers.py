"""The gradient in the making: one flat tensor per dtype and device, with a view for each parameter.

A step starts by filling it with the step's noise; clipped sums are added on top, micro-batch by micro-batch. So the
sum of a step never exists without its noise, and noise costs one pass over memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_privacy.mechanisms.noise import NoiseSource

__all__ = ["GradientBuffers"]


class GradientBuffers:
    """Flat storage for the private gradient of some parameters.

    Args:
        parameters: the trainable parameters; order fixes which noise goes where.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        groups: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
        for parameter in self._parameters:
            groups.setdefault((parameter.dtype, parameter.device), []).append(parameter)
        self._flat: list[Tensor] = []
        self._views: dict[int, Tensor] = {}
        for (dtype, device), members in groups.items():
            flat = torch.zeros(sum(p.numel() for p in members), dtype=dtype, device=device)
            self._flat.append(flat)
            for parameter, piece in zip(members, torch.split(flat, [p.numel() for p in members]), strict=True):
                self._views[id(parameter)] = piece.view(parameter.shape)

    def begin(self, noise: NoiseSource, *, std: float, step: int) -> None:
        """Fill with the noise of ``step``.

        Args:
            noise: the source.
            std: standard deviation, in the units of the final gradient; 0 fills with zeros.
            step: number of the step; a seeded source derives the noise from it.
        """
        for stream, flat in enumerate(self._flat):
            if std == 0:
                flat.zero_()
            else:
                noise.normal_(flat, std=std, step=step, stream=stream)

    def clear(self) -> None:
        """Overwrite what was collected, so that an abandoned step leaves nothing behind."""
        for flat in self._flat:
            flat.zero_()

    def view(self, parameter: nn.Parameter) -> Tensor:
        """Return the slice that belongs to ``parameter``, in its shape."""
        return self._views[id(parameter)]

    def publish(self) -> None:
        """Make the buffer's content the ``grad`` of the parameters."""
        for parameter in self._parameters:
            parameter.grad = self._views[id(parameter)]

    def withdraw(self) -> None:
        """Take ``grad`` away from the parameters."""
        for parameter in self._parameters:
            parameter.grad = None

    def published(self) -> bool:
        """Return whether each parameter's ``grad`` is this buffer's, or None."""
        return all(p.grad is None or p.grad is self._views[id(p)] for p in self._parameters)
