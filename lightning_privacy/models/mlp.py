"""A multi-layer perceptron for tables and for small images taken as vectors.

Example:
    >>> import torch
    >>> from lightning_privacy.models import MLP
    >>> MLP(in_features=105, num_classes=2, hidden=(64, 32))(torch.zeros(4, 105)).shape
    torch.Size([4, 2])
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from typing_extensions import override

from lightning_privacy._validate import positive_int
from lightning_privacy.models._activations import make_activation

__all__ = ["MLP"]


class MLP(nn.Module):
    """Dense layers with an activation between them.

    Args:
        in_features: Numbers in one example, after flattening.
        num_classes: Length of the output.
        hidden: Widths of the hidden layers, first to last; empty for a linear model.
        activation: ``"tanh"`` or ``"relu"``.

    Raises:
        ConfigurationError: An argument is out of range.

    Example:
        >>> MLP(in_features=4, num_classes=2, hidden=())
        MLP(
          (layers): Sequential(
            (0): Flatten(start_dim=1, end_dim=-1)
            (1): Linear(in_features=4, out_features=2, bias=True)
          )
        )
    """

    def __init__(
        self, in_features: int, num_classes: int, hidden: Sequence[int] = (128,), activation: str = "tanh"
    ) -> None:
        super().__init__()
        positive_int(num_classes=num_classes)
        layers: list[nn.Module] = [nn.Flatten()]
        width = positive_int(in_features=in_features)
        for next_width in hidden:
            layers += [nn.Linear(width, positive_int(hidden=next_width)), make_activation(activation)]
            width = next_width
        layers.append(nn.Linear(width, num_classes))
        self.layers = nn.Sequential(*layers)

    @override
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Class scores.

        Args:
            inputs: Shape ``(batch, ...)`` with ``in_features`` numbers per example.

        Returns:
            Logits, shape ``(batch, num_classes)``.
        """
        logits: torch.Tensor = self.layers(inputs)
        return logits
