"""What a round is logged as: figures of the round and the spread over its clients.

Example:
    >>> from lightning_privacy.strategies._round_report import spread
    >>> spread([1.0, 3.0])
    {'loss_best': 1.0, 'loss_worst': 3.0, 'loss_std': 1.0}
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from lightning_privacy.strategies._round_result import RoundResult

__all__ = ["round_entry", "round_figures", "spread"]

_BYTES_PER_ENTRY = 4


def spread(losses: Sequence[float]) -> dict[str, float]:
    """Best, worst and standard deviation of the clients' losses; nothing where there is none."""
    known = [loss for loss in losses if not math.isnan(loss)]
    if not known:
        return {}
    return {"loss_best": min(known), "loss_worst": max(known), "loss_std": statistics.pstdev(known)}


def round_figures(result: RoundResult, size: int) -> dict[str, float]:
    """Figures of a round, by name; those that don't exist are left out.

    Args:
        result: The round.
        size: Entries of a delta: what a client sends where nothing compresses it.
    """
    received = [report for report in result.clients if report.failure is None]
    figures = {
        "clients": float(len(received)),
        "loss": result.loss,
        "seconds": max((report.seconds for report in received), default=0.0),
        "bytes": sum(report.figures.get("bytes", float(_BYTES_PER_ENTRY * size)) for report in received),
        **result.figures,
        **spread([report.loss for report in received]),
    }
    return {name: float(value) for name, value in figures.items() if not math.isnan(value)}


def round_entry(number: int, result: RoundResult, size: int) -> dict[str, Any]:
    """One row of a run's history: figures of the round, and of each client whose update was used.

    Args:
        number: Of the round.
        result: The round.
        size: Entries of a delta.
    """
    received = [report for report in result.clients if report.failure is None]
    return {
        "round": number,
        **round_figures(result, size),
        "client": [report.client for report in received],
        "client_loss": [report.loss for report in received],
        "client_seconds": [report.seconds for report in received],
        "failures": {report.client: report.failure for report in result.clients if report.failure is not None},
    }
