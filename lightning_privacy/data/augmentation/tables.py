"""Augmentation of table rows: values that are masked, and columns that change places between views of one row.

Noise for tables is :class:`~lightning_privacy.data.augmentation.Noise` without bounds.

Example:
    >>> import torch
    >>> from lightning_privacy.data.augmentation.draws import Draws
    >>> masked = MaskColumns(0.5, value=-1.0)(torch.zeros(200, 10), Draws(torch.arange(200)))
    >>> 0.45 < -masked.mean().item() < 0.55
    True
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from lightning_privacy.data.augmentation.base import PerExample
from lightning_privacy.data.augmentation.draws import Draws
from lightning_privacy.errors import ConfigurationError

__all__ = ["MaskColumns", "SwapViews"]


def share(name: str, value: float) -> float:
    """A probability from 0 to 1, by the name of its argument."""
    if not 0 <= value <= 1:
        raise ConfigurationError(f"{name} must be from 0 to 1, got {value!r}")
    return float(value)


def check_table(inputs: Tensor, name: str) -> None:
    """Refuse what is no table ``(B, F)``."""
    if inputs.dim() != 2:
        raise ConfigurationError(f"{name} needs rows of a table (B, F), got {tuple(inputs.shape)}")


class MaskColumns(PerExample):
    """Replaces values of a row, each with some probability.

    Args:
        probability: from 0 to 1.
        value: what they are replaced by: one number, or one for each column. Give a constant such as 0 and not a mean
            of the data: under differential privacy a mean is a release of its own.
        columns: numbers of the columns it may happen to; all where not given.

    Raises:
        ConfigurationError: An argument is out of range, or the input is no table.

    Example:
        >>> MaskColumns(1.0, columns=[1])(torch.ones(1, 3)).tolist()
        [[1.0, 0.0, 1.0]]
    """

    def __init__(
        self, probability: float = 0.1, *, value: float | Sequence[float] = 0.0, columns: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.probability = share("probability", probability)
        self.value = float(value) if isinstance(value, int | float) else [float(one) for one in value]
        self.columns = None if columns is None else list(columns)

    @override
    def augment(self, inputs: Tensor, draws: Draws) -> Tensor:
        check_table(inputs, type(self).__name__)
        chosen = draws.chance(self.probability, inputs.shape[1])
        if self.columns is not None:
            allowed = torch.zeros(inputs.shape[1], dtype=torch.bool)
            allowed[self.columns] = True
            chosen &= allowed
        values = torch.tensor(self.value, device=inputs.device).to(inputs.dtype)
        return torch.where(chosen.to(inputs.device), values, inputs)


class SwapViews(PerExample):
    """Exchanges values of a column between the views of one example, and never between examples.

    Put it after transforms that make the views differ: each view then has some columns of one version and some of
    another. With a single view it changes nothing. Swaps between examples, as SCARF and others have them, would let one
    person's values into the gradient of another.

    Args:
        probability: that the values of a column are shuffled among the views of an example.

    Example:
        >>> from lightning_privacy.data.augmentation.draws import Draws
        >>> views = torch.arange(8.0).reshape(4, 2)
        >>> swapped = SwapViews(1.0)(views, Draws(torch.arange(4), views=2))
        >>> sorted(swapped[:2, 0].tolist()), sorted(swapped[2:, 1].tolist())
        ([0.0, 2.0], [5.0, 7.0])
    """

    def __init__(self, probability: float = 0.5) -> None:
        super().__init__()
        self.probability = share("probability", probability)

    @override
    def augment(self, inputs: Tensor, draws: Draws) -> Tensor:
        check_table(inputs, type(self).__name__)
        views, columns = draws.views, inputs.shape[1]
        if views == 1 or len(inputs) == 0:
            return inputs
        own = draws.of_examples()
        examples = len(own)
        order = own.uniform(0.0, 1.0, views, columns).argsort(1)
        straight = torch.arange(views).view(1, views, 1).expand(examples, views, columns)
        places = torch.where(own.chance(self.probability, 1, columns), order, straight)
        return inputs.view(examples, views, columns).gather(1, places.to(inputs.device)).view(inputs.shape)
