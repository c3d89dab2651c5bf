"""Images whose colour gives their label away, most of the time: a set with a spurious correlation.

A network that goes by the colour is right on most training examples and wrong where the colour doesn't fit. That is
what group objectives are for, and the accuracy of the worst group shows it; after the coloured digits of Arjovsky et
al., "Invariant Risk Minimization", 2019, section 5.

Example:
    >>> import torch
    >>> images, labels = torch.rand(1000, 28, 28), torch.arange(1000) % 2
    >>> pictures, colours, groups = coloured(images, labels, num_labels=2, correlation=0.95, seed=0)
    >>> pictures.shape, 0.92 < float((colours == labels).double().mean()) < 0.98, int(groups.max())
    (torch.Size([1000, 3, 28, 28]), True, 3)
"""

from __future__ import annotations

import colorsys

import torch
from torch import Tensor

from lightning_privacy._validate import positive_int
from lightning_privacy.errors import ConfigurationError

__all__ = ["coloured"]


def coloured(
    images: Tensor, labels: Tensor, *, num_labels: int, correlation: float, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Colour grey images, each with the colour of its label with a given probability and another one otherwise.

    Args:
        images: grey, shape ``(N, H, W)``, from 0 to 1.
        labels: from 0, shape ``(N,)``.
        num_labels: how many labels there are, and so colours: of equal brightness, evenly around the wheel.
        correlation: probability of an image to have its label's colour, from 0 to 1; 1 / num_labels makes colour and
            label independent. The others share the rest evenly.
        seed: of the colours.

    Returns:
        The images, shape ``(N, 3, H, W)``; the colour of each, shape ``(N,)``; and its group, ``label * num_labels +
        colour``, shape ``(N,)``.

    Raises:
        ConfigurationError: an argument is out of range, or the shapes don't match.
    """
    positive_int(num_labels=num_labels)
    if not 0 <= correlation <= 1:
        raise ConfigurationError(f"correlation must be from 0 to 1, got {correlation!r}")
    if images.dim() != 3 or labels.shape != images.shape[:1]:
        raise ConfigurationError(
            f"images must have shape (N, H, W) and labels (N,), got {tuple(images.shape)} and {tuple(labels.shape)}"
        )
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_labels:
        raise ConfigurationError(f"labels must be from 0 to {num_labels - 1}, got one out of that")
    generator = torch.Generator().manual_seed(seed)
    fits = torch.rand(len(labels), generator=generator, dtype=torch.float64) < correlation
    # An offset of 1 to num_labels - 1 is another label's colour, each as likely.
    offset = torch.randint(1, max(num_labels, 2), (len(labels),), generator=generator)
    colours = torch.where(fits, labels, (labels + offset) % num_labels).long()
    wheel = torch.tensor([colorsys.hsv_to_rgb(number / num_labels, 1.0, 1.0) for number in range(num_labels)])
    return images[:, None] * wheel[colours][:, :, None, None], colours, labels.long() * num_labels + colours
