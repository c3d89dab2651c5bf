"""What the aggregators share: checks of their input, work on slices of columns, distances of all pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lightning_privacy.errors import ConfigurationError

__all__ = ["by_columns", "checked", "inner_products", "squared_distances", "weighted_sum", "wide"]

# Elements of a slice of columns: sorting one takes three times its memory.
_SLICE = 1 << 22


def checked(deltas: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows and weights as they are, the weights in the rows' type, or refuse them.

    Raises:
        ConfigurationError: shapes that don't fit, an entry that is not finite, a weight below 0.
    """
    if deltas.dim() != 2 or not deltas.is_floating_point() or 0 in deltas.shape:
        raise ConfigurationError(
            f"deltas must be floating point of shape (clients, entries), both at least 1, got {deltas.dtype} of shape "
            f"{tuple(deltas.shape)}"
        )
    if weights.shape != deltas.shape[:1]:
        raise ConfigurationError(
            f"weights must have shape ({deltas.shape[0]},), one for each row of deltas, got {tuple(weights.shape)}"
        )
    weights = weights.to(deltas.device, deltas.dtype)
    if not bool((weights.isfinite() & (weights >= 0)).all()):
        raise ConfigurationError(f"weights must be finite and at least 0, got {weights.tolist()}")
    finite = deltas.isfinite().all(dim=1).tolist()
    if not all(finite):
        raise ConfigurationError(
            f"row {finite.index(False)} of deltas is not finite: leave out the clients whose update is not, or they "
            "would spoil the model"
        )
    return deltas, weights


def wide(tensor: Tensor) -> Tensor:
    """Return an empty tensor of the type to compute sums and distances in: float64 where the device has it."""
    return tensor.new_empty(0, dtype=tensor.dtype if tensor.device.type == "mps" else torch.float64)


def _slices(deltas: Tensor) -> Iterator[slice]:
    clients, entries = deltas.shape
    width = max(1, _SLICE // clients)
    for start in range(0, entries, width):
        yield slice(start, min(start + width, entries))


def by_columns(deltas: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function from ``(K, width)`` to ``(width,)`` to slices of the columns, so that memory stays bounded."""
    result = deltas.new_empty(deltas.shape[1])
    for columns in _slices(deltas):
        result[columns] = reduce(deltas[:, columns])
    return result


def squared_distances(deltas: Tensor) -> Tensor:
    """Squared Euclidean distances of all pairs of rows: shape ``(K, K)``, float64, zeros on the diagonal.

    From inner products: with 53 bits, cancellation leaves 1e-15 of the squared norms of the pair, whatever the others
    send.
    """
    inner = inner_products(deltas)
    norms = inner.diagonal()
    # Two rows so large that their squares overflow have no difference; they count as infinitely far from each other.
    distances = (norms[:, None] + norms[None, :] - 2.0 * inner).nan_to_num_(nan=torch.inf, posinf=torch.inf)
    distances.clamp_min_(0.0)
    return distances.fill_diagonal_(0.0)


def inner_products(deltas: Tensor) -> Tensor:
    """Inner products of all pairs of rows: shape ``(K, K)``, float64."""
    dtype = wide(deltas).dtype
    clients = deltas.shape[0]
    inner = deltas.new_zeros(clients, clients, dtype=dtype)
    for columns in _slices(deltas):
        part = deltas[:, columns].to(dtype)
        inner.addmm_(part, part.T)
    return inner


def weighted_sum(deltas: Tensor, weights: Tensor) -> Tensor:
    """``sum_i w_i delta_i`` in the order of the rows: the same bits whatever the number of threads."""
    total = torch.zeros_like(deltas[0])
    for row, weight in zip(deltas, weights.tolist(), strict=True):
        if weight:
            total.add_(row, alpha=weight)
    return total
