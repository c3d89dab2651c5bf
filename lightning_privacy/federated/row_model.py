"""One client's row of stacked weights, in the place of a flat model.

Example:
    >>> import torch
    >>> from torch import nn
    >>> layer = nn.Linear(1, 1, bias=False)
    >>> model = FlatModel(layer)
    >>> row = RowModel(model, {id(layer.weight): torch.ones(1, 1)})
    >>> row.parameters[0].item(), row.num_parameters
    (1.0, 1)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_privacy.federated.flat import FlatModel

__all__ = ["RowModel"]


class RowModel:
    """A flat model as an algorithm sees it before a step, with a client's weights and gradients.

    Args:
        model: The global model; what is asked of it is answered by it.
        rows: The client's weights by the ``id`` of the parameter, each with its gradient.
    """

    def __init__(self, model: FlatModel, rows: Mapping[int, Tensor]) -> None:
        self._model = model
        self.parameters = [rows[id(p)] for p in model.parameters]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
