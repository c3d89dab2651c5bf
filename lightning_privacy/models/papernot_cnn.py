"""The convolutional network most papers on private MNIST and Fashion-MNIST report.

It is the architecture of Papernot, Thakurta, Song, Chien and Erlingsson, "Tempered Sigmoid Activations for
Deep Learning with Differential Privacy", AAAI 2021, table 1; with tanh they report 86.1% on Fashion-MNIST at
epsilon 2.7.

Example:
    >>> import torch
    >>> from lightning_privacy.models import PapernotCNN
    >>> PapernotCNN()(torch.zeros(4, 1, 28, 28)).shape
    torch.Size([4, 10])
"""

from __future__ import annotations

import torch
from torch import nn
from typing_extensions import override

from lightning_privacy._validate import positive_int
from lightning_privacy.models._activations import make_activation

__all__ = ["PapernotCNN"]


class PapernotCNN(nn.Module):
    """Conv 16 of 8x8, conv 32 of 4x4, each with stride 2 and an overlapping pool, dense 32, ``num_classes``.

    Args:
        in_channels: Channels of the 28x28 images.
        num_classes: Length of the output.
        activation: ``"tanh"`` or ``"relu"``.

    Raises:
        ConfigurationError: An argument is out of range.

    Example:
        >>> sum(parameter.numel() for parameter in PapernotCNN().parameters())
        26010
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 10, activation: str = "tanh") -> None:
        super().__init__()
        positive_int(in_channels=in_channels)
        positive_int(num_classes=num_classes)
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 16, kernel_size=8, stride=2, padding=3),
            make_activation(activation),
            nn.MaxPool2d(2, stride=1),
            nn.Conv2d(16, 32, kernel_size=4, stride=2),
            make_activation(activation),
            nn.MaxPool2d(2, stride=1),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 32),
            make_activation(activation),
            nn.Linear(32, num_classes),
        )

    @override
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Class scores.

        Args:
            images: Shape ``(batch, in_channels, 28, 28)``.

        Returns:
            Logits, shape ``(batch, num_classes)``.
        """
        logits: torch.Tensor = self.layers(images)
        return logits
