"""AUROC, log-loss and calibration error of groups, against scikit-learn and torchmetrics."""

from __future__ import annotations

import pytest
import sklearn.metrics as sk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.fairness import GroupSample, group_auroc, group_calibration_error, group_log_loss

GROUPS = 4


def _rows(seed, classes=2, size=500, ties=False):
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randint(GROUPS, (size,), generator=generator)
    target = torch.randint(classes, (size,), generator=generator)
    logits = torch.randn(size, classes, generator=generator)
    logits[torch.arange(size), target] += 0.3 * groups
    probs = logits.softmax(1)[:, 1] if classes == 2 else logits.softmax(1)
    return (probs * 8).round() / 8 if ties else probs, target, groups


def _each_group(groups, figure):
    return torch.tensor([figure(groups == group) for group in range(GROUPS)], dtype=torch.float64)


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("seed", range(3))
def test_auroc_is_that_of_scikit_learn(seed, ties):
    probs, target, groups = _rows(seed, ties=ties)
    expected = _each_group(groups, lambda rows: sk.roc_auc_score(target[rows], probs[rows]))
    torch.testing.assert_close(group_auroc(probs, target, groups, num_groups=GROUPS), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_weighted_auroc_is_that_of_rows_repeated(ties):
    probs, target, groups = _rows(7, ties=ties)
    weights = torch.randint(4, (len(probs),), generator=torch.Generator().manual_seed(1))
    found = group_auroc(probs, target, groups, num_groups=GROUPS, weights=weights)
    again = (column.repeat_interleave(weights) for column in (probs, target, groups))
    torch.testing.assert_close(found, group_auroc(*again, num_groups=GROUPS), rtol=0, atol=1e-12)
    expected = _each_group(
        groups, lambda rows: sk.roc_auc_score(target[rows], probs[rows], sample_weight=weights[rows])
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 4), st.integers(0, 3)), max_size=30))
@settings(deadline=None, max_examples=150)
def test_auroc_of_any_rows_is_the_share_of_pairs_in_order(rows):
    table = torch.tensor(rows, dtype=torch.int64).reshape(-1, 4)
    groups, target, scores, weights = table.unbind(1)
    found = group_auroc(scores.float(), target, groups, num_groups=3, weights=weights)
    for group in range(3):
        won = pairs = 0.0
        for g, y, s, w in rows:
            for h, z, t, v in rows:
                if g == h == group and y == 1 and z == 0:
                    pairs += w * v
                    won += w * v * (1.0 if s > t else 0.5 if s == t else 0.0)
        assert found[group].item() == pytest.approx(won / pairs if pairs else float("nan"), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("seed", range(3))
def test_figures_of_several_classes(seed):
    probs, target, groups = _rows(seed, classes=4)
    sample = GroupSample.of_rows(
        preds=probs.argmax(1), target=target, groups=groups, num_groups=GROUPS, num_classes=4, probs=probs
    )
    figures = sample.figures()
    labels = list(range(4))
    # Each row must add up to 1 in double precision for scikit-learn.
    exact = probs.double() / probs.double().sum(1, keepdim=True)
    auroc = _each_group(
        groups, lambda r: sk.roc_auc_score(target[r], exact[r], multi_class="ovr", average="macro", labels=labels)
    )
    loss = _each_group(groups, lambda r: sk.log_loss(target[r], exact[r], labels=labels))
    error = _each_group(
        groups, lambda r: multiclass_calibration_error(probs[r], target[r], num_classes=4, n_bins=15).item()
    )
    torch.testing.assert_close(figures["auroc"], auroc, rtol=0, atol=1e-6)
    torch.testing.assert_close(figures["log_loss"], loss, rtol=0, atol=1e-6)
    torch.testing.assert_close(figures["calibration_error"], error, rtol=0, atol=1e-6)
    one = _each_group(groups, lambda r: sk.roc_auc_score(target[r] == 2, probs[r, 2]))
    torch.testing.assert_close(sample.figures(positive_class=2)["auroc"], one, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_log_loss_and_calibration_of_two_classes(seed):
    probs, target, groups = _rows(seed)
    # Before the extremes: torchmetrics gives a probability of exactly 1 a bin of its own, outside of the ten.
    error = _each_group(groups, lambda r: binary_calibration_error(probs[r], target[r], n_bins=10).item())
    torch.testing.assert_close(
        group_calibration_error(probs, target, groups, num_groups=GROUPS, bins=10), error, rtol=0, atol=1e-6
    )
    probs, target = probs.clone(), target.clone()
    probs[:2], target[:2] = torch.tensor([0.0, 1.0]), torch.tensor([1, 0])  # as wrong as can be
    loss = _each_group(groups, lambda r: sk.log_loss(target[r], probs[r].numpy(), labels=[0, 1]))
    found = group_log_loss(probs, target, groups, num_groups=GROUPS)
    torch.testing.assert_close(found, loss, rtol=0, atol=1e-6)


def test_weights_are_rows_repeated():
    probs, target, groups = _rows(3)
    weights = torch.randint(3, (len(probs),), generator=torch.Generator().manual_seed(2))
    again = [column.repeat_interleave(weights) for column in (probs, target, groups)]
    for figure in (group_log_loss, group_calibration_error):
        torch.testing.assert_close(
            figure(probs, target, groups, num_groups=GROUPS, weights=weights),
            figure(*again, num_groups=GROUPS),
            rtol=0,
            atol=1e-12,
        )


def test_a_probability_of_one_is_in_the_last_bin():
    ones = torch.ones(3)
    found = group_calibration_error(ones, torch.tensor([1, 1, 0]), torch.zeros(3, dtype=torch.long), num_groups=1)
    assert found.item() == pytest.approx(1 / 3)


def test_groups_without_rows_or_without_a_class_are_undefined():
    probs, target, groups = torch.tensor([0.2, 0.7]), torch.tensor([1, 1]), torch.tensor([0, 0])
    assert group_auroc(probs, target, groups, num_groups=2).isnan().all()
    for figure in (group_log_loss, group_calibration_error):
        assert figure(probs, target, groups, num_groups=2).isnan().tolist() == [False, True]
    three = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]])
    assert group_auroc(three, torch.tensor([0, 1]), groups, num_groups=1).isnan().all()


def test_bad_input_is_named():
    one = torch.tensor([0])
    with pytest.raises(ConfigurationError, match="scores must not be NaN"):
        group_auroc(torch.tensor([float("nan")]), one, one, num_groups=1)
    with pytest.raises(ConfigurationError, match="target must be in 0 to 1"):
        group_log_loss(torch.tensor([0.5]), one + 2, one, num_groups=1)
    with pytest.raises(ConfigurationError, match="bins must be a whole number >= 1, got 0"):
        group_calibration_error(torch.tensor([0.5]), one, one, num_groups=1, bins=0)
    with pytest.raises(ConfigurationError, match="groups must be in 0 to 0"):
        group_auroc(torch.tensor([0.5]), one, one + 1, num_groups=1)
