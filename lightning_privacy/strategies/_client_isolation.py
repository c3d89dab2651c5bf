"""Nothing of one simulated client is left for the next one, beyond what the flat model puts back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torchmetrics import Metric

from lightning_privacy._lightning import LightningModule
from lightning_privacy.federated.plain_state import PlainState
from lightning_privacy.strategies._client_metrics import ClientMetrics

__all__ = ["ClientIsolation"]

_OF_OPTIMIZERS = ("state", "param_groups", "defaults", "_opt_called", "_step_count")  # the last: torch's schedulers'
_OF_COLLECTIONS = ("_groups", "_groups_checked", "_state_is_copy")  # torchmetrics': which metrics share their states
# Parameters, buffers and hooks. Whether a part is training belongs to what a client may change.
_OF_MODULES = frozenset((*vars(nn.Module()), *_OF_COLLECTIONS)) - {"training"}
_OF_LIGHTNING = frozenset((*_OF_MODULES, *vars(LightningModule()))) - {"training", "_hparams"}


class _Group:
    """A parameter group as an object with attributes."""

    def __init__(self, group: dict[str, Any]) -> None:
        self.__dict__ = group


class ClientIsolation:
    """The state of optimizer and module at the start of a round; put back before each client.

    Optimizers keep state beside ``optimizer.state`` too: learning rates found on the way in a parameter group, counters
    in attributes.

    Args:
        optimizer: The clients' optimizer.
        module: Whose plain attributes are put back as well, and whose metrics start anew, where the guarantee needs it;
            None to leave them, for modules that collect what they log.
        schedulers: Of the clients' learning rate, put back with the module.

    Raises:
        UnsupportedError: Checkpoints would hold a metric of the module.
    """

    def __init__(self, optimizer: Optimizer, module: nn.Module | None, schedulers: Iterable[object] = ()) -> None:
        self._optimizer = optimizer
        states = [
            PlainState([optimizer], leave=_OF_OPTIMIZERS),
            PlainState([_Group(group) for group in optimizer.param_groups], leave=("params",)),
        ]
        self._metrics = None if module is None else ClientMetrics(module)
        if module is not None:
            parts = _parts(module)
            states += [
                PlainState((p for p in parts if isinstance(p, LightningModule)), leave=_OF_LIGHTNING),
                PlainState((p for p in parts if not isinstance(p, LightningModule)), leave=_OF_MODULES),
                PlainState(schedulers),
            ]
        self._states = states

    @property
    def uncovered(self) -> list[str]:
        """Names of metrics that go on from client to client."""
        return [] if self._metrics is None else self._metrics.uncovered

    def begin_client(self) -> None:
        """Put everything back."""
        self._put_back()
        if self._metrics is not None:
            self._metrics.begin_client()

    def end_round(self) -> None:
        """Put everything back; metrics hold what all clients have counted."""
        self._put_back()
        if self._metrics is not None:
            self._metrics.end_round()

    def _put_back(self) -> None:
        self._optimizer.state.clear()
        for state in self._states:
            state.restore()


def _parts(module: nn.Module) -> list[nn.Module]:
    """The module and its parts, but for metrics, which add up over the clients."""
    metrics = {id(part) for metric in module.modules() if isinstance(metric, Metric) for part in metric.modules()}
    return [part for part in module.modules() if id(part) not in metrics]
