"""What a process sums over its clients in a round, as one flat vector, so that one all-reduce adds up all processes.

With a linear aggregator nothing but the sum is kept, whatever the size of the cohort. Other aggregators need every
delta, and get them as rows.

Floating-point sums depend on the order, and the order on the number of processes: results then agree to rounding. With
``exact=True`` the summands are rounded to multiples of 2^-40 first and added as 64-bit whole numbers, which gives the
same bits in every order.

Example:
    >>> import torch
    >>> tally = Tally(size=2, num_counters=0, device=torch.device("cpu"))
    >>> tally.add(torch.tensor([1.0, 2.0]), weight=3.0, increments=[], extras={}, loss=0.5)
    >>> tally.add(torch.tensor([5.0, 2.0]), weight=1.0, increments=[], extras={}, loss=1.5)
    >>> summed = tally.finish(lambda vector: None)
    >>> summed.mean(), summed.received, summed.loss
    (tensor([2., 2.]), 2, 0.75)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_privacy.errors import ConfigurationError

__all__ = ["HEAD", "CohortSum", "Tally", "check_extras", "head_of"]

_FRACTION_BITS = 40
_LARGEST = float(2 ** (62 - _FRACTION_BITS))

HEAD = 4
"""Figures before everything else: weight, clients, weighted loss, weight of the losses that exist."""


@dataclass(frozen=True)
class CohortSum:
    """Sums over the clients of all processes.

    Args:
        total: Shape ``(P,)``, sum of weight times delta.
        weight: Sum of the weights.
        received: Number of clients.
        loss: Mean loss over the clients that have one, by weight; NaN where none has.
        increments: Mean of the counters' increments, each client counted once.
        extras: Sums of further vectors, by name.
        directions: Sum of the deltas divided by their norms, shape ``(P,)``.
    """

    total: Tensor
    weight: float
    received: int
    loss: float
    increments: list[float]
    extras: dict[str, Tensor]
    directions: Tensor

    @classmethod
    def of_parts(
        cls,
        head: Sequence[float],
        counters: Sequence[float],
        *,
        total: Tensor,
        directions: Tensor,
        extras: Mapping[str, Tensor],
    ) -> CohortSum:
        """Make it of what was summed.

        Args:
            head: The ``HEAD`` figures.
            counters: Sums of the counters' increments.
            total: Sum of weight times delta.
            directions: Sum of the deltas divided by their norms.
            extras: Sums of the further vectors.
        """
        weight, received, loss, known = head
        count = round(received)
        return cls(
            total=total,
            weight=weight,
            received=count,
            loss=loss / known if known > 0 else math.nan,
            increments=[x / count if count else 0.0 for x in counters],
            extras=dict(extras),
            directions=directions,
        )

    def mean(self) -> Tensor:
        """The weighted mean of the deltas; zero where no client was received."""
        return self.total / self.weight if self.weight > 0 else torch.zeros_like(self.total)

    def cosine(self) -> float:
        """Mean cosine between a client's delta and the mean of the deltas; NaN where the mean is zero."""
        norm = float(self.total.norm())
        if norm == 0 or self.received == 0:
            return float("nan")
        return float(self.directions @ self.total) / norm / self.received


class Tally:
    """Running sums of one process in one round.

    Args:
        size: Entries of a delta.
        num_counters: Counters of the model.
        extras: Names of the further vectors that every client sends, with their sizes; the same on every process.
        device: Where deltas are.
        dtype: Of the deltas.
        exact: Add in fixed point: the same bits in every order.
        keep_rows: Keep every delta, for an aggregator that needs them all.
    """

    def __init__(
        self,
        *,
        size: int,
        num_counters: int,
        device: torch.device,
        extras: Mapping[str, int] | None = None,
        dtype: torch.dtype = torch.float32,
        exact: bool = False,
        keep_rows: bool = False,
    ) -> None:
        self._extras = dict(extras or {})
        self._sizes = [HEAD, num_counters, size, size, *self._extras.values()]
        self._exact = exact
        self._dtype = dtype
        self._vector = torch.zeros(sum(self._sizes), dtype=torch.int64 if exact else dtype, device=device)
        self._parts = torch.split(self._vector, self._sizes)
        # Summed as Python's numbers, and put into the vector before the processes add up.
        self._figures: list[float] = [0] * (HEAD + num_counters)
        self._keep_rows = keep_rows
        self.rows: dict[int, tuple[Tensor, float]] = {}

    @torch.no_grad()
    def add(
        self,
        delta: Tensor,
        *,
        weight: float,
        increments: Sequence[float],
        extras: Mapping[str, Tensor],
        loss: float,
        norm: float | None = None,
        client: int = 0,
    ) -> None:
        """Take in one client.

        Args:
            delta: Shape ``(P,)``; may be overwritten by the caller afterwards.
            weight: What it counts.
            increments: Of the model's counters.
            extras: Further vectors, of the names and sizes given to the constructor.
            loss: Its loss.
            norm: Of the delta, where it is known.
            client: Its number, where rows are kept.

        Raises:
            ConfigurationError: Names of extras that are not the expected ones; or a value too large for an exact sum.
        """
        check_extras(client, extras, self._extras)
        _, _, total, directions, *further = self._parts
        norm = float(torch.linalg.vector_norm(delta)) if norm is None else norm
        if self._keep_rows:
            self.rows[client] = (delta.clone(), weight)
        for position, figure in enumerate((*head_of(weight, loss), *increments)):
            self._figures[position] += self._fixed(figure) if self._exact else figure
        self._accumulate(total, delta, weight)
        if norm > 0:
            self._accumulate(directions, delta, 1.0 / norm)
        for name, part in zip(self._extras, further, strict=True):
            self._accumulate(part, extras[name].to(part.device), 1.0)

    def _accumulate(self, part: Tensor, values: Tensor, scale: float) -> None:
        if not self._exact:
            part.add_(values.to(part), alpha=scale)
            return
        summand = values.double() * scale
        _check_range(float(summand.abs().max()))
        part.add_(torch.ldexp(summand, torch.tensor(_FRACTION_BITS)).round_().to(part.device, torch.int64))

    @staticmethod
    def _fixed(figure: float) -> int:
        _check_range(abs(figure))
        return round(math.ldexp(figure, _FRACTION_BITS))

    @torch.no_grad()
    def finish(self, all_reduce: Callable[[Tensor], None]) -> CohortSum:
        """Add up all processes.

        Args:
            all_reduce: Sums a tensor in place over the processes; called once.
        """
        self._vector[: len(self._figures)] = torch.tensor(self._figures, dtype=self._vector.dtype)
        all_reduce(self._vector)
        vector = torch.ldexp(self._vector.double(), torch.tensor(-_FRACTION_BITS)) if self._exact else self._vector
        head, counters, total, directions, *further = torch.split(vector, self._sizes)
        return CohortSum.of_parts(
            head.tolist(),
            counters.tolist(),
            total=total.to(self._dtype),
            directions=directions.to(self._dtype),
            extras={name: part.to(self._dtype) for name, part in zip(self._extras, further, strict=True)},
        )


def head_of(weight: float, loss: float) -> tuple[float, float, float, float]:
    """Return the figures of one client that stand before everything else.

    Args:
        weight: What it counts.
        loss: Its loss. A client that skipped all its batches has none, and no part in the mean of the losses.
    """
    known = weight if math.isfinite(loss) else 0.0
    return weight, 1.0, known * loss if known else 0.0, known


def check_extras(client: int, extras: Mapping[str, Tensor], expected: Mapping[str, int]) -> None:
    """Refuse a client that sends other vectors than the others.

    Raises:
        ConfigurationError: Naming what it sent and what was expected.
    """
    if extras.keys() != expected.keys():
        raise ConfigurationError(
            f"client {client} sent the extra vectors {sorted(extras)}, and {sorted(expected)} were expected"
        )


def _check_range(largest: float) -> None:
    if largest >= _LARGEST:
        raise ConfigurationError(
            f"deterministic=True adds in fixed point up to {_LARGEST:g}, and a client's weighted change has an entry "
            f"of {largest:g}: use WeightedMean(weighted=False), or deterministic=False"
        )
