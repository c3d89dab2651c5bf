"""What a process sums over its clients in a round, by a secure sum: nothing is kept of one client's vector.

The same interface as :class:`~lightning_privacy.federated.tally.Tally`. Everything that is summed is one vector:
weight, loss, increments of counters, the weighted delta, and what else an algorithm sums.

Example:
    >>> import torch
    >>> from lightning_privacy.federated.secure_sum import SecureSum
    >>> tally = SecureTally(SecureSum(), [3, 5, 8], size=2, num_counters=0, device=torch.device("cpu"))
    >>> tally.add(torch.tensor([1.0, 2.0]), weight=3.0, increments=[], extras={}, loss=0.5, client=3)
    >>> tally.add(torch.tensor([5.0, 2.0]), weight=1.0, increments=[], extras={}, loss=1.5, client=5)
    >>> tally.add(torch.tensor([0.0, 2.0]), weight=4.0, increments=[], extras={}, loss=1.0, client=8)
    >>> summed = tally.finish(lambda vector: None)
    >>> summed.mean(), summed.received, summed.loss
    (tensor([1., 2.]), 3, 0.875)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.secure_sum import SecureSum
from lightning_privacy.federated.tally import HEAD, CohortSum, check_extras, head_of

__all__ = ["SecureTally"]


class SecureTally:
    """A secure sum over the clients of one process in one round.

    Args:
        secure: How vectors are summed.
        clients: Those of this process that were drawn; who sends nothing has dropped out.
        size: Entries of a delta.
        num_counters: Counters of the model.
        device: Where the sum is needed.
        extras: Names of the further vectors that every client sends, with their sizes.
        dtype: Of the sum.

    Raises:
        ConfigurationError: There is one client, whose sum would be its vector; or pycryptodome is missing.
    """

    def __init__(
        self,
        secure: SecureSum,
        clients: Sequence[int],
        *,
        size: int,
        num_counters: int,
        device: torch.device,
        extras: Mapping[str, int] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._extras = dict(extras or {})
        self._sizes = [HEAD, num_counters, size, *self._extras.values()]
        self._device = device
        self._dtype = dtype
        self._session = secure.open(clients) if clients else None
        self._submitted = 0
        #: No row is ever kept.
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
        """Mask one client's vector and add it.

        Args:
            delta: Shape ``(P,)``.
            weight: What it counts.
            increments: Of the model's counters.
            extras: Further vectors, of the names and sizes given to the constructor.
            loss: Its loss; NaN where it has none.
            norm: Not needed here.
            client: Its number.

        Raises:
            ConfigurationError: Names of extras that are not the expected ones; no client was drawn here; or an entry
                too large for the sum.
        """
        del norm
        check_extras(client, extras, self._extras)
        if self._session is None:
            raise ConfigurationError(f"client {client} sent a vector, and this process has no client in the round")
        figures = [*head_of(weight, loss), *increments]
        parts = [torch.tensor(figures, dtype=torch.float64), delta.to("cpu", torch.float64) * weight]
        parts += [extras[name].to("cpu", torch.float64) for name in self._extras]
        self._session.submit(client, torch.cat(parts))
        self._submitted += 1

    @torch.no_grad()
    def finish(self, all_reduce: Callable[[Tensor], None]) -> CohortSum:
        """Unmask the sum of this process and add up all processes.

        Args:
            all_reduce: Sums a tensor in place over the processes; called once.

        Raises:
            PrivacyViolation: So many clients dropped out that nothing can be unmasked.
        """
        # Where nobody sent anything there is nothing to unmask.
        submitted = self._session is not None and self._submitted > 0
        total = self._session.close() if self._session is not None and submitted else None
        # Multiples of a power of two: in double precision their sum over the processes is exact too.
        vector = torch.zeros(sum(self._sizes), dtype=torch.float64) if total is None else total
        vector = vector.to(self._device)
        all_reduce(vector)
        head, counters, weighted, *further = torch.split(vector, self._sizes)
        return CohortSum.of_parts(
            head.tolist(),
            counters.tolist(),
            total=weighted.to(self._dtype),
            extras={name: part.to(self._dtype) for name, part in zip(self._extras, further, strict=True)},
            # The directions of single deltas are not summed, so how they lie to each other is not known.
            directions=torch.full_like(weighted, math.nan, dtype=self._dtype),
        )
