"""Published architectures at a small size, and networks of parts that are put together in practice."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from opacus.validators import ModuleValidator
    from torchvision.models import efficientnet, resnet
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt
    from torchvision.models.swin_transformer import SwinTransformer, SwinTransformerBlockV2
    from torchvision.models.vision_transformer import VisionTransformer
    from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel


def trained(model: nn.Module) -> nn.Module:
    """Take a network away from its initial weights, at which some gradients are zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.double()


def _resnet(block: Any) -> nn.Module:
    def norm(channels: int) -> nn.Module:
        return nn.GroupNorm(2, channels)

    model = resnet.ResNet(block, [1, 1, 1, 1], num_classes=3, norm_layer=norm, width_per_group=64)
    return _shrunk(model, 16)


def _shrunk(model: nn.Module, factor: int) -> nn.Module:
    """Divide all channels: the same graph at a size that brute force can afford."""
    for layer in list(model.modules()):
        for child_name, child in list(layer.named_children()):
            if isinstance(child, nn.Conv2d):
                new: nn.Module = nn.Conv2d(
                    child.in_channels if child.in_channels == 3 else child.in_channels // factor,
                    child.out_channels // factor,
                    child.kernel_size,
                    child.stride,
                    child.padding,
                    child.dilation,
                    bias=child.bias is not None,
                )
            elif isinstance(child, nn.GroupNorm):
                new = nn.GroupNorm(2, child.num_channels // factor)
            elif isinstance(child, nn.Linear):
                new = nn.Linear(child.in_features // factor, child.out_features)
            else:
                continue
            setattr(layer, child_name, new)
    return model


def _efficientnet() -> nn.Module:
    config = [
        efficientnet.MBConvConfig(1, 3, 1, 8, 8, 1, 1.0, 1.0),
        efficientnet.MBConvConfig(4, 3, 2, 8, 16, 2, 1.0, 1.0),
        efficientnet.MBConvConfig(4, 5, 1, 16, 16, 1, 1.0, 1.0),
    ]
    model = efficientnet.EfficientNet(config, dropout=0.0, stochastic_depth_prob=0.0, num_classes=3, last_channel=16)
    return ModuleValidator.fix(model)


IMAGE_NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, bool]] = {
    "ResNet-18 in small": (lambda: _resnet(resnet.BasicBlock), 32, False),
    "ResNet-50 in small": (lambda: _resnet(resnet.Bottleneck), 32, False),
    "EfficientNet in small": (_efficientnet, 16, False),
    "ConvNeXt in small": (
        lambda: ConvNeXt([CNBlockConfig(8, 12, 2), CNBlockConfig(12, None, 1)], 0.0, 0.5, num_classes=3),
        16,
        False,
    ),
    "ViT in small": (lambda: VisionTransformer(16, 8, 2, 2, 8, 12, num_classes=3), 16, False),
    "Swin in small": (
        lambda: SwinTransformer([2, 2], 8, [2, 2], [2, 2], [3, 3], stochastic_depth_prob=0.0, num_classes=3),
        20,
        True,
    ),
    "Swin V2 in small": (
        lambda: SwinTransformer(
            [2, 2], 8, [2], [2], [2, 2], stochastic_depth_prob=0.0, num_classes=3, block=SwinTransformerBlockV2
        ),
        8,
        True,
    ),
}


def gpt2(**options: Any) -> nn.Module:
    config = GPT2Config(
        vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=0, eos_token_id=0, **options,
    )  # fmt: skip
    return trained(GPT2LMHeadModel(config))


def bert() -> nn.Module:
    """Return a classifier of 11 tokens into 3 classes."""
    config = BertConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12, num_labels=3,
        max_position_embeddings=8, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return trained(BertForSequenceClassification(config))


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(9, 4))
        self.scale = nn.Parameter(torch.randn(()))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.tower(x[:, 0]), self.tower(x[:, 1])
        return self.scale * (a - b).square() + self.tower[3].bias


class Adapted(nn.Module):
    """A frozen layer and two thin matrices beside it (LoRA)."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(base.in_features, rank))
        self.b = nn.Parameter(torch.randn(rank, base.out_features))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.a @ self.b * 0.5


def _adapted() -> nn.Module:
    frozen = nn.Sequential(nn.Linear(5, 6), nn.Tanh()).requires_grad_(False)
    return nn.Sequential(frozen, Adapted(nn.Linear(6, 6), 2), nn.Tanh(), Adapted(nn.Linear(6, 3), 1))


class Language(nn.Module):
    """Tied embedding and head, positions, blocks that are recomputed."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 8)
        self.position = nn.Parameter(torch.randn(1, 6, 8))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True) for _ in range(2)
        )
        self.temperature = nn.Parameter(torch.zeros(()))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.position[:, : tokens.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], dtype=x.dtype)
        for block in self.blocks:
            x = checkpoint(block, x, mask, use_reentrant=False)
        return F.linear(x, self.embedding.weight) * self.temperature.exp()


class Translating(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True), 2, enable_nested_tensor=False
        )
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 12, dropout=0.0, batch_first=True), 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(x[:, :2], self.encoder(x))


def _generator() -> nn.Module:
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(5, 6)).eval(),
        nn.Tanh(),
        parametrizations.weight_norm(nn.Linear(6, 6)),
        nn.Tanh(),
        parametrizations.orthogonal(nn.Linear(6, 4)),
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "siamese": (Siamese, lambda: torch.randn(4, 2, 2, 5)),
    "low-rank adapters": (_adapted, lambda: torch.randn(4, 5)),
    "tied language model": (Language, lambda: torch.randint(0, 9, (4, 5))),
    "encoder and decoder": (Translating, lambda: torch.randn(4, 3, 8)),
    "parametrizations": (_generator, lambda: torch.randn(4, 5)),
}
