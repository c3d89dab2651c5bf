"""The networks of the step benchmark, with a batch of random data each.

All are built so that every contender supports them: nothing in place, positions of the transformer looked up once
per example, attention from plain linear layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet
from transformers import GPT2Config, GPT2LMHeadModel

__all__ = ["NETWORKS", "Network", "Sizes"]


@dataclass(frozen=True)
class Sizes:
    """How large: the paper's sizes, or tiny ones that only show that everything runs."""

    batch: int
    width: float = 1.0
    positions: int = 128


@dataclass(frozen=True)
class Network:
    """A row of the table.

    Args:
        description: what it is, for the result file.
        batch: batch size.
        build: makes the network.
        data: makes inputs and targets.
        limit: the multiple of the plain step's time this package must stay under on a CPU.
        device_batch: batch size on an accelerator; as on the CPU by default.
        positions: length of a text.
        only_on_device: why there is no row without an accelerator.
    """

    description: str
    batch: int
    build: Callable[[Sizes], nn.Module]
    data: Callable[[Sizes], tuple[Tensor, Tensor]]
    limit: float | None = None
    device_batch: int | None = None
    positions: int = 128
    only_on_device: str | None = None

    def sizes(self, *, quick: bool, device: str = "cpu") -> Sizes:
        """Return the sizes to run at."""
        if quick:
            return Sizes(4, 0.25, 16)
        batch = self.batch if device == "cpu" or self.device_batch is None else self.device_batch
        return Sizes(batch, positions=self.positions)


def _images(channels: int, side: int) -> Callable[[Sizes], tuple[Tensor, Tensor]]:
    def data(sizes: Sizes) -> tuple[Tensor, Tensor]:
        return torch.randn(sizes.batch, channels, side, side), torch.randint(10, (sizes.batch,))

    return data


def _mlp(sizes: Sizes) -> nn.Module:
    width = int(1024 * sizes.width)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )


def _mnist_cnn(_: Sizes) -> nn.Module:
    # As in lightning_privacy.models, which needs Lightning; this benchmark doesn't.
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 8, stride=2, padding=3), nn.Tanh(), nn.MaxPool2d(2, stride=1)),
        *(nn.Conv2d(16, 32, 4, stride=2), nn.Tanh(), nn.MaxPool2d(2, stride=1)),
        *(nn.Flatten(), nn.Linear(512, 32), nn.Tanh(), nn.Linear(32, 10)),
    )


def _cifar_cnn(sizes: Sizes) -> nn.Module:
    layers: list[nn.Module] = []
    before = 3
    for width in (int(base * sizes.width) for base in (32, 64, 128)):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
        before = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * 16, 128), nn.ReLU(), nn.Linear(128, 10))


class _ResidualBlock(BasicBlock):
    """The sum is out of place: the backward hooks of Opacus don't allow otherwise."""

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + identity)


def _resnet(_: Sizes) -> nn.Module:
    depths = [2, 2, 2, 2]
    network = ResNet(_ResidualBlock, depths, num_classes=10, norm_layer=lambda channels: nn.GroupNorm(32, channels))
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    for layer in network.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    return network


_VOCABULARY = 1000


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm_attention, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_attention(x)
        batch, positions, width = y.shape

        def split(z: Tensor) -> Tensor:
            return z.view(batch, positions, self.heads, -1).transpose(1, 2)

        attended = F.scaled_dot_product_attention(
            split(self.query(y)), split(self.key(y)), split(self.value(y)), is_causal=self.causal
        )
        x = x + self.out(attended.transpose(1, 2).reshape(batch, positions, width))
        return x + self.feed(self.norm_feed(x))


class _LanguageModel(nn.Module):
    def __init__(self, width: int, positions: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(_VOCABULARY, width)
        self.positions = nn.Embedding(positions, width)
        self.blocks = nn.Sequential(*(_Block(width, 4, causal=True) for _ in range(4)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, _VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        # Every example looks its own positions up: Opacus knows no other way.
        places = torch.ones_like(tokens).cumsum(1) - 1
        return self.head(self.norm(self.blocks(self.tokens(tokens) + self.positions(places))))


def _transformer(sizes: Sizes) -> nn.Module:
    return _LanguageModel(int(256 * sizes.width), sizes.positions)


def _text(sizes: Sizes) -> tuple[Tensor, Tensor]:
    text = torch.randint(_VOCABULARY, (sizes.batch, sizes.positions + 1))
    return text[:, :-1].contiguous(), text[:, 1:].contiguous()


class _VisionTransformer(nn.Module):
    """ViT-S/4 on 32x32 images; the mean over the patches stands for a class token."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.positions = nn.Embedding(64, width)
        self.blocks = nn.Sequential(*(_Block(width, 6, causal=False) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).transpose(1, 2)
        places = torch.ones_like(patches[:, :, 0], dtype=torch.long).cumsum(1) - 1
        return self.head(self.norm(self.blocks(patches + self.positions(places))).mean(1))


def _vit_s(sizes: Sizes) -> nn.Module:
    return _VisionTransformer(int(384 * sizes.width), 12 if sizes.width == 1 else 2)


class _GPT2(nn.Module):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.language_model = GPT2LMHeadModel(config)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.language_model(input_ids=tokens, use_cache=False).logits


def _gpt2(sizes: Sizes) -> nn.Module:
    small = (
        {}
        if sizes.width == 1
        else {"n_embd": 48, "n_layer": 2, "n_head": 4, "vocab_size": _VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
    )
    return _GPT2(GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **small))


NETWORKS: dict[str, Network] = {
    "mlp": Network("784-1024-1024-10 perceptron, ReLU", 256, _mlp, _images(1, 28), limit=1.05),
    "mnist_cnn": Network("MNIST CNN of Papernot et al. 2021, tanh", 256, _mnist_cnn, _images(1, 28), limit=1.3),
    "cifar_cnn": Network(
        "six 3x3 convolutions (32, 32, 64, 64, 128, 128), pools, dense 128 and 10",
        128,
        _cifar_cnn,
        _images(3, 32),
        1.35,
    ),
    "resnet18": Network(
        "ResNet-18, GroupNorm(32), 3x3 stem of stride 1 and no first pool, 32x32 inputs",
        64,
        _resnet,
        _images(3, 32),
        limit=1.5,
        device_batch=512,
    ),
    "transformer": Network(
        "pre-norm causal language model: 4 layers, d 256, 4 heads, feed-forward 1024, 128 positions, 1000 tokens",
        16,
        _transformer,
        _text,
        limit=1.25,
    ),
    "vit_s": Network(
        "ViT-S, patches of 4 on 32x32 inputs: 12 layers, d 384, 6 heads, mean over the patches",
        4,
        _vit_s,
        _images(3, 32),
        device_batch=512,
    ),
    "gpt2": Network(
        "GPT-2 small of transformers, built from its configuration, tied head, texts of 512 tokens",
        4,
        _gpt2,
        _text,
        positions=512,
        only_on_device="124 million parameters and texts of 512 tokens take a minute a step here; run it on a GPU",
    ),
}
"""By the name used on the command line."""
