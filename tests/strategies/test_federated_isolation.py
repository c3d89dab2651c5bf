"""What a training step leaves behind in odd places reaches neither the next client nor the released model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightning_privacy.federated.client_privacy import ClientPrivacy
from lightning_privacy.federated.partitions import IIDPartition
from lightning_privacy.federated.plain_state import PlainState
from lightning_privacy.strategies import FederatedStrategy

CLIENTS, BOUND = 6, 0.01


def module(tools: Any, kind: str) -> Any:
    class Module(tools.Regression):
        def __init__(self) -> None:
            super().__init__(_Keeping if kind == "group" else None)
            self.register_buffer("center", torch.zeros(1, dtype=torch.float64))
            self.frozen = nn.Parameter(torch.zeros(1, dtype=torch.float64), requires_grad=False)
            self.seen, self.history = 0.0, []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            size = batch[1].abs().mean().detach()
            with torch.no_grad():
                if kind == "frozen":
                    self.frozen.add_(size)
                elif kind == "reassigned buffer":
                    self.center = self.center + size
                elif kind == "data":
                    self.net[3].bias.data = self.net[3].bias.data + 0 * size
                elif kind == "attribute":
                    self.seen += float(size)
                    self.history.append(size)
            shift = self.center + self.frozen + self.seen + (sum(self.history) if self.history else 0.0)
            return nn.functional.mse_loss(self.net(batch[0]) + shift, batch[1])

    return Module()


class _Keeping(torch.optim.SGD):
    """Finds its learning rate in the group, as some optimizers do."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.01)

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            norm = sum(float(p.grad.norm()) for p in group["params"] if p.grad is not None)
            group["found"] = group.get("found", 0.0) + norm
            group["lr"] = 0.01 * group["found"]
        return super().step(closure)


def released(tools: Any, kind: str, target: float, rounds: int = 1) -> dict[str, torch.Tensor]:
    dataset, model = tools.data(), module(tools, kind)
    first = tools.parts(IIDPartition(CLIENTS), dataset, 3)[0]
    dataset.tensors[1][first] = target
    privacy = ClientPrivacy(delta=1e-3, noise_multiplier=1e-9, max_delta_norm=BOUND)
    strategy = FederatedStrategy(
        partition=IIDPartition(CLIENTS), client_sampling="all", client_privacy=privacy, seed=3, local_epochs=2
    )
    tools.fit(strategy, model, dataset, batch_size=2, max_epochs=rounds)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("kind", ["plain", "frozen", "reassigned buffer", "data", "attribute", "group"])
def test_p39_one_client_moves_the_released_model_by_no_more_than_the_bound(tools, kind):
    """One client's data replaced: everything that is saved moves by at most 2 C / N in a round."""
    small, large = released(tools, kind, 0.0), released(tools, kind, 1000.0)
    moved = torch.cat([(small[name] - large[name]).double().reshape(-1) for name in small])
    assert float(moved.norm()) <= 2 * BOUND / CLIENTS * 1.001
    assert float(moved.norm()) > 0


def test_a_frozen_parameter_that_a_step_writes_to_is_put_back(tools):
    model = module(tools, "frozen")
    tools.fit(FederatedStrategy(partition=IIDPartition(CLIENTS), seed=3), model, max_epochs=1)
    assert float(model.frozen) == 0.0


def test_what_is_not_plain_is_left_alone():
    class Owner:
        pass

    owner, other = Owner(), object()
    owner.other, owner.mixed, owner.count = other, [other], 3
    state = PlainState([owner])
    owner.count, owner.mixed = 4, []
    state.restore()
    assert (owner.other, owner.count, owner.mixed) == (other, 3, [])
