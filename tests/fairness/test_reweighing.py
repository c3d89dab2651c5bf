"""Reweighing: the closed form, AIF360's formula, and independence of label and group under the weights."""

from __future__ import annotations

import pytest
import torch

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.fairness.reweighing import cell_counts, reweighing_weights


@pytest.fixture
def people():
    generator = torch.Generator().manual_seed(0)
    groups = torch.randint(0, 3, (500,), generator=generator)
    labels = (torch.rand(500, generator=generator) < 0.2 + 0.2 * groups).long()
    return groups, labels


def test_weights_are_the_closed_form_and_that_of_aif360(people):
    groups, labels = people
    weights = reweighing_weights(cell_counts(groups, labels, num_groups=3, num_classes=2))
    for s in range(3):
        for y in range(2):
            n = len(groups)
            n_s, n_y = int((groups == s).sum()), int((labels == y).sum())
            n_sy = sum(1 for g, c in zip(groups.tolist(), labels.tolist(), strict=True) if (g, c) == (s, y))
            closed = (n_s / n) * (n_y / n) / (n_sy / n)  # P(s) P(y) / P(s, y)
            assert float(weights[s, y]) == pytest.approx(closed, rel=1e-12)
            assert float(weights[s, y]) == pytest.approx(n_y * n_s / (n * n_sy), rel=1e-12)  # w_p_fav and the like


def test_under_the_weights_every_group_has_the_same_share_of_each_label(people):
    groups, labels = people
    each = reweighing_weights(cell_counts(groups, labels, num_groups=3, num_classes=2))[groups, labels]
    shares = [float(each[(groups == s) & (labels == 1)].sum() / each[groups == s].sum()) for s in range(3)]
    assert shares == pytest.approx([float(labels.double().mean())] * 3, rel=1e-12)
    assert float(each.sum()) == pytest.approx(500, rel=1e-12)


def test_a_pair_that_does_not_occur_and_a_noisy_count_below_zero_get_weights_all_the_same():
    assert reweighing_weights(torch.tensor([[5, 5], [10, 0]])).tolist() == [[1.5, 0.5], [0.75, 1.0]]
    assert reweighing_weights(torch.tensor([[5, 5], [10, -3]])).tolist() == [[1.5, 0.5], [0.75, 1.0]]


@pytest.mark.parametrize(
    "counts",
    [torch.zeros(2, 2), torch.tensor([1.0, 2.0]), torch.tensor([[1.0, float("nan")]])],
    ids=["nothing", "no table", "nan"],
)
def test_counts_that_are_none_are_refused(counts):
    with pytest.raises(ConfigurationError, match="counts must be a table of finite numbers"):
        reweighing_weights(counts)


@pytest.mark.parametrize(
    ("groups", "labels", "message"),
    [
        ([0, 1], [0], r"one number per example, got shapes \(2,\) and \(1,\)"),
        ([0, 2], [0, 1], "groups must be numbered from 0 to 1, got 0 to 2"),
        ([0, 1], [-1, 1], "labels must be numbered from 0 to 1, got -1 to 1"),
    ],
    ids=["lengths", "group", "label"],
)
def test_numbers_out_of_range_are_named(groups, labels, message):
    with pytest.raises(ConfigurationError, match=message):
        cell_counts(torch.tensor(groups), torch.tensor(labels), num_groups=2, num_classes=2)
