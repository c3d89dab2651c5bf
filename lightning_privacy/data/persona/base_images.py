"""The images that those of people are made of, those of training and those held out apart.

Example:
    >>> bases = load_base_images("digits")
    >>> bases.images.shape, bases.images.dtype, int(bases.held_out.sum())
    ((1797, 28, 28), dtype('uint8'), 360)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from lightning_privacy._validate import one_of
from lightning_privacy.data.idx import find_idx, read_idx
from lightning_privacy.data.persona.columns import IMAGE_SIZE
from lightning_privacy.data.splitting import stratified_split
from lightning_privacy.errors import ConfigurationError

__all__ = ["KINDS", "BaseImages", "draw_bases", "load_base_images"]

_LARGEST_OF_DIGITS = 16.0
_TRAIN_DIGITS = 1437
_SPLIT_SEED = 0
_FASHION_FILES = {part: (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte") for part in ("train", "t10k")}


@dataclass(frozen=True, eq=False)
class BaseImages:
    """Images with their classes.

    Attributes:
        images: 0 to 255, shape ``(count, 28, 28)``.
        labels: Class of each, shape ``(count,)``.
        held_out: Which are for people who are held out, shape ``(count,)``.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.bool_]


def load_base_images(kind: str, root: str | Path | None = None) -> BaseImages:
    """Read the images people's images are made of.

    Args:
        kind: ``"digits"``, scikit-learn's, of which 1,437 are for training and 360 held out, the same as in
            :class:`~lightning_privacy.data.DigitsDataModule`; or ``"fashion-mnist"``, 60,000 and 10,000, as published.
        root: Folder with the idx files of Fashion-MNIST, plain or ``.gz``; nothing is downloaded.

    Raises:
        ConfigurationError: The kind is unknown, or files are missing or damaged, or hold other than 28x28 images.
    """
    one_of(KINDS, images=kind)
    return _LOADERS[kind](root)


def draw_bases(
    bases: BaseImages, labels: npt.NDArray[np.int64], held_out: npt.NDArray[np.bool_], generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """A base image for each label, of that class and of the right part.

    Each is taken once before any is taken twice, and so on.

    Args:
        bases: What is drawn from.
        labels: The class of each image that is wanted, shape ``(num_images,)``.
        held_out: Whether it is for somebody held out, shape ``(num_images,)``.
        generator: Of the draws.

    Returns:
        Positions in ``bases``, shape ``(num_images,)``.
    """
    drawn = np.empty(len(labels), dtype=np.int64)
    for part in (False, True):
        for label in np.unique(labels[held_out == part]):
            wanted = np.flatnonzero((labels == label) & (held_out == part))
            pool = np.flatnonzero((bases.labels == label) & (bases.held_out == part))
            passes = -(-len(wanted) // len(pool))
            drawn[wanted] = np.concatenate([generator.permutation(pool) for _ in range(passes)])[: len(wanted)]
    return drawn


def _digits(_root: str | Path | None) -> BaseImages:
    small, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(small.astype(np.float32) / _LARGEST_OF_DIGITS).reshape(-1, 1, 8, 8)
    images = F.interpolate(images, size=IMAGE_SIZE, mode="bilinear").mul_(255).round_().to(torch.uint8)
    labels = labels.astype(np.int64)
    held_out = np.zeros(len(labels), dtype=bool)
    held_out[stratified_split(labels, size=_TRAIN_DIGITS, seed=_SPLIT_SEED)[1]] = True
    return BaseImages(images.squeeze(1).numpy(), labels, held_out)


def _fashion(root: str | Path | None) -> BaseImages:
    if root is None:
        raise ConfigurationError(
            "root must be the folder of Fashion-MNIST's idx files with images='fashion-mnist', got None"
        )
    folders = [Path(root) / "FashionMNIST" / "raw", Path(root)]
    found = {name: find_idx(folders, name) for names in _FASHION_FILES.values() for name in names}
    missing = ", ".join(name for name, path in found.items() if path is None)
    if missing:
        raise ConfigurationError(
            f"root={root} lacks {missing}: set it to the folder that holds Fashion-MNIST's files (plain or .gz)"
        )
    parts = [
        tuple(read_idx(path).numpy() for name in names if (path := found[name])) for names in _FASHION_FILES.values()
    ]
    for images, labels in parts:
        if images.shape != (len(labels), IMAGE_SIZE, IMAGE_SIZE):
            raise ConfigurationError(
                f"root={root} must hold one {IMAGE_SIZE}x{IMAGE_SIZE} image per label, got images of shape "
                f"{images.shape} and labels of shape {labels.shape}"
            )
    sizes = [len(labels) for _, labels in parts]
    return BaseImages(
        np.concatenate([images for images, _ in parts]),
        np.concatenate([labels for _, labels in parts]).astype(np.int64),
        np.repeat([False, True], sizes),
    )


_LOADERS: dict[str, Callable[[str | Path | None], BaseImages]] = {"digits": _digits, "fashion-mnist": _fashion}
#: What images can be made of.
KINDS = tuple(_LOADERS)
