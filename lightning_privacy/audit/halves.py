"""Random halves of a data set, one for each of several models to be trained on.

Each example is in the training of half of the models, so that none is without reference models that never saw it, and
which half is random (Carlini et al., "Membership Inference Attacks From First Principles", 2022).

Example:
    >>> halves = random_halves(4, 6, seed=0)
    >>> halves.shape, halves.sum(axis=0).tolist()
    ((4, 6), [2, 2, 2, 2, 2, 2])
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lightning_privacy._validate import positive_int
from lightning_privacy.errors import ConfigurationError

__all__ = ["random_halves"]


def random_halves(models: int, examples: int, *, seed: int | None = None) -> npt.NDArray[np.bool_]:
    """Which examples each model is trained on.

    Args:
        models: Number of models, at least 2.
        examples: Number of examples.
        seed: Of the draw; None draws anew.

    Returns:
        True where a model is trained on an example, shape ``(models, examples)``; each example is in the training of
        ``models // 2`` of them.

    Raises:
        ConfigurationError: A number is out of range.
    """
    if positive_int(models=models) < 2:
        raise ConfigurationError(f"models must be >= 2: an example is in some and out of others, got {models}")
    order = np.random.default_rng(seed).random((models, positive_int(examples=examples))).argsort(axis=0)
    return np.asarray(order < models // 2)
