"""Confidence intervals by the bootstrap: what the figures would be on other samples of the same size.

The rows are drawn again with replacement (Efron 1979), and an interval is cut from the quantiles of the figures
(percentile method), as fairlearn's ``MetricFrame`` does. Two ways, both exact:

* Figures that are functions of the counts of group, label and prediction need no rows. The counts of a resample are
  one multinomial draw over the cells of the table, whatever the number of rows.
* Figures of scores need to know how often each row was drawn.

A difference between groups is never below zero, so its interval rarely reaches zero, even where the groups are equal:
read it as the range of plausible differences, and not as a test.

Example:
    >>> import torch
    >>> from lightning_privacy.fairness.rates import group_rates
    >>> counts = torch.tensor([[[40, 10], [20, 30]], [[4, 1], [2, 3]]])
    >>> replicates = resample_counts(counts, 500, generator=torch.Generator().manual_seed(0))
    >>> low, high = interval(group_rates(replicates)["accuracy"], confidence=0.95)
    >>> (low < 0.7).all().item(), (high > 0.7).all().item(), (high - low).round(decimals=1).tolist()
    (True, True, [0.2, 0.6])
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_privacy._validate import positive_int, within_open_unit

__all__ = ["interval", "resample_counts", "resample_rows"]


def resample_counts(counts: Tensor, replicates: int, *, generator: torch.Generator) -> Tensor:
    """Tables of counts of bootstrap samples: multinomial draws with the shares of the table's cells.

    The rows are halved again and again: of those that fall on a range of cells, a binomial number falls on its first
    half.

    Args:
        counts: whole numbers, any shape.
        replicates: how many tables.
        generator: where the randomness comes from; on the CPU.

    Returns:
        Shape ``(replicates, *counts.shape)``, float64, on the CPU; every table has as many rows as ``counts``.

    Raises:
        ConfigurationError: ``replicates`` is not a whole number above 0.
    """
    replicates = positive_int(replicates=replicates)
    flat = counts.flatten().to("cpu", torch.float64)
    occupied = torch.nonzero(flat).flatten()
    drawn = torch.zeros(replicates, flat.numel(), dtype=torch.float64)
    if not occupied.numel():
        return drawn.view(replicates, *counts.shape)
    levels = [flat[occupied]]
    while levels[-1].numel() > 1:
        nodes = levels[-1]
        if nodes.numel() % 2:
            nodes = levels[-1] = torch.cat([nodes, nodes.new_zeros(1)])
        levels.append(nodes.view(-1, 2).sum(dim=1))
    rows = levels[-1].expand(replicates, 1)
    for nodes in reversed(levels[:-1]):
        pairs = nodes.view(-1, 2)
        shares = pairs[:, 0] / pairs.sum(dim=1)
        parents = rows[:, : len(pairs)]
        first = torch.binomial(parents.contiguous(), shares.expand(replicates, -1).contiguous(), generator=generator)
        rows = torch.stack([first, parents - first], dim=-1).flatten(1)
    drawn[:, occupied] = rows[:, : occupied.numel()]
    return drawn.view(replicates, *counts.shape)


def resample_rows(num_rows: int, replicates: int, *, generator: torch.Generator) -> Iterator[Tensor]:
    """How often each row is in each of several bootstrap samples.

    Args:
        num_rows: rows of the data, and of each sample.
        replicates: how many samples.
        generator: where the randomness comes from; on the CPU.

    Yields:
        Shape ``(num_rows,)``, int64, on the CPU; adds up to ``num_rows``.

    Raises:
        ConfigurationError: a number is not a whole number above 0.
    """
    num_rows, replicates = positive_int(num_rows=num_rows), positive_int(replicates=replicates)
    drawn_type = torch.int32 if num_rows < 2**31 else torch.int64
    for _ in range(replicates):
        drawn = torch.randint(num_rows, (num_rows,), generator=generator, dtype=drawn_type)
        yield torch.bincount(drawn, minlength=num_rows)


def interval(replicates: Tensor, *, confidence: float = 0.95) -> Tensor:
    """Percentile interval of a figure.

    Args:
        replicates: the figure in each bootstrap sample, shape ``(B, ...)``. NaN, where it was undefined, is left out.
        confidence: share of the replicates within the interval, in (0, 1).

    Returns:
        Lower and upper end, shape ``(2, ...)``; quantiles are interpolated linearly. NaN where it was never defined.

    Raises:
        ConfigurationError: ``confidence`` is out of range.
    """
    tail = (1.0 - within_open_unit(confidence=confidence)) / 2.0
    ordered = replicates.sort(dim=0).values  # NaN last
    defined = (~ordered.isnan()).sum(dim=0, keepdim=True)
    ends = []
    for quantile in (tail, 1.0 - tail):
        place = (quantile * (defined - 1).double()).clamp(min=0)
        below = place.floor().long()
        above = torch.minimum(below + 1, (defined - 1).clamp(min=0))
        low, high = ordered.gather(0, below), ordered.gather(0, above)
        ends.append((low + (high - low) * (place - below)).squeeze(0))
    return torch.stack(ends)
