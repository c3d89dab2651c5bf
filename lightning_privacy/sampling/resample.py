"""A resampled data set: the same examples in every epoch, with the shares as asked.

For training without differential privacy. An example that is drawn twice counts twice, and which examples are drawn
depends on everybody's labels: privacy for one example of the original would not be what the ledger says of the
resampled set, so a private run wants a :class:`~lightning_privacy.sampling.BalancedSampler` in its place.

Example:
    >>> import torch
    >>> from torch.utils.data import TensorDataset
    >>> data = TensorDataset(torch.arange(6.0), torch.tensor([0, 0, 0, 0, 0, 1]))
    >>> [int(label) for _, label in resample(data, data.tensors[1], replacement=False)]
    [0, 1]
"""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, TypeVar

from torch.utils.data import Dataset, IterableDataset, Subset

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.sampling.balanced import BalancedSampler
from lightning_privacy.sampling.weighting import Weighting

__all__ = ["ResampledDataset", "resample"]

T_co = TypeVar("T_co", covariant=True)


class ResampledDataset(Subset[T_co]):
    """Some examples of a data set, some of them more than once.

    Args:
        dataset: Where the examples come from.
        sampler: Its first epoch says which.

    Attributes:
        dataset: The original.
        indices: Places in the original.
        description: What the shares are, in plain Python types.

    Raises:
        ConfigurationError: The data set has no length, or another one than the sampler's labels.

    Example:
        >>> resampled = ResampledDataset(range(4), BalancedSampler([0, 0, 0, 1], replacement=False))
        >>> sorted(resampled)[-1]
        3
    """

    def __init__(self, dataset: Dataset[T_co], sampler: BalancedSampler) -> None:
        if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
            raise ConfigurationError(
                f"dataset must have a length and numbered examples, got {type(dataset).__name__}: an iterable data set "
                "can't be resampled; read it into a list first"
            )
        if len(dataset) != sampler.num_examples:
            raise ConfigurationError(
                f"labels must have one value for each of the {len(dataset)} examples of the data set, "
                f"got {sampler.num_examples}"
            )
        super().__init__(dataset, list(sampler))
        self.description = sampler.describe()


def resample(
    dataset: Dataset[T_co],
    labels: object = None,
    *,
    groups: object = None,
    balance: str = "class",
    replacement: bool = True,
    num_samples: int | None = None,
    weighting: Weighting = "inverse",
    weights: object = None,
    seed: int = 0,
) -> ResampledDataset[T_co]:
    """Draw a data set once, with shares as asked.

    Args:
        dataset: With a length. It is neither copied nor changed.
        labels: Class of each example; by default the data set's ``targets`` or ``labels``.
        groups: Group of each example.
        balance: ``"class"``, ``"group"`` or ``"class*group"``.
        replacement: With, an example can come several times; without, classes are cut down to what the scarcest allows.
        num_samples: Length of the result. By default that of the data set with replacement, and as much as the
            shares allow without.
        weighting: See :func:`~lightning_privacy.sampling.weighting.cell_shares`.
        weights: How likely each example is relative to others, in place of ``weighting``.
        seed: Of the draws.

    Returns:
        A ``torch.utils.data.Subset``, in random order. In several processes it is the same, so that Lightning's own
        distributed sampler divides it.

    Raises:
        ConfigurationError: See :class:`~lightning_privacy.sampling.BalancedSampler`; or the data set is iterable, or
            its length is not that of the labels.
    """
    needless = weights is not None or balance == "group"
    options: dict[str, Any] = {
        "groups": groups,
        "balance": balance,
        "replacement": replacement,
        "num_samples": num_samples,
        "weighting": weighting,
        "weights": weights,
        "seed": seed,
    }
    source = dataset if labels is None and not needless else labels
    return ResampledDataset(dataset, BalancedSampler(source, num_replicas=1, rank=0, **options))
