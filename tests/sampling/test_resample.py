"""A resampled data set is a fixed choice of the original's examples."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from lightning_privacy.callbacks._train_loader import examine
from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.sampling import BalancedSampler, resample

LABELS = [0] * 80 + [1] * 20


class Labelled(Dataset):
    targets = LABELS

    def __getitem__(self, index):
        return index, self.targets[index]

    def __len__(self):
        return len(self.targets)


def test_undersampling_keeps_as_many_as_the_scarcest():
    kept = resample(Labelled(), replacement=False)
    assert Counter(label for _, label in kept) == {0: 20, 1: 20}
    assert len(set(kept.indices)) == 40
    assert kept.indices == resample(Labelled(), replacement=False).indices
    assert kept.indices != resample(Labelled(), replacement=False, seed=1).indices
    assert kept.description["num_samples"] == 40


def test_oversampling_repeats_and_takes_any_length():
    kept = resample(Labelled(), num_samples=10_000, weighting={0: 0.3, 1: 0.7})
    # Five standard deviations: an error below 1e-6.
    assert abs(sum(label for _, label in kept) - 7000) < 5 * (10_000 * 0.21) ** 0.5
    assert len(resample(Labelled())) == 100


def test_labels_groups_and_weights_may_be_given():
    data = TensorDataset(torch.arange(100))
    by_group = resample(data, groups=[0] * 90 + [1] * 10, balance="group", replacement=False)
    assert sorted(int(index >= 90) for (index,) in by_group) == [0] * 10 + [1] * 10
    by_weight = resample(data, weights=[0.0] * 99 + [1.0], num_samples=5)
    assert [int(index) for (index,) in by_weight] == [99] * 5
    assert len(resample(data, torch.tensor(LABELS), replacement=False)) == 40


def test_a_resampled_set_can_be_resampled_and_balanced():
    kept = resample(Labelled(), num_samples=50)
    assert len(resample(kept, replacement=False)) == 2 * min(Counter(label for _, label in kept).values())
    assert BalancedSampler(kept).counts.sum() == 50


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: Subset(data, range(5))], ids=["itself", "in another"])
def test_p16_a_resampled_set_is_refused_for_private_training(replacement, wrap):
    loader = DataLoader(wrap(resample(Labelled(), replacement=replacement)), batch_size=4, shuffle=True)
    with pytest.raises(UnsupportedError, match="train data set is resampled"):
        examine(loader, accumulate=1)


class Stream(IterableDataset):
    targets = LABELS

    def __iter__(self):
        return iter([])


class Endless(Dataset):
    targets = LABELS

    def __getitem__(self, index):
        return index


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        (Labelled(), {"labels": LABELS[1:]}, "each of the 100 examples of the data set, got 99"),
        (TensorDataset(torch.arange(100)), {}, "TensorDataset has neither"),
        (Stream(), {}, "iterable data set"),
        (Stream(), {"labels": LABELS}, "iterable data set"),
        (Endless(), {}, "must have a length"),
        (Labelled(), {"replacement": False, "num_samples": 60}, "needs 30 examples of 1, which has 20"),
        (Labelled(), {"weights": [1.0] * 99 + [-1.0]}, "finite numbers >= 0, got -1.0"),
        (Labelled(), {"labels": [*LABELS[1:], float("nan")]}, "must have a value for each example"),
        (Labelled(), {"weighting": {0: 0.5, 1: 0.25, 2: 0.25}}, "for 2, which no example belongs to"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_bad_input_is_named(dataset, options, message):
    with pytest.raises(ConfigurationError, match=message):
        resample(dataset, **options)
