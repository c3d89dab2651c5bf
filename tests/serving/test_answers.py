"""Forms of answers: what is told, and that noise is what epsilon says against the worst change of a model."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_privacy.accounting import LaplaceRelease, PureRelease, SelectionRelease
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.serving.answers import (
    MODES,
    LabelOnly,
    NoisyArgmax,
    NoisyScores,
    RandomizedLabel,
    RoundedScores,
    answer_mode,
    probabilities,
)

SCORES = torch.tensor([[0.126, 0.624, 0.25], [0.34, 0.33, 0.33]], dtype=torch.float64)


def test_labels_and_rounded_scores():
    assert LabelOnly().answer(SCORES, None).labels.tolist() == [1, 0]
    assert LabelOnly().answer(SCORES, None).scores is None
    rounded = RoundedScores(decimals=1).answer(SCORES, None)
    torch.testing.assert_close(rounded.scores, torch.tensor([[0.1, 0.6, 0.2], [0.3, 0.3, 0.3]], dtype=torch.float64))


def test_what_each_costs():
    assert LabelOnly().release is None
    assert RoundedScores().release is None
    assert NoisyScores(0.5).release == LaplaceRelease(0.5)
    assert NoisyArgmax(0.5, sensitivity=0.1).release == SelectionRelease(0.5)
    assert RandomizedLabel(0.5).release == PureRelease(0.5)


def test_noise_of_scores_has_the_scale_of_the_worst_change():
    """Mean absolute noise 2 s / epsilon; of 20,000 draws within 6 standard errors (2e-9)."""
    epsilon, sensitivity, count = 0.8, 0.25, 20_000
    scores = torch.full((count // 2, 2), 0.5, dtype=torch.float64)
    noise = NoisyScores(epsilon, sensitivity).answer(scores, None).scores - scores
    scale = 2 * sensitivity / epsilon
    assert abs(noise.abs().mean().item() - scale) < 6 * scale / math.sqrt(count)


@pytest.mark.parametrize(
    ("mode", "tight"),
    [
        (RandomizedLabel(1.0), 0.95),
        (NoisyArgmax(1.0), 0.45),
        (NoisyScores(1.0), 0.45),
        (NoisyArgmax(1.0, sensitivity=0.5), 0.45),
    ],
    ids=["randomized", "argmax", "scores", "argmax of an ensemble"],
)
def test_an_answer_tells_models_apart_no_better_than_epsilon(mode, tight):
    """Two models as far apart as the sensitivity allows: the log ratio of a label's probability is below epsilon,
    and not far below it. 40,000 draws each; the error of a log ratio is below 0.02, the margin 5 of them."""
    count, moved = 40_000, getattr(mode, "sensitivity", 1.0)
    one = torch.zeros(count, 3, dtype=torch.float64)
    one[:, 0] = 1.0
    other = one.clone()
    other[:, 0] -= moved
    other[:, 1] += moved
    first = (mode.answer(one, None).labels == 0).double().mean().item()
    second = (mode.answer(other, None).labels == 0).double().mean().item()
    assert tight * mode.epsilon < math.log(first / second) < mode.epsilon + 0.1


def test_randomized_label_is_right_most_often_against_any_model():
    """For ten classes and a sure model at epsilon 4: e^4 / (e^4 + 9) = 0.858; 20,000 draws, 6 standard errors."""
    scores = torch.zeros(20_000, 10, dtype=torch.float64)
    scores[:, 3] = 1.0
    share = {
        mode.name: (mode.answer(scores, None).labels == 3).double().mean().item()
        for mode in (RandomizedLabel(4.0), NoisyArgmax(4.0))
    }
    assert abs(share["randomized_label"] - math.exp(4) / (math.exp(4) + 9)) < 0.015
    assert share["noisy_argmax"] < share["randomized_label"]


def test_probabilities_of_logits():
    logits = torch.tensor([[0.0, math.log(3.0)], [torch.nan, 1.0], [torch.inf, 0.0]])
    expected = torch.tensor([[0.25, 0.75], [0.5, 0.5], [0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(probabilities(logits), expected)
    for single in (torch.tensor([math.log(3.0)]), torch.tensor([[math.log(3.0)]])):
        torch.testing.assert_close(probabilities(single), torch.tensor([[0.25, 0.75]], dtype=torch.float64))
    with pytest.raises(ConfigurationError, match="one row of class scores"):
        probabilities(torch.zeros(2, 3, 4))


@pytest.mark.parametrize(
    ("name", "settings", "named"),
    [
        ("probabilities", {}, "mode must be one of label"),
        ("label", {"epsilon": 1.0}, "epsilon has no meaning"),
        ("noisy_scores", {}, "epsilon must be given"),
        ("noisy_scores", {"epsilon": 0.0}, "epsilon"),
        ("noisy_argmax", {"epsilon": 1.0, "sensitivity": 1.5}, "sensitivity"),
        ("noisy_argmax", {"epsilon": 1.0, "sensitivity": 0.0}, "sensitivity"),
        ("randomized_label", {"epsilon": 1.0, "sensitivity": 0.5}, "sensitivity has no meaning"),
        ("rounded", {"decimals": 7}, "decimals"),
        (LabelOnly(), {"decimals": 7}, "LabelOnly"),
    ],
    ids=["name", "label", "no epsilon", "zero", "sensitivity", "none", "randomized", "decimals", "instance"],
)
def test_what_makes_no_sense_is_named(name, settings, named):
    with pytest.raises(ConfigurationError, match=named):
        answer_mode(name, **settings)


def test_modes_by_name():
    assert answer_mode("rounded", decimals=3, epsilon=None) == RoundedScores(3)
    assert answer_mode(NoisyScores(1.0)) == NoisyScores(1.0)
    assert list(MODES) == ["label", "rounded", "noisy_scores", "noisy_argmax", "randomized_label"]
