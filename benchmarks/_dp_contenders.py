"""Ways to make one optimizer step: without privacy, with this package, with each mode of Opacus that runs here.

A step is forward, loss, backward, (clip, noise,) SGD step, zero_grad. All use ordinary float32 and the same weights.
Opacus draws its noise from torch's generator, this package from AES: neither is told to do otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from opacus.grad_sample.utils import prepare_module
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import Tensor, nn

from lightning_privacy.gradients.engine import PrivateGradients
from lightning_privacy.mechanisms.noise import NoiseSource

__all__ = ["CONTENDERS", "OPACUS", "OURS", "REFERENCE", "Contender"]

# Small, so that the weights stay about where they are while steps are counted.
_LEARNING_RATE = 1e-4
_MAX_GRAD_NORM = 1.0


class Contender:
    """The plain step; the others replace parts of it.

    Args:
        network: trained in place.
        inputs: the batch.
        targets: class numbers, ``(B,)`` or ``(B, T)``.
        noise_multiplier: 0 or 1; the plain step ignores it.
    """

    def __init__(self, network: nn.Module, inputs: Tensor, targets: Tensor, *, noise_multiplier: float) -> None:
        self.network = network
        self.inputs, self.targets = inputs, targets
        self.noise_multiplier = noise_multiplier
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.optimizer: Any = torch.optim.SGD(self.parameters, lr=_LEARNING_RATE)
        self.prepare()

    def prepare(self) -> None:
        """Set up what the contender needs around network and optimizer."""

    def gradient(self) -> None:
        """Forward, loss, backward."""
        logits = self.network(self.inputs)
        F.cross_entropy(logits.flatten(0, -2), self.targets.flatten()).backward()

    def update(self) -> None:
        """Step the optimizer."""
        self.optimizer.step()

    def step(self) -> None:
        """One whole training step."""
        self.gradient()
        self.update()
        self.optimizer.zero_grad()

    def clipped_sum(self) -> Tensor:
        """Return the sum over examples that entered the update, flattened; meant for noise multiplier 0."""
        self.gradient()
        self.update()
        total = torch.cat([p.grad.flatten() for p in self.parameters]) * len(self.inputs)
        self.optimizer.zero_grad()
        return total


class _Ours(Contender):
    def __init__(self, *setting: Any, noise_multiplier: float, views: int = 1) -> None:
        self.views = views
        super().__init__(*setting, noise_multiplier=noise_multiplier)

    def prepare(self) -> None:
        self.steps = 0
        self.engine = PrivateGradients(
            self.network,
            max_grad_norm=_MAX_GRAD_NORM,
            noise_multiplier=self.noise_multiplier,
            expected_batch_size=len(self.inputs) // self.views,
            views=self.views,
            noise=NoiseSource(),
        )
        self.engine.attach()

    def gradient(self) -> None:
        self.engine.arm(batch_size=len(self.inputs) // self.views, step=self.steps)
        self.steps += 1
        super().gradient()

    def update(self) -> None:
        super().update()
        self.engine.consume()


class _OursWithoutNoise(_Ours):
    """Clip and sum only."""

    def prepare(self) -> None:
        self.noise_multiplier = 0.0
        super().prepare()


class _Opacus(Contender):
    mode = "hooks"

    def prepare(self) -> None:
        self.network = prepare_module(self.network, self.mode, batch_first=True, loss_reduction="mean")
        self.optimizer = DPOptimizer(
            self.optimizer,
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=_MAX_GRAD_NORM,
            expected_batch_size=len(self.inputs),
        )


class _Functorch(_Opacus):
    mode = "functorch"


class _ExpandedWeights(_Opacus):
    mode = "ew"


class _Ghost(Contender):
    ghost = True

    def prepare(self) -> None:
        self.network = prepare_module(
            self.network,
            "ghost",
            batch_first=True,
            loss_reduction="mean",
            max_grad_norm=_MAX_GRAD_NORM,
            use_ghost_clipping=self.ghost,
        )
        self.optimizer = DPOptimizerFastGradientClipping(
            self.optimizer,
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=_MAX_GRAD_NORM,
            expected_batch_size=len(self.inputs),
        )
        self.loss = DPLossFastGradientClipping(self.network, self.optimizer, nn.CrossEntropyLoss())

    def gradient(self) -> None:
        logits = self.network(self.inputs)
        shape = logits.shape if logits.dim() == 3 else None
        self.loss(logits.flatten(0, -2), self.targets.flatten(), shape=shape).backward()


class _FastGradientClipping(_Ghost):
    ghost = False


CONTENDERS: dict[str, Callable[..., Contender]] = {
    "plain": Contender,
    "ours": _Ours,
    "ours, clip and sum only": _OursWithoutNoise,
    "Opacus hooks": _Opacus,
    "Opacus functorch": _Functorch,
    "Opacus expanded weights": _ExpandedWeights,
    "Opacus ghost": _Ghost,
    "Opacus fast gradient clipping": _FastGradientClipping,
}
"""By the name the table shows."""
OURS = "ours"
OPACUS = tuple(name for name in CONTENDERS if name.startswith("Opacus"))
REFERENCE = "Opacus hooks"
