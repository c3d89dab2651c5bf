"""People's images, of which training sees each a little different every time.

Example:
    >>> from lightning_privacy.data.augmentation import Affine
    >>> datamodule = augmented_persona(transforms=[Affine(10, fill=-1.0)], num_persons=200, batch_size=32)
    >>> next(iter(datamodule.train_dataloader())).images.shape, datamodule.views_per_example
    (torch.Size([32, 1, 28, 28]), 1)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_privacy._lightning import LightningDataModule
from lightning_privacy.data.augmentation import AugmentationDataModule
from lightning_privacy.data.persona.datamodule import PersonaDataModule

__all__ = ["augmented_persona"]


def augmented_persona(
    *,
    transforms: Sequence[Any] | Mapping[str, Any] | None = None,
    views: int = 1,
    seed: int = 0,
    **settings: Any,
) -> LightningDataModule:
    """A :class:`PersonaDataModule` whose training images are augmented, in one piece, as a config has it.

    Each image is changed by itself, so that a private training needs to know nothing of it; several views of an image
    are one example, and need ``DifferentialPrivacy(views=...)`` of the same number.

    Args:
        transforms: What is done, one after the other: a list, or a mapping of names of which some may be None; see
            :class:`AugmentationDataModule`. None or nothing in it for images as they are.
        views: How many views of each image are in a batch.
        seed: Of what is drawn, and of the people.
        **settings: Arguments of :class:`PersonaDataModule`.

    Raises:
        ConfigurationError: An argument is out of range.
    """
    datamodule = PersonaDataModule(seed=seed, **settings)
    listed = list(transforms.values()) if isinstance(transforms, Mapping) else list(transforms or ())
    kept = [transform for transform in listed if transform is not None]
    if not kept and views == 1:
        return datamodule
    return AugmentationDataModule(datamodule, transforms=kept, views=views, seed=seed)
