"""Wrong labels found by looking at the images.

Example:
    >>> ImageLabelErrors(action="drop", caveat=True).name
    'label errors'
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.neighbors import KNeighborsClassifier

from lightning_privacy.preparation.label_errors import LabelErrors

__all__ = ["ImageLabelErrors"]

_HALF = 2
_NEIGHBOURS = 10


class ImageLabelErrors(LabelErrors):
    """Label errors of a table whose column ``image`` points at images, which the data module shows to it.

    For ``train_preparation``: the labels of the people held out are what a model is measured by. Images are halved in
    height and width before, which loses little of what tells them apart and saves a good deal of time.

    Args:
        action: ``"null"`` makes the label missing; ``"drop"`` takes the row out; ``"relabel"`` puts the most probable
            class; ``"flag"`` adds a column.
        folds: Parts of the cross-validation.
        model: An estimator of scikit-learn with ``predict_proba``; None for the ten nearest neighbours, each by its
            nearness.
        seed: Of the parts.
        caveat: Run under differential privacy all the same, with a caveat in the ledger.

    Raises:
        ConfigurationError: See :class:`~lightning_privacy.preparation.label_errors.LabelErrors`.
    """

    def __init__(
        self, *, action: str = "drop", folds: int = 5, model: Any = None, seed: int = 0, caveat: bool = False
    ) -> None:
        chosen = KNeighborsClassifier(_NEIGHBOURS, weights="distance") if model is None else model
        super().__init__(
            features=["image"], label="label", action=action, folds=folds, model=chosen, seed=seed, caveat=caveat
        )

    def look_at(self, images: npt.NDArray[np.uint8], *, label: str = "label") -> None:
        """Show the images that the column points at.

        Args:
            images: Shape ``(num_images, height, width)``.
            label: The column of the class.
        """
        self._label = label
        count, height, width = images.shape
        parts = images.reshape(count, height // _HALF, _HALF, width // _HALF, _HALF)
        self._stacks = {"image": (parts.mean(axis=(2, 4)) / 255).astype(np.float32)}
