"""What decides how parameters declared public move in one step: gradients, and when and how optimizers step on them.

Example:
    >>> import torch
    >>> from torch import nn
    >>> net = nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    >>> def update(rate):
    ...     optimizer.param_groups[0]["lr"] = rate
    ...     with public_updates(net, ["weight"]) as found:
    ...         optimizer.step()
    ...     return found
    >>> update(0.1).changed(update(0.1), tolerance=1e-4), update(0.1).changed(update(0.2), tolerance=1e-4)
    (None, 'weight')
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._pytree import tree_leaves

from lightning_privacy.gradients.probe_rows import changed_rows

__all__ = ["PublicUpdates", "public_updates"]

_GRADIENT, _LEFT, _AT_STEP, _SETTINGS = range(4)


class PublicUpdates:
    """What parameters got in the backwards of a step, and what each step of an optimizer found of them.

    Args:
        module: the network.
        public: names of its parameters that are looked at.
    """

    def __init__(self, module: nn.Module, public: Collection[str]) -> None:
        self.parameters = {name: p for name, p in module.named_parameters() if name in public}
        self._found: dict[tuple[str, int, int], Tensor] = {}
        """By parameter, what it is, and number of the optimizer's step: rows, ``(n, k)``."""
        self._names = {id(p): name for name, p in self.parameters.items()}
        self._steps = 0

    def add(self, name: str, gradient: Tensor) -> None:
        """Add what a backward finds for a parameter; code of the step's own can change ``p.grad`` afterwards."""
        key, row = (name, _GRADIENT, 0), gradient.detach().reshape(1, -1)
        self._found[key] = row.clone() if key not in self._found else self._found[key] + row

    def note_step(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        """Write down what an optimizer has for the parameters as it steps; a hook after steps of all optimizers."""
        seen = False
        for group in optimizer.param_groups:
            names = [self._names[id(p)] for p in group["params"] if id(p) in self._names]
            settings = _settings(group) if names else torch.zeros(0, 1)
            for name in names:
                seen = True
                self._found[name, _SETTINGS, self._steps] = settings
                self._keep(name, _AT_STEP, self._steps)
        self._steps += seen

    def finish(self) -> None:
        """Write down the gradients that are left for a step in a later batch."""
        for name in self.parameters:
            self._keep(name, _LEFT, 0)

    def _keep(self, name: str, kind: int, number: int) -> None:
        gradient = self.parameters[name].grad
        if gradient is not None:
            self._found[name, kind, number] = gradient.detach().reshape(1, -1).clone()

    def changed(self, other: PublicUpdates, *, tolerance: float) -> str | None:
        """Return the name of a parameter that moves in another way; None where all move alike.

        Args:
            other: of another run of the step.
            tolerance: relative to each gradient's norm and to each setting.
        """
        for key in sorted(self._found.keys() | other._found.keys()):
            first, second = self._found.get(key), other._found.get(key)
            if first is None or second is None or first.shape != second.shape:
                return key[0]
            if bool(changed_rows(first, second, tolerance=tolerance, whole=torch.zeros(len(first))).any()):
                return key[0]
        return None


def _settings(group: Mapping[str, Any]) -> Tensor:
    """Return the numbers among a parameter group's settings, such as its learning rate, as rows."""
    leaves = tree_leaves([group[key] for key in sorted(group) if key != "params"])
    numbers = [torch.as_tensor(leaf).detach() for leaf in leaves if isinstance(leaf, Tensor | int | float)]
    return torch.cat([torch.zeros(0, 1).double(), *(number.double().cpu().reshape(-1, 1) for number in numbers)])


@contextmanager
def public_updates(module: nn.Module, public: Collection[str]) -> Iterator[PublicUpdates]:
    """Look at what the optimizers that step in the block do to some parameters; their gradients are for :meth:`add`.

    Args:
        module: the network.
        public: names of its parameters.
    """
    updates = PublicUpdates(module, public)
    handle = register_optimizer_step_post_hook(updates.note_step)
    try:
        yield updates
    finally:
        handle.remove()
    updates.finish()
