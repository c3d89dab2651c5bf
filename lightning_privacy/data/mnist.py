"""MNIST and Fashion-MNIST: 60,000 images to train on, 10,000 held out.

The files are read where they lie, unpacked as torchvision leaves them or as the ``.gz`` files of the
publishers, and downloaded through torchvision only when they are nowhere. Pixels are divided by 255, the
format's own constant, and shifted to -1 to 1: nothing is learned from the images.

Example:
    >>> from lightning_privacy.data import FashionMNISTDataModule
    >>> FashionMNISTDataModule(root="data", batch_size=2048).batch_size
    2048
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torchvision import datasets
from typing_extensions import override

from lightning_privacy.data.features import compute_features
from lightning_privacy.data.idx import find_idx, read_idx
from lightning_privacy.data.in_memory import InMemoryDataModule, InMemoryDataset, Splits
from lightning_privacy.data.splitting import stratified_split
from lightning_privacy.errors import ConfigurationError

__all__ = ["FashionMNISTDataModule", "MNISTDataModule"]

_LARGEST_VALUE = 255.0
_SPLIT_SEED = 0
_IMAGES, _LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
_NAMES = tuple(f"{part}-{kind}" for part in ("train", "t10k") for kind in (_IMAGES, _LABELS))


class MNISTDataModule(InMemoryDataModule):
    """Handwritten digits (LeCun, Cortes and Burges), 28x28, ten classes.

    Args:
        root: Folder of the data. Files are taken from ``<root>/MNIST/raw`` or from the folder itself, plain
            or ``.gz``, and nothing is written when they are there.
        batch_size: Examples of a training batch.
        eval_batch_size: Examples of a validation or test batch.
        val_size: How many of the 10,000 held-out images are for validation, stratified; the rest is for the
            test. With 0 there is no validation. It is never taken from the training images, which are
            private.
        download: Whether to download into ``root`` when files are missing.
        features: Maps images to features, each image's from that image alone, such as :class:`ScatteringFeatures`; they
            are computed once and take the images' place. None: the pixels.
        resample: Options of :func:`~lightning_privacy.sampling.resample` for the training data; None: as they are.

    Raises:
        ConfigurationError: Files are missing and can't be downloaded, or are no idx files.

    Example:
        >>> MNISTDataModule(root="data", val_size=0).val_size
        0
    """

    source: ClassVar[type[datasets.MNIST]] = datasets.MNIST

    def __init__(
        self,
        root: str | Path = "data",
        batch_size: int = 2048,
        eval_batch_size: int = 2000,
        val_size: int = 1000,
        download: bool = True,
        features: Callable[[torch.Tensor], torch.Tensor] | None = None,
        resample: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, resample)
        self.root = Path(root)
        self.val_size = val_size
        self.download = download
        self.features = features

    def _find(self) -> dict[str, Path]:
        folders = [self.root / self.source.__name__ / "raw", self.root]
        return {file: path for file in _NAMES if (path := find_idx(folders, file)) is not None}

    @override
    def prepare_data(self) -> None:
        if len(self._find()) == len(_NAMES):
            return
        missing = ", ".join(file for file in _NAMES if file not in self._find())
        where = f"data.root={self.root} lacks {missing}"
        advice = "set data.root to the folder that holds them (plain or .gz)"
        if not self.download:
            raise ConfigurationError(f"{where}, and data.download is false: {advice}")
        try:
            self.source(str(self.root), download=True)
        except (OSError, RuntimeError) as error:
            cause = " ".join(str(error).split())
            raise ConfigurationError(
                f"{where}, and the download failed ({cause}): {advice}, or run where there is a network"
            ) from error

    @override
    def load(self) -> Splits:
        found = self._find()
        missing = ", ".join(file for file in _NAMES if file not in found)
        if missing:
            raise ConfigurationError(f"data.root={self.root} lacks {missing}: call prepare_data() first")

        def images(part: str) -> torch.Tensor:
            pixels = read_idx(found[f"{part}-{_IMAGES}"]).unsqueeze(1)
            pixels = pixels.to(torch.float32).div_(_LARGEST_VALUE / 2).sub_(1)
            return pixels if self.features is None else compute_features(pixels, self.features)

        def labels(part: str) -> torch.Tensor:
            return read_idx(found[f"{part}-{_LABELS}"]).to(torch.int64)

        train = InMemoryDataset(images("train"), labels("train"))
        held_images, held_labels = images("t10k"), labels("t10k")
        val, test = stratified_split(held_labels.numpy(), size=self.val_size, seed=_SPLIT_SEED)

        def part(positions: np.ndarray) -> InMemoryDataset:
            return InMemoryDataset(held_images[positions], held_labels[positions])

        return Splits(train=train, val=part(val) if self.val_size else None, test=part(test))


class FashionMNISTDataModule(MNISTDataModule):
    """Articles of clothing (Xiao, Rasul and Vollgraf 2017), 28x28, ten classes, in MNIST's format.

    Takes what :class:`MNISTDataModule` takes; files are looked for in ``<root>/FashionMNIST/raw`` and
    ``<root>``.

    Example:
        >>> FashionMNISTDataModule(root="data").source.__name__
        'FashionMNIST'
    """

    source = datasets.FashionMNIST
