"""Metrics of torchmetrics in a round: each simulated client has its own, and what they add up to is what is logged.

Example:
    >>> import torch
    >>> from torch import nn
    >>> from torchmetrics import SumMetric
    >>> module = nn.ModuleDict({"seen": SumMetric()})
    >>> metrics = ClientMetrics(module)
    >>> for value in (1.0, 2.0):
    ...     metrics.begin_client()
    ...     module["seen"].update(value)
    ...     print(float(module["seen"].compute()))
    1.0
    2.0
    >>> metrics.end_round()
    >>> float(module["seen"].compute())
    3.0
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat, dim_zero_max, dim_zero_min, dim_zero_sum
from torchmetrics.wrappers.abstract import WrapperMetric

from lightning_privacy.errors import UnsupportedError

__all__ = ["ClientMetrics", "refuse_persistent"]

_JOINED: dict[Any, Callable[[Tensor, Tensor], Tensor]] = {
    dim_zero_sum: torch.add,
    dim_zero_max: torch.maximum,
    dim_zero_min: torch.minimum,
}


class ClientMetrics:
    """The metrics of a module at the start of a round; reset before each client, added up after it.

    Args:
        module: Whose metrics.

    Raises:
        UnsupportedError: Checkpoints would hold one of them.
    """

    def __init__(self, module: nn.Module) -> None:
        refuse_persistent(module)
        metrics = {name: part for name, part in module.named_modules() if isinstance(part, Metric)}
        #: Names of those that go on from client to client, as it isn't known how to add them up.
        self.uncovered = [name for name, metric in metrics.items() if not _adds_up(metric)]
        inside = tuple(f"{name}." for name in self.uncovered)
        self._totals = [
            _Total(metric)
            for name, metric in metrics.items()
            if name not in self.uncovered and not name.startswith(inside)
        ]

    def begin_client(self) -> None:
        """Take in what the last client has counted; the next one starts at nothing."""
        for total in self._totals:
            total.take()

    def end_round(self) -> None:
        """Let the metrics hold what all clients have counted."""
        for total in self._totals:
            total.take()
            total.give_back()


class _Total:
    """What a metric has counted before the round, and in its clients so far."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._states = {name: _own(state) for name, state in metric.metric_state.items()}
        self._updates = metric.update_count
        # Other processes train other clients, as many as they have, and are not to be waited for.
        self._available = metric.distributed_available_fn
        metric.distributed_available_fn = _alone
        metric.reset()

    def take(self) -> None:
        metric = self._metric
        if metric.update_count:
            for name, state in metric.metric_state.items():
                self._states[name] = _joined(metric._reductions[name], self._states[name], state)
            self._updates += metric.update_count
        metric.reset()

    def give_back(self) -> None:
        for name, state in self._states.items():
            setattr(self._metric, name, state)
        self._metric._update_count = self._updates
        self._metric.distributed_available_fn = self._available


def refuse_persistent(module: nn.Module) -> None:
    """Refuse metrics that the module's ``state_dict`` holds, and thereby its checkpoints.

    Raises:
        UnsupportedError: Naming the metric.
    """
    for name, part in module.named_modules():
        if isinstance(part, Metric) and any(part._persistent.values()):
            raise UnsupportedError(
                f"the states of metric '{name}' ({type(part).__name__}) are persistent: checkpoints and exported "
                "weights would hold what it has counted of the clients' data, without noise. Leave out "
                "persistent(True), or keep the metric out of the module"
            )


def _alone() -> bool:
    return False


def _adds_up(metric: Metric) -> bool:
    """Whether each state is a sum, an extremum or a list of the states of single clients."""
    if isinstance(metric, WrapperMetric):
        return False
    states = metric.metric_state
    return all(
        isinstance(states[name], list) if reduction is dim_zero_cat else reduction in _JOINED
        for name, reduction in metric._reductions.items()
    )


def _own(state: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
    return list(state) if isinstance(state, list) else state


def _joined(reduction: Any, total: Any, state: Any) -> Any:
    if isinstance(total, list):
        total.extend(state)
        return total
    return _JOINED[reduction](total, state.detach())
