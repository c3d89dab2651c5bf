"""Which loaders of a validation give rows that are trained on.

Example:
    >>> import torch
    >>> from torch.utils.data import DataLoader, Subset, TensorDataset
    >>> data = TensorDataset(torch.zeros(10, 2))
    >>> train = DataLoader(Subset(data, range(7)))
    >>> gives_training_rows(DataLoader(Subset(data, range(7, 10))), train)
    False
    >>> gives_training_rows(DataLoader(data), train)
    True
"""

from __future__ import annotations

from typing import Any

from lightning_privacy.audit.slots import CanarySlots
from lightning_privacy.data.augmentation.batches import unproxied
from lightning_privacy.data.origins import shares_examples

__all__ = ["gives_training_rows"]


def gives_training_rows(loader: Any, train: Any) -> bool:
    """Whether two loaders are known to have examples in common.

    Args:
        loader: Of what was validated; anything without a ``dataset`` is not looked into.
        train: The loader of training.
    """
    validated, trained = getattr(loader, "dataset", None), unproxied(getattr(train, "dataset", None))
    if isinstance(trained, CanarySlots):  # an audit's: the training set with canaries in places of their own
        trained = trained.dataset
    return validated is not None and trained is not None and shares_examples(trained, validated)
