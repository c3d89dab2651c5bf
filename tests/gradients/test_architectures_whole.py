"""Published architectures at their own size: one step each, and the sum of all gradients against plain autograd."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from brute_force import HUGE, engine_for, grads, norm, relative_error, trainable
from laid_out import found_layouts
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from opacus.validators import ModuleValidator
    from torchvision import models


NETWORKS: dict[str, tuple[Callable[[], nn.Module], bool]] = {
    "ResNet-18": (lambda: ModuleValidator.fix(models.resnet18()), False),
    "ResNet-50": (lambda: ModuleValidator.fix(models.resnet50()), False),
    "ConvNeXt-Tiny": (models.convnext_tiny, False),
    "EfficientNet-B0": (lambda: ModuleValidator.fix(models.efficientnet_b0()), False),
    "Swin-T": (models.swin_t, True),
    "ViT-B/16": (lambda: models.vit_b_16(image_size=32), False),
}


@pytest.mark.parametrize(("make", "laid_out"), NETWORKS.values(), ids=NETWORKS)
def test_architecture_at_its_own_size(make: Callable[[], nn.Module], laid_out: bool) -> None:
    """Without clipping the private sum is the gradient of the summed loss; with it, no example exceeds the bound."""
    torch.manual_seed(7)
    model = make()
    for layer in model.modules():
        # Random depth and dropout draw the same numbers in both runs only where they draw none.
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        if type(layer).__name__ == "StochasticDepth":
            layer.p = 0.0
    x, y = torch.randn(2, 3, 32, 32), torch.randint(0, 1000, (2,))
    plain = copy.deepcopy(model)
    F.cross_entropy(plain(x), y, reduction="sum").backward()
    expected = [torch.zeros_like(p) if p.grad is None else p.grad for p in trainable(plain)]
    for bound in (HUGE, 0.01):
        engine = engine_for(model, max_grad_norm=bound)

        def forward(size: int) -> Tensor:
            return model(x[:size].repeat(-(-size // 2), 1, 1, 1)[:size])

        if laid_out:
            engine.use_layouts(found_layouts(engine, forward))
        engine.arm(batch_size=2, step=0)
        F.cross_entropy(model(x), y).backward()
        if bound == HUGE:
            assert relative_error(grads(model), expected) < 1e-4
        else:
            assert 0 < norm(grads(model)) <= 2 * bound * (1 + 1e-5)
        engine.detach()
