"""A picture of examples before and after augmentation.

Example:
    >>> import torch
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> from lightning_privacy.data.augmentation.pipeline import Augmentation, Pipeline
    >>> plan = Augmentation([])
    >>> loader = DataLoader(TensorDataset(torch.rand(4, 1, 8, 8)), batch_size=2)
    >>> save_preview(loader, plan, Pipeline(plan), num_examples=3).shape[0]
    3
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as tvf
from torchvision.utils import make_grid, save_image

from lightning_privacy._validate import positive_int
from lightning_privacy.data.augmentation.batches import KeyedDataset, check_loader
from lightning_privacy.data.augmentation.fields import get_field
from lightning_privacy.data.augmentation.pipeline import Augmentation, Pipeline
from lightning_privacy.data.augmentation.workers import AugmentedDataset, EpochClock
from lightning_privacy.errors import ConfigurationError

__all__ = ["save_preview"]

_SMALLEST = 64
"""Images with fewer pixels across are enlarged, so that one sees something."""


def save_preview(
    loader: DataLoader[Any],
    plan: Augmentation,
    pipeline: Pipeline | None,
    *,
    path: str | Path | None = None,
    num_examples: int = 8,
) -> Tensor:
    """Make the picture: originals in the first row, their views in the rows below.

    Args:
        loader: of the examples.
        plan: how they are augmented.
        pipeline: does so for batches; ``None`` where it is done for single examples.
        path: where to save the picture.
        num_examples: the first so many are shown.

    Returns:
        ``(3, H, W)``, from 0 to 1.

    Raises:
        ConfigurationError: The inputs are no images of 1 or 3 channels.
    """
    check_loader(loader)
    dataset: Any = loader.dataset
    count = min(positive_int(num_examples=num_examples), len(dataset))
    indices = list(range(count))
    collate = loader.collate_fn
    before = collate([KeyedDataset(dataset)[index].example for index in indices])
    if pipeline is not None:
        after = pipeline(before, torch.tensor(indices), epoch=0)
    else:
        after = collate(AugmentedDataset(dataset, plan, EpochClock()).__getitems__(indices))
    first, views = _images(before, plan), _images(after, plan)
    rows = views.view(count, plan.views, *views.shape[1:]).transpose(0, 1).flatten(0, 1)
    pictures = torch.cat([_enlarged(first, rows), _enlarged(rows, rows)])
    low, high = float(first.min()), float(first.max())
    grid: Tensor = make_grid(
        pictures, nrow=count, normalize=True, value_range=(low, max(high, low + 1e-6)), pad_value=1.0
    )
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save_image(grid, path)
    return grid


def _images(batch: Any, plan: Augmentation) -> Tensor:
    images = get_field(batch, plan.input_key)
    if not isinstance(images, Tensor) or images.dim() != 4 or images.shape[1] not in (1, 3):
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ConfigurationError(f"a preview needs images (B, C, H, W) with 1 or 3 channels, got {got}")
    return images.to(torch.float32)


def _enlarged(images: Tensor, like: Tensor) -> Tensor:
    factor = max(1, -(-_SMALLEST // like.shape[-1]))
    size = [like.shape[-2] * factor, like.shape[-1] * factor]
    enlarged: Tensor = tvf.resize(images, size, interpolation=tvf.InterpolationMode.NEAREST)
    return enlarged
