"""Test-time augmentation: the mean prediction over several views of each example.

Example:
    >>> import torch
    >>> from torchvision.transforms.v2 import RandomHorizontalFlip
    >>> def left_pixel(images):
    ...     return images[:, 0, 0, :1]
    >>> images = torch.tensor([[[[0.0, 1.0]]]])
    >>> mean = predict_with_views(left_pixel, images, transforms=[RandomHorizontalFlip()], views=400)
    >>> mean.shape, 0.4 < mean.item() < 0.6
    (torch.Size([1, 1]), True)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_privacy._validate import positive_int
from lightning_privacy.data.augmentation.draws import Draws, row_keys
from lightning_privacy.data.augmentation.pipeline import resolve
from lightning_privacy.data.augmentation.sample import Sample
from lightning_privacy.errors import ConfigurationError

__all__ = ["predict_with_views"]


def predict_with_views(
    predict: Callable[[Tensor], Tensor],
    inputs: Tensor,
    *,
    transforms: Sequence[Any],
    views: int,
    seed: int = 0,
    max_rows: int | None = None,
) -> Tensor:
    """The mean of ``predict`` over augmented views of each example, in float32.

    Args:
        predict: gives a row of numbers for each row, such as logits or probabilities: means are taken of what it gives.
        inputs: ``(B, ...)``.
        transforms: as for :class:`AugmentationDataModule`.
        views: how many of each example.
        seed: fixes the views.
        max_rows: rows given to ``predict`` at once; ``B * views`` where not given.

    Returns:
        ``(B, ...)``, as ``predict`` gives it.

    Raises:
        ConfigurationError: ``views`` is below 1, a transform mixes examples, or ``predict`` doesn't keep the rows.
    """
    positive_int(views=views)
    chain = resolve(transforms).to(inputs.device)
    rows = len(inputs)
    index = torch.arange(rows).repeat_interleave(views)
    keys = row_keys(index, seed=seed, epoch=0, copy=torch.arange(rows * views) % views)
    outputs = []
    # Whole examples at a time.
    step = rows if max_rows is None else max(1, positive_int(max_rows=max_rows) // views)
    for start in range(0, rows, step):
        some = inputs[start : start + step].repeat_interleave(views, 0)
        draws = Draws(keys[start * views : (start + step) * views], views=views, shared=seed)
        output = predict(chain.run(Sample(some), draws).inputs)
        if len(output) != len(some):
            raise ConfigurationError(f"predict gave {len(output)} rows for {len(some)}: it must give one for each")
        outputs.append(output.float().view(-1, views, *output.shape[1:]).mean(1))
    return torch.cat(outputs)
