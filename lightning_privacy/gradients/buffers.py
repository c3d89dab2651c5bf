"""The gradient in the making: one flat tensor per dtype and device, with a view for each parameter.

A step starts by filling it with the step's noise; clipped sums are added on top, micro-batch by micro-batch. So the
sum of a step never exists without its noise, and noise costs one pass over memory. Sums are kept in float32 or better;
parameters of half precision get a rounded copy in the end.
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
        self._rounded: list[tuple[Tensor, Tensor]] = []  # copies for parameters of half precision, and their originals
        self._gradients: dict[int, Tensor] = {}
        self._first = [members[0] for members in groups.values()]
        self._kinds = list(groups)
        for (dtype, device), members in groups.items():
            flat, views = _allocate(members, torch.promote_types(dtype, torch.float32), device)
            self._flat.append(flat)
            self._views.update(views)
            if flat.dtype == dtype:
                self._gradients.update(views)
                continue
            rounded, views = _allocate(members, dtype, device)
            self._rounded.append((rounded, flat))
            self._gradients.update(views)

    @property
    def flat(self) -> list[Tensor]:
        """The storage itself: one 1-D tensor for each precision and device."""
        return self._flat

    def fits(self) -> bool:
        """Return whether the parameters still have the precision and device they had; whole modules are moved."""
        return [(parameter.dtype, parameter.device) for parameter in self._first] == self._kinds

    def begin(self, noise: NoiseSource, *, std: float, step: int, stream: int = 0) -> None:
        """Fill with the noise of ``step``.

        Args:
            noise: the source.
            std: standard deviation, in the units of the final gradient; 0 fills with zeros.
            step: number of the step; a seeded source derives the noise from it.
            stream: number of the first stream of that noise.
        """
        for number, flat in enumerate(self._flat):
            if std == 0:
                flat.zero_()
            else:
                noise.normal_(flat, std=std, step=step, stream=stream + number)

    def clear(self) -> None:
        """Overwrite what was collected, so that an abandoned step leaves nothing behind."""
        for flat in self._flat:
            flat.zero_()

    def view(self, parameter: nn.Parameter) -> Tensor:
        """Return the slice that belongs to ``parameter``, in its shape."""
        return self._views[id(parameter)]

    def publish(self) -> None:
        """Make the buffer's content the ``grad`` of the parameters that train at the moment."""
        for rounded, flat in self._rounded:
            rounded.copy_(flat)
        for parameter in self._parameters:
            parameter.grad = self._gradients[id(parameter)] if parameter.requires_grad else None

    def withdraw(self) -> None:
        """Take ``grad`` away from the parameters."""
        for parameter in self._parameters:
            parameter.grad = None

    def published(self) -> bool:
        """Return whether each parameter's ``grad`` is this buffer's, or None."""
        return all(p.grad is None or p.grad is self._gradients[id(p)] for p in self._parameters)


def _allocate(
    members: Sequence[nn.Parameter], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, dict[int, Tensor]]:
    """Return flat zeros for ``members`` and each one's view of it, by ``id``."""
    flat = torch.zeros(sum(p.numel() for p in members), dtype=dtype, device=device)
    pieces = torch.split(flat, [p.numel() for p in members])
    return flat, {id(p): piece.view(p.shape) for p, piece in zip(members, pieces, strict=True)}
