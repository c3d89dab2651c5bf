"""Examples of a step whose gradient is one entry of it alone: the canaries of an audit that sees the gradients.

They go through the clipping policy like any example: their gradient is longer than the bound, so each adds as much as
one example can, is counted where the policy counts, and moves nothing else.

Example:
    >>> import torch
    >>> from torch import nn
    >>> from lightning_privacy.gradients.clipping import FlatClipping
    >>> weight = nn.Parameter(torch.zeros(2, 2))
    >>> buffers = GradientBuffers([weight])
    >>> chosen = torch.tensor([1, 3])
    >>> add_single_entries(chosen, [weight], {id(weight): 0}, buffers, FlatClipping(0.5), scale=1.0)
    >>> buffers.view(weight)
    tensor([[0.0000, 0.5000],
            [0.0000, 0.5000]])
    >>> entries_at(chosen, [weight], buffers)
    tensor([0.5000, 0.5000], dtype=torch.float64)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.gradients.buffers import GradientBuffers
from lightning_privacy.gradients.clipping import ClippingPolicy

__all__ = ["add_single_entries", "entries_at"]

# How much longer than the bound the gradient of such an example is.
_TIMES_THE_BOUND = 1000.0


def add_single_entries(
    positions: Tensor,
    parameters: Sequence[nn.Parameter],
    groups: Mapping[int, int],
    buffers: GradientBuffers,
    policy: ClippingPolicy,
    *,
    scale: float,
) -> Tensor | None:
    """Add clipped gradients of one entry to the sum of a step.

    Args:
        positions: int64, shape ``(K,)``: the entry of each, counted over all parameters one after the other.
        parameters: those whose gradient the buffers hold, in order.
        groups: group of each parameter for the policy, by its ``id``.
        buffers: the sum.
        policy: clips and counts.
        scale: factor on everything that enters the sum.

    Returns:
        What the policy counts of them, shape ``(C,)``; None where it counts nothing.

    Raises:
        ConfigurationError: a position that there is not.
    """
    length = _TIMES_THE_BOUND * policy.norm_bound
    squared = torch.zeros(len(positions), max(groups.values()) + 1)
    pieces = list(_by_parameter(positions, parameters))
    for number, chosen, _ in pieces:
        squared[chosen, groups[id(parameters[number])]] = length**2
    factors = policy.bounded_factors(squared)
    for number, chosen, offsets in pieces:
        flat = buffers.view(parameters[number]).view(-1)
        values = factors[chosen, groups[id(parameters[number])]] * (length * scale)
        flat.index_add_(0, offsets.to(flat.device), values.to(flat.device, flat.dtype))
    return policy.counts(squared)


def entries_at(positions: Tensor, parameters: Sequence[nn.Parameter], buffers: GradientBuffers) -> Tensor:
    """What the buffers hold at some entries, float64, shape ``(K,)``, on the CPU.

    Args:
        positions: as of :func:`add_single_entries`.
        parameters: as of :func:`add_single_entries`.
        buffers: the gradient; noisy once it was released.

    Raises:
        ConfigurationError: a position that there is not.
    """
    values = torch.zeros(len(positions), dtype=torch.float64)
    for number, chosen, offsets in _by_parameter(positions, parameters):
        flat = buffers.view(parameters[number]).view(-1)
        values[chosen] = flat[offsets.to(flat.device)].to("cpu", torch.float64)
    return values


def _by_parameter(positions: Tensor, parameters: Sequence[nn.Parameter]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Number of each parameter that has some, which of the positions it has, and where in it they are."""
    ends = torch.tensor([parameter.numel() for parameter in parameters]).cumsum(0)
    if len(positions) and (int(positions.min()) < 0 or int(positions.max()) >= int(ends[-1])):
        raise ConfigurationError(f"positions must be in [0, {int(ends[-1])}), the entries of the gradient")
    owners = torch.searchsorted(ends, positions, right=True)
    for number in sorted(set(owners.tolist())):
        chosen = (owners == number).nonzero().view(-1)
        yield number, chosen, positions[chosen] - (ends[number] - parameters[number].numel())
