"""Loss threshold, LiRA and RMIA against loops over single examples; the driver and its audit file."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from lightning_privacy.audit import AuditResult
from lightning_privacy.audit.halves import random_halves
from lightning_privacy.audit.lira import lira_scores
from lightning_privacy.audit.membership import measure_membership
from lightning_privacy.audit.membership_scores import confidence_logits, loss_scores, margin_logits
from lightning_privacy.audit.rmia import rmia_scores
from lightning_privacy.errors import ConfigurationError

EXAMPLES, REFERENCES, TARGETS = 40, 6, 3


@pytest.fixture
def losses():
    """Losses of targets and of references, who is in, and the same of a population."""
    rng = np.random.default_rng(1)
    hard = rng.exponential(size=EXAMPLES)
    member = rng.random((TARGETS, EXAMPLES)) < 0.5
    inside = random_halves(REFERENCES, EXAMPLES, seed=2)

    def seen(who):
        return hard * np.exp(0.3 * rng.normal(size=who.shape) - who)

    return {
        "target": seen(member),
        "member": member,
        "reference": seen(inside),
        "inside": inside,
        "population": rng.exponential(size=(TARGETS, 25)),
        "reference_population": rng.exponential(size=(REFERENCES, 25)),
    }


def test_confidence_logits_by_hand():
    confidence = np.array([0.5, 0.9, 1e-12, 1 - 1e-9])
    assert confidence_logits(-np.log(confidence)) == pytest.approx(np.log(confidence) - np.log1p(-confidence), rel=1e-6)
    assert 16 < confidence_logits(np.zeros(1, np.float32))[0] < 17
    assert confidence_logits(np.zeros(1))[0] > 36
    assert loss_scores([0.5, 2.0]).tolist() == [-0.5, -2.0]


def test_margin_logits_are_the_same_from_outputs():
    torch.manual_seed(0)
    outputs, labels = 3 * torch.randn(2, 9, 5, dtype=torch.float64), torch.randint(5, (9,))
    expected = [
        confidence_logits(torch.nn.functional.cross_entropy(each, labels, reduction="none").numpy()) for each in outputs
    ]
    assert margin_logits(outputs.numpy(), labels.numpy()) == pytest.approx(np.array(expected), rel=1e-9)


@pytest.mark.parametrize("variance", ["example", "shared"])
def test_lira_by_a_loop(losses, variance):
    found = lira_scores(losses["target"], losses["reference"], losses["inside"], variance=variance)
    logits, references = confidence_logits(losses["target"]), confidence_logits(losses["reference"])
    out = [references[~losses["inside"][:, place], place] for place in range(EXAMPLES)]
    pooled = math.sqrt(sum(((x - x.mean()) ** 2).sum() for x in out) / sum(len(x) - 1 for x in out))
    for place in range(EXAMPLES):
        deviation = pooled if variance == "shared" else out[place].std(ddof=1)
        for target in range(TARGETS):
            # The score of the paper is the chance that a model trained without the example is less confident.
            chance = norm.cdf(logits[target, place], out[place].mean(), deviation)
            assert norm.cdf(found[target, place]) == pytest.approx(chance, abs=1e-9)
    one = lira_scores(losses["target"][1], losses["reference"], losses["inside"], variance=variance)
    assert np.array_equal(one, found[1])
    assert np.array_equal(
        lira_scores(losses["target"], losses["reference"], losses["inside"]),
        lira_scores(losses["target"], losses["reference"], losses["inside"], variance="shared"),
    )


def test_lira_online_is_the_likelihood_ratio(losses):
    found = lira_scores(losses["target"], losses["reference"], losses["inside"], online=True, variance="example")
    logits, references = confidence_logits(losses["target"]), confidence_logits(losses["reference"])
    for place in range(EXAMPLES):
        inside = losses["inside"][:, place]
        rows = [references[which, place] for which in (inside, ~inside)]
        ratio = [norm.logpdf(logits[:, place], row.mean(), row.std(ddof=1)) for row in rows]
        assert found[:, place] == pytest.approx(ratio[0] - ratio[1], rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("with_population", [True, False], ids=["population", "own examples"])
def test_rmia_by_a_loop(losses, with_population):
    gamma, scale = 1.5, 0.3
    given = {}
    if with_population:
        given = {
            "population_losses": losses["population"],
            "reference_population_losses": losses["reference_population"],
        }
    found = rmia_scores(
        losses["target"], losses["reference"], losses["inside"], gamma=gamma, offline_scale=scale, **given
    )

    def ratio(loss, out):
        return math.exp(-loss) / ((1 + scale) / 2 * np.exp(-out).mean() + (1 - scale) / 2)

    for target in range(TARGETS):
        own = [
            ratio(losses["target"][target, x], losses["reference"][~losses["inside"][:, x], x]) for x in range(EXAMPLES)
        ]
        others = own
        if with_population:
            others = [ratio(losses["population"][target, z], losses["reference_population"][:, z]) for z in range(25)]
        for place in range(EXAMPLES):
            share = np.mean([own[place] / other >= gamma for other in others])
            assert found[target, place] == pytest.approx(share, abs=1e-12)


def test_losses_beyond_the_exponential_function_are_compared():
    scores = rmia_scores([900.0, 1000.0], [[1000.0, 1000.0]], [[False, False]], offline_scale=1.0, gamma=2.0)
    assert scores.tolist() == [0.5, 0.0]
    assert rmia_scores([1.0, 1.0], [[2.0, 2.0]], [[False, False]]).tolist() == [1.0, 1.0]  # as likely is enough


def test_the_report_has_the_figures_of_each_attack_and_part(losses, tmp_path):
    classes = np.arange(EXAMPLES) % 2
    report = measure_membership(
        losses["target"], losses["member"], losses["reference"], losses["inside"], parts={"class": classes}
    )
    assert list(report.attacks) == ["loss", "lira", "rmia"]
    member = losses["member"].ravel()
    scores = lira_scores(losses["target"], losses["reference"], losses["inside"])
    assert report.attacks["lira"].auc == pytest.approx(roc_auc_score(member, scores.ravel()))
    assert report.attacks["loss"].auc == pytest.approx(roc_auc_score(member, -losses["target"].ravel()))
    assert report.attacks["lira"].auc > report.attacks["loss"].auc
    assert set(report.parts["class"]) == {"0", "1"}
    own = roc_auc_score(losses["member"][:, classes == 1].ravel(), scores[:, classes == 1].ravel())
    assert report.parts["class"]["1"]["lira"].auc == pytest.approx(own)
    result = report.result()
    assert result.verdict == "measured"
    assert AuditResult.read(result.write(tmp_path)) == result
    assert result.to_dict()["attacks"]["lira"]["auc"] == report.attacks["lira"].auc
    assert {curve.label for curve in result.curves} == {"loss threshold", "LiRA", "RMIA", "guessing"}
    assert all(min(curve.x) > 0 and min(curve.y) > 0 for curve in result.curves)


def test_a_promise_that_is_broken_is_called_so():
    """All of 500 members are found and no other: no epsilon of 1 allows that."""
    member = np.arange(1000) < 500
    report = measure_membership(np.where(member, 0.1, 5.0), member)
    assert report.result(epsilon=1.0, delta=1e-5).verdict == "broken"
    assert "does not hold" in report.result(epsilon=1.0, delta=1e-5).sentence
    assert report.result(epsilon=12.0, delta=1e-5).verdict == "holds"
    assert report.result(epsilon=math.inf).verdict == "measured"
    assert report.exposed("class") is None


def test_small_parts_are_left_out_and_models_without_references_have_one_attack():
    member = np.arange(100) < 50
    groups = np.where(np.arange(100) == 3, "rare", "all")
    report = measure_membership(np.linspace(0.1, 1, 100), member, parts={"group": groups})
    assert list(report.attacks) == ["loss"]
    assert set(report.parts["group"]) == {"all"}
    assert report.exposed("group") == "all"


@pytest.mark.parametrize("models", [2, 5, 8])
def test_each_example_is_in_half_of_the_models(models):
    halves = random_halves(models, 30, seed=3)
    assert (halves.sum(axis=0) == models // 2).all()
    assert not np.array_equal(halves[0], halves[-1])


TWO = np.array([[1.0, 1.0], [1.0, 1.0]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, np.nan], TWO, TWO > 2), "losses must be finite, got 1 of 2"),
        (([1.0, 1.0], TWO, TWO > 0), "2 of 2 examples were in the training of all 2"),
        (([1.0, 1.0, 1.0], TWO, TWO > 2), r"shape \(references, 3\)"),
        (([1.0, 1.0], TWO, TWO), "reference_member must hold True and False"),
        (([1.0, -1.0], TWO, TWO > 2), "cross-entropies"),
        (([1.0, 1.0], TWO[:1], TWO[:1] > 2), "train more of them"),
    ],
    ids=["nan", "always in", "shape", "no booleans", "negative", "one reference"],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        lira_scores(*arguments)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"gamma": 0.5}, "gamma"),
        ({"offline_scale": 1.5}, "offline_scale"),
        ({"population_losses": [1.0]}, "given together"),
        ({"population_losses": [1.0], "reference_population_losses": TWO}, "population_losses must be of shape"),
    ],
    ids=["gamma", "scale", "alone", "shape"],
)
def test_bad_options_of_rmia_are_named(option, message):
    with pytest.raises(ConfigurationError, match=message):
        rmia_scores([1.0, 1.0], TWO, TWO > 2, **option)


def test_bad_parts_are_named():
    with pytest.raises(ConfigurationError, match=r"parts\['class'\] must have one value for each of 2"):
        measure_membership([1.0, 2.0], [True, False], parts={"class": [1, 2, 3]})
    with pytest.raises(ConfigurationError, match="given together"):
        measure_membership([1.0, 2.0], [True, False], TWO)
    with pytest.raises(ConfigurationError, match="models must be >= 2"):
        random_halves(1, 5)
