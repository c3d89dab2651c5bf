"""Counted work: floating-point operations, launched operators and parameters of a training step of one device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from _dp_contenders import CONTENDERS, OURS
from _dp_networks import NETWORKS
from _federated_contenders import NETWORKS as CLIENT_NETWORKS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["count_client_step", "count_steps"]

_EXAMPLES = 2


def _added_product(_: Any, left: tuple[int, ...], right: tuple[int, ...], **__: Any) -> int:
    """Operations of a product that is added to a tensor in place; torch counts those alone that make a tensor."""
    return 2 * math.prod(left) * math.prod(right[1:])


_IN_PLACE = {torch.ops.aten.addmm_: _added_product, torch.ops.aten.addmv_: _added_product}


class _Operators(TorchDispatchMode):
    """Counts operators that compute; views and bookkeeping launch nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (func.is_view or func.namespace == "prim")
        return func(*args, **(kwargs or {}))


def _count(step: Callable[[], None]) -> dict[str, float]:
    """What a step of a few examples does, in operations of each example and in operators."""
    step()  # what is set up once is not counted
    with FlopCounterMode(display=False, custom_mapping=_IN_PLACE) as flops, _Operators() as operators:
        step()
    return {"flops": flops.get_total_flops() / _EXAMPLES, "operators": operators.count}


def count_steps(network: str, *, quick: bool, device: str) -> dict[str, Any]:
    """Return the work of a whole step without and with privacy.

    Args:
        network: a name of the table of networks.
        quick: tiny sizes.
        device: where the step is run; which arithmetic serves best differs from device to device.

    Returns:
        ``parameters``, and for ``plain`` and ``private`` the ``flops`` of an example and the ``operators`` of a step.
    """
    torch.manual_seed(0)
    entry = NETWORKS[network]
    sizes = entry.sizes(quick=quick)
    model = entry.build(sizes).to(device)
    inputs, targets = (tensor.to(device) for tensor in entry.data(type(sizes)(_EXAMPLES, sizes.width, sizes.positions)))
    parameters = [p for p in model.parameters() if p.requires_grad]
    result: dict[str, Any] = {
        "parameters": sum(p.numel() for p in parameters),
        "parameter_bytes": sum(p.numel() * p.element_size() for p in parameters),
    }
    for name, contender in (("plain", "plain"), ("private", OURS)):
        made = CONTENDERS[contender](model, inputs, targets, noise_multiplier=1.0)
        result[name] = _count(made.step)
    return result


def count_client_step(network: str, *, device: str) -> dict[str, Any]:
    """Return the work of one step of a client.

    Args:
        network: a name of the table of networks of the federated benchmark.
        device: where the step is run.
    """
    torch.manual_seed(0)
    model = CLIENT_NETWORKS[network]().to(device)
    inputs = torch.randn(_EXAMPLES, 3, 32, 32, device=device)
    targets = torch.randint(10, (_EXAMPLES,), device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    return {"parameters": sum(p.numel() for p in model.parameters()), **_count(step)}
