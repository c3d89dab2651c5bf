"""Rates and disparities, against fairlearn, scikit-learn and arithmetic on single counts."""

from __future__ import annotations

import math
import warnings

import fairlearn.metrics as fm
import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.fairness import (
    GroupSample,
    difference,
    disparities,
    group_rates,
    one_against_rest,
    ratio,
    worst_group,
)

FAIRLEARN = {
    "n": fm.count,
    "base_rate": lambda y_true, y_pred: float(np.mean(y_true)),
    "selection_rate": fm.selection_rate,
    "accuracy": sk.accuracy_score,
    "tpr": fm.true_positive_rate,
    "fpr": fm.false_positive_rate,
    "tnr": fm.true_negative_rate,
    "fnr": fm.false_negative_rate,
    "precision": sk.precision_score,
}
NAN = float("nan")


def _rows(seed, size=400, groups=4, classes=2):
    generator = torch.Generator().manual_seed(seed)
    group = torch.randint(groups, (size,), generator=generator)
    target = torch.randint(classes, (size,), generator=generator)
    guess = torch.randint(classes, (size,), generator=generator)
    # Right more often in some groups than in others, so that the groups differ.
    preds = torch.where(torch.rand(size, generator=generator) < 0.2 + 0.15 * group, target, guess)
    return group, target, preds


def _sample(group, target, preds, groups=4, classes=2):
    return GroupSample.of_rows(preds=preds, target=target, groups=group, num_groups=groups, num_classes=classes)


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_fairlearn(seed):
    group, target, preds = _rows(seed)
    sample = _sample(group, target, preds)
    frame = fm.MetricFrame(metrics=FAIRLEARN, y_true=target, y_pred=preds, sensitive_features=group.numpy())
    for figures, reference in (
        (sample.figures(), frame.by_group),
        (sample.overall().figures(), frame.overall.to_frame().T),
    ):
        assert list(figures) == list(FAIRLEARN)
        for name, values in figures.items():
            np.testing.assert_allclose(values.numpy(), reference[name].to_numpy(float), rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["between_groups", "to_overall"])
@pytest.mark.parametrize("seed", range(5))
def test_disparities_are_those_of_fairlearn(seed, method):
    group, target, preds = _rows(seed)
    found = _sample(group, target, preds).disparities(method=method)
    options = {"sensitive_features": group.numpy(), "method": method}
    precision = fm.MetricFrame(
        metrics={"precision": sk.precision_score, "accuracy": sk.accuracy_score},
        y_true=target,
        y_pred=preds,
        sensitive_features=group.numpy(),
    )
    expected = {
        f"{name}_{kind}": getattr(fm, f"{name}_{kind}")(target.numpy(), preds.numpy(), **options)
        for name in ("demographic_parity", "equal_opportunity", "equalized_odds")
        for kind in ("difference", "ratio")
    }
    for criterion, figure in (("predictive_parity", "precision"), ("accuracy_parity", "accuracy")):
        for kind in ("difference", "ratio"):
            expected[f"{criterion}_{kind}"] = getattr(precision, kind)(method=method)[figure]
    expected["worst_group_accuracy"] = precision.group_min()["accuracy"]
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, abs=1e-12), name


@given(st.lists(st.lists(st.integers(0, 6), min_size=4, max_size=4), min_size=1, max_size=4))
@settings(deadline=None, max_examples=200)
def test_any_table_is_as_counted_one_by_one(table):
    """Every figure by plain division, and undefined exactly where the division is by zero."""
    counts = torch.tensor(table).view(-1, 2, 2)
    rates = group_rates(counts)
    per_group = []
    for tn, fp, fn, tp in table:
        over = {
            "n": (tn + fp + fn + tp, 1),
            "base_rate": (fn + tp, tn + fp + fn + tp),
            "selection_rate": (fp + tp, tn + fp + fn + tp),
            "accuracy": (tn + tp, tn + fp + fn + tp),
            "tpr": (tp, tp + fn),
            "fpr": (fp, fp + tn),
            "tnr": (tn, fp + tn),
            "fnr": (fn, tp + fn),
            "precision": (tp, tp + fp),
        }
        per_group.append({name: a / b if b else NAN for name, (a, b) in over.items()})
    assert list(rates) == list(per_group[0])
    for name, values in rates.items():
        assert values.tolist() == pytest.approx([group[name] for group in per_group], abs=1e-12, nan_ok=True)
        defined = [group[name] for group in per_group if not math.isnan(group[name])]
        apart = max(defined) - min(defined) if len(defined) > 1 else NAN
        assert difference(values).item() == pytest.approx(apart, abs=1e-12, nan_ok=True)
        alike = min(defined) / max(defined) if len(defined) > 1 and max(defined) else NAN
        assert ratio(values).item() == pytest.approx(alike, abs=1e-12, nan_ok=True)


def test_a_group_without_positives_has_no_true_positive_rate():
    """fairlearn says 0 here, which reads as the worst a group can be treated."""
    group, target, preds = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 0, 0, 0]), torch.tensor([1, 0, 1, 0])
    figures = _sample(group, target, preds, groups=3).figures()
    assert figures["tpr"].tolist() == pytest.approx([1.0, NAN, NAN], nan_ok=True)
    assert figures["fnr"].tolist() == pytest.approx([0.0, NAN, NAN], nan_ok=True)
    assert figures["fpr"].tolist() == pytest.approx([0.0, 0.5, NAN], nan_ok=True)
    assert figures["n"].tolist() == [2, 2, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert fm.true_positive_rate([0, 0], [1, 0]) == 0
    apart = _sample(group, target, preds, groups=3).disparities()
    assert math.isnan(apart["equal_opportunity_difference"])
    assert math.isnan(apart["equalized_odds_difference"])
    assert apart["demographic_parity_difference"].item() == 0.0


def test_small_groups_are_left_out_of_disparities_and_stay_in_the_overall_figure():
    counts = torch.tensor([[[50, 0], [0, 50]], [[40, 10], [10, 40]], [[0, 1], [1, 0]]])
    sample = GroupSample(counts)
    assert sample.judged(3).tolist() == [True, True, False]
    every, large = sample.disparities(), sample.disparities(min_group_size=3)
    assert every["accuracy_parity_difference"].item() == 1.0
    assert large["accuracy_parity_difference"].item() == pytest.approx(0.2)
    assert large["worst_group_accuracy"].item() == pytest.approx(0.8)
    overall = sample.disparities(min_group_size=3, method="to_overall")["accuracy_parity_difference"].item()
    assert overall == pytest.approx(1 - 180 / 202)


@pytest.mark.parametrize("seed", range(3))
def test_several_classes_are_each_taken_against_the_rest(seed):
    group, target, preds = _rows(seed, size=600, classes=3)
    sample = _sample(group, target, preds, classes=3)
    rates = sample.figures()
    found = sample.disparities()
    binary = [_sample(group, (target == label).long(), (preds == label).long()) for label in range(3)]
    for label, alone in enumerate(binary):
        figures = alone.figures()
        for name in ("base_rate", "selection_rate", "tpr", "fpr", "tnr", "fnr", "precision"):
            torch.testing.assert_close(rates[name][:, label], figures[name])
            torch.testing.assert_close(sample.figures(positive_class=label)[name], figures[name])
        assert torch.equal(one_against_rest(sample.counts, label), alone.counts)
    expected = [torch.stack([b.disparities()[name] for b in binary]) for name in found if "accuracy" not in name]
    for name, values in zip([name for name in found if "accuracy" not in name], expected, strict=True):
        worst = values.max() if name.endswith("difference") else values.min()
        torch.testing.assert_close(found[name], worst)
    accuracy = torch.tensor([(preds == target)[group == g].double().mean() for g in range(4)], dtype=torch.float64)
    torch.testing.assert_close(rates["accuracy"], accuracy)
    torch.testing.assert_close(sample.figures(positive_class=1)["accuracy"], accuracy)
    torch.testing.assert_close(found["accuracy_parity_difference"], accuracy.max() - accuracy.min())


def test_leading_dimensions_are_tables_of_their_own():
    counts = torch.randint(1, 9, (5, 3, 2, 2), generator=torch.Generator().manual_seed(0))
    rates, overall = group_rates(counts), group_rates(counts.sum(1, keepdim=True))
    together = disparities(rates, overall, method="to_overall")
    for position in range(5):
        alone = GroupSample(counts[position])
        for name, values in alone.disparities(method="to_overall").items():
            torch.testing.assert_close(together[name][position], values)


def test_the_worst_group():
    values = torch.tensor([[0.3, NAN, 0.1], [NAN, NAN, NAN]])
    assert worst_group(values).tolist() == [2, -1]
    assert worst_group(values, highest=True).tolist() == [0, -1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: group_rates(torch.zeros(2, 3)), r"shape .* got \(2, 3\)"),
        (lambda: group_rates(torch.zeros(2, 3, 3), positive_class=3), "positive_class must be in 0 to 2, got 3"),
        (lambda: difference(torch.zeros(2), method="pairwise"), "method must be one of 'between_groups'"),
        (lambda: ratio(torch.zeros(2), method="to_overall"), "needs the figure of all rows"),
        (lambda: GroupSample(torch.zeros(2, 2, 2)).judged(-1), "min_group_size"),
    ],
    ids=["shape", "class", "method", "overall", "size"],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ConfigurationError, match=message):
        call()
