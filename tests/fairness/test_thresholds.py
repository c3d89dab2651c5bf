"""Thresholds of groups: what fairlearn gives on the same scores, on the outputs of a module, and what is refused."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
import torch

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.fairness.thresholds import GroupThresholds, scores_of

pytest.importorskip("fairlearn", reason="fairlearn is not installed")


@pytest.fixture(scope="module")
def people():
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(3000) % 2
    labels = (torch.rand(3000, generator=generator) < 0.2 + 0.3 * groups).long()
    noise = torch.rand(3000, generator=generator, dtype=torch.float64)
    return (0.35 * labels + 0.15 * groups + 0.5 * noise).clamp(0, 1), labels, groups


def test_rates_are_made_equal_as_by_fairlearn_itself(people):
    from fairlearn.postprocessing import ThresholdOptimizer
    from sklearn.base import BaseEstimator

    class Given(BaseEstimator):
        def fit(self, features, labels):
            self.fitted_ = True
            return self

        def predict(self, features):
            return features[:, 0]

    scores, labels, groups = people
    column = scores.numpy()[:, None]
    theirs = ThresholdOptimizer(estimator=Given(), constraints="demographic_parity", predict_method="predict")
    theirs.fit(column, labels.numpy(), sensitive_features=groups.numpy())
    wanted = theirs.predict(column, sensitive_features=groups.numpy(), random_state=3)
    ours = GroupThresholds("demographic_parity").fit(scores, labels, groups).predict(scores, groups, seed=3)
    assert np.array_equal(ours.numpy(), wanted)
    rates = [float(ours[groups == group].double().mean()) for group in range(2)]
    assert abs(rates[0] - rates[1]) < 0.03
    plain = [float((scores[groups == group] > 0.5).double().mean()) for group in range(2)]
    assert abs(plain[0] - plain[1]) > 0.1


def test_scores_come_from_a_module_and_its_batches():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.9))
    x, labels, groups = torch.randn(10, 2), torch.arange(10) % 2, torch.arange(10) % 3
    batches = [{"x": x[part], "y": labels[part], "g": groups[part]} for part in (slice(0, 6), slice(6, None))]
    scores, found, of = scores_of(module, batches, inputs="x", labels="y", groups="g")
    torch.testing.assert_close(scores, module[0](x).softmax(1)[:, 1].detach())
    assert found.tolist() == labels.tolist()
    assert of.tolist() == groups.tolist()
    assert module.training
    one, *_ = scores_of(torch.nn.Flatten(0), [(torch.tensor([0.0, 2.0]), labels[:2], groups[:2])], groups=2)
    torch.testing.assert_close(one, torch.tensor([0.0, 2.0]).sigmoid())
    with pytest.raises(ConfigurationError, match=r"one or two logits for each example, got shape \(10, 3\)"):
        scores_of(torch.nn.Linear(2, 3), [(x, labels, groups)], groups=2)


def test_what_thresholds_can_t_be_chosen_by_is_refused(people, monkeypatch):
    scores, labels, groups = people
    with pytest.raises(ConfigurationError, match=r"constraint must be one of 'demographic_parity'.* got 'parity'"):
        GroupThresholds("parity")
    thresholds = GroupThresholds()
    with pytest.raises(ConfigurationError, match=r"call fit\(scores, labels, groups\) first"):
        thresholds.predict(scores, groups)
    for arguments, message in [
        ((scores[:-1], labels, groups), "one number per example each, got shapes"),
        ((scores * float("nan"), labels, groups), "scores must be finite"),
        ((scores, labels + 1, groups), "labels must be 0 or 1"),
        ((scores, groups, groups), "group 0 has examples of one label only"),
    ]:
        with pytest.raises(ConfigurationError, match=message):
            thresholds.fit(*arguments)
    with pytest.raises(ConfigurationError, match=r"fairlearn refused: .*objective"):
        GroupThresholds(objective="luck").fit(scores, labels, groups)
    thresholds.fit(scores, labels, groups)
    with pytest.raises(ConfigurationError, match=r"no threshold for group 2: .* groups \[0, 1\]"):
        thresholds.predict(scores, groups + 1)

    importing = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("fairlearn"):
            raise ImportError(name)
        return importing(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match=r"pip install 'lightning-privacy\[fairness\]'"):
        GroupThresholds()
