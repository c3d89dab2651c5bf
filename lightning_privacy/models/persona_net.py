"""PersonaNet: the small convolutional network of the default run.

Two convolutions of 3x3, each followed by a pooling of 2x2, and two dense layers. It has no BatchNorm, which
would couple the examples of a batch and leave no gradient of one example alone to clip.

Example:
    >>> import torch
    >>> from lightning_privacy.models import PersonaNet
    >>> net = PersonaNet(in_channels=1, num_classes=10)
    >>> net(torch.zeros(4, 1, 28, 28)).shape
    torch.Size([4, 10])
"""

from __future__ import annotations

import torch
from torch import nn
from typing_extensions import override

from lightning_privacy._validate import positive_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.models._activations import make_activation

__all__ = ["PersonaNet"]

# What the two convolutions and poolings leave of a side: ((side - 2) // 2 - 2) // 2 is at least 1 from 10 on.
_SMALLEST_SIDE = 10


class PersonaNet(nn.Module):
    """Conv 32, pool, conv 64, pool, dense 128, dense ``num_classes``.

    The convolutions are 3x3 without padding: for 28x28 images that leaves 64 x 5 x 5 features and 225,034
    parameters, about half of what padding would; private noise grows with the number of parameters.

    Args:
        in_channels: Channels of the images: 1 for grey, 3 for colour.
        num_classes: Length of the output.
        activation: ``"tanh"`` or ``"relu"``.
        image_size: Height and width of the images in pixels, at least 10.

    Raises:
        ConfigurationError: An argument is out of range.

    Example:
        >>> sum(parameter.numel() for parameter in PersonaNet().parameters())
        225034
    """

    def __init__(
        self, in_channels: int = 1, num_classes: int = 10, activation: str = "tanh", image_size: int = 28
    ) -> None:
        super().__init__()
        positive_int(in_channels=in_channels)
        positive_int(num_classes=num_classes)
        if positive_int(image_size=image_size) < _SMALLEST_SIDE:
            raise ConfigurationError(f"image_size must be >= {_SMALLEST_SIDE}, got {image_size}: pad the images")
        side = ((image_size - 2) // 2 - 2) // 2
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 32, kernel_size=3),
            make_activation(activation),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, kernel_size=3),
            make_activation(activation),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * side * side, 128),
            make_activation(activation),
            nn.Linear(128, num_classes),
        )

    @override
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Class scores.

        Args:
            images: Shape ``(batch, in_channels, image_size, image_size)``.

        Returns:
            Logits, shape ``(batch, num_classes)``.
        """
        logits: torch.Tensor = self.layers(images)
        return logits
