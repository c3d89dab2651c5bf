"""A small recurrent network that says which character comes next.

Example:
    >>> import torch
    >>> from lightning_privacy.models import CharGRU
    >>> CharGRU(num_characters=97)(torch.zeros(2, 80, dtype=torch.int64)).shape
    torch.Size([2, 97, 80])
"""

from __future__ import annotations

import torch
from torch import nn
from typing_extensions import override

from lightning_privacy._validate import positive_int

__all__ = ["CharGRU"]


class CharGRU(nn.Module):
    """Embedding, gated recurrent units (Cho et al. 2014), a linear layer; each character sees only those before it.

    The classes stand in the second dimension, as ``cross_entropy`` has them, so
    :class:`~lightning_privacy.models.Classifier` trains the network as it is.

    Args:
        num_characters: Characters that are told apart.
        embedding_size: Numbers that stand for a character.
        hidden_size: Numbers of the state.
        num_layers: Recurrent layers.

    Raises:
        ConfigurationError: An argument is out of range.

    Example:
        >>> sum(parameter.numel() for parameter in CharGRU(num_characters=97).parameters())
        77825
    """

    def __init__(
        self, num_characters: int, embedding_size: int = 32, hidden_size: int = 128, num_layers: int = 1
    ) -> None:
        super().__init__()
        positive_int(num_characters=num_characters)
        positive_int(hidden_size=hidden_size)
        self.embedding = nn.Embedding(num_characters, positive_int(embedding_size=embedding_size))
        self.recurrent = nn.GRU(
            embedding_size, hidden_size, num_layers=positive_int(num_layers=num_layers), batch_first=True
        )
        self.head = nn.Linear(hidden_size, num_characters)

    @override
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Scores of the character after each position.

        Args:
            inputs: Characters, int64, shape ``(batch, length)``.

        Returns:
            Logits, shape ``(batch, num_characters, length)``.
        """
        states, _ = self.recurrent(self.embedding(inputs))
        logits: torch.Tensor = self.head(states)
        return logits.transpose(1, 2)
