"""What clients keep from round to round: memory of algorithms, personal entries, optimizer state; all on the CPU.

Example:
    >>> import torch
    >>> from lightning_privacy.callbacks._processes import Processes
    >>> stores = ClientStores()
    >>> stores.personal[3] = {"head.bias": torch.zeros(2)}
    >>> stores.share(Processes(count=1, rank=0), touched=[3])
    >>> stores.state_dict()["personal"]
    {3: {'head.bias': tensor([0., 0.])}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lightning_privacy.callbacks._processes import Processes

__all__ = ["ClientStores"]


class ClientStores:
    """By client: ``memory`` of the algorithm, ``personal`` entries of the model, and states of ``optimizers``."""

    def __init__(self) -> None:
        self.memory: dict[int, dict[str, Tensor]] = {}
        self.personal: dict[int, dict[str, Tensor]] = {}
        self.optimizers: dict[int, dict[Any, Any]] = {}

    def load_optimizer(self, client: int, optimizer: Optimizer) -> None:
        """Give the optimizer the state this client has kept, if it has."""
        kept = self.optimizers.get(client)
        if kept is not None:
            optimizer.load_state_dict({"state": kept, "param_groups": optimizer.state_dict()["param_groups"]})

    @staticmethod
    def state_of(optimizer: Optimizer) -> dict[Any, Any]:
        """A copy of an optimizer's state, to be kept."""
        copied: dict[Any, Any] = _on_cpu(optimizer.state_dict()["state"])
        return copied

    def share(self, processes: Processes, touched: Sequence[int]) -> None:
        """Tell the other processes what clients keep, as the next round may train them elsewhere.

        Args:
            processes: That train together.
            touched: Clients that this one has trained.
        """
        stores: tuple[dict[int, Any], ...] = (self.memory, self.personal, self.optimizers)
        if not processes.several:
            return
        changed = [{client: store[client] for client in touched if client in store} for store in stores]
        if not any(share for shares in processes.gather([bool(c) for c in changed]) for share in shares):
            return
        for shares in processes.gather(changed):
            for store, share in zip(stores, shares, strict=True):
                store.update(share)

    def state_dict(self) -> dict[str, Any]:
        """The stores by name, for a checkpoint; sorted: the order in which clients took part is nobody's business."""
        return {
            "memory": dict(sorted(self.memory.items())),
            "personal": dict(sorted(self.personal.items())),
            "optimizers": dict(sorted(self.optimizers.items())),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.memory = {int(client): dict(kept) for client, kept in state["memory"].items()}
        self.personal = {int(client): dict(kept) for client, kept in state["personal"].items()}
        self.optimizers = {int(client): dict(kept) for client, kept in state["optimizers"].items()}


def _on_cpu(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _on_cpu(value) for key, value in state.items()}
    return state
