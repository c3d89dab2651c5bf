"""Nothing of one simulated client is left for the next one, beyond what the flat model puts back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torchmetrics import Metric

from lightning_privacy._lightning import LightningModule
from lightning_privacy.federated.plain_state import PlainState

__all__ = ["ClientIsolation"]

_OF_OPTIMIZERS = ("state", "param_groups", "defaults", "_opt_called", "_step_count")  # the last: torch's schedulers'


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
        module: Whose plain attributes are put back as well, where the guarantee needs it; None to leave them, for
            modules that collect what they log.
    """

    def __init__(self, optimizer: Optimizer, module: nn.Module | None) -> None:
        self._optimizer = optimizer
        states = [
            PlainState([optimizer], leave=_OF_OPTIMIZERS),
            PlainState([_Group(group) for group in optimizer.param_groups], leave=("params",)),
        ]
        if module is not None:
            states.append(PlainState(_parts(module), leave=vars(LightningModule())))
        self._states = states

    def begin_client(self) -> None:
        """Put everything back."""
        self._optimizer.state.clear()
        for state in self._states:
            state.restore()


def _parts(module: nn.Module) -> Iterable[nn.Module]:
    """The module and its parts, but for metrics, which add up over the clients."""
    metrics = {id(part) for metric in module.modules() if isinstance(metric, Metric) for part in metric.modules()}
    return [part for part in module.modules() if id(part) not in metrics]
