"""The figures of an attack against scikit-learn, brute force and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from sklearn.metrics import roc_auc_score, roc_curve

from lightning_privacy.audit.exceedances import detectable_ratio, exceedance_p_value
from lightning_privacy.audit.roc import attack_figures, attack_roc, share_interval
from lightning_privacy.errors import ConfigurationError


def _scores(seed: int, *, ties: bool, members: int = 300, others: int = 400, shift: float = 1.0):
    rng = np.random.default_rng(seed)
    member = np.arange(members + others) < members
    scores = rng.normal(size=len(member)) + shift * member
    order = rng.permutation(len(member))
    return (np.round(scores, 1) if ties else scores)[order], member[order]


@pytest.mark.parametrize("ties", [False, True], ids=["no ties", "ties"])
@pytest.mark.parametrize("seed", [0, 1])
def test_figures_are_those_of_scikit_learn(seed, ties):
    scores, member = _scores(seed, ties=ties)
    figures = attack_figures(scores, member, fprs=(0.001, 0.01, 0.07))
    fpr, tpr, _ = roc_curve(member, scores, drop_intermediate=False)
    assert figures.auc == pytest.approx(roc_auc_score(member, scores), abs=1e-12)
    assert attack_roc(scores, member).auc == pytest.approx(figures.auc, abs=1e-12)
    assert figures.advantage == pytest.approx((tpr - fpr).max(), abs=1e-12)
    for rate, estimate in figures.tpr.items():
        assert estimate.value == pytest.approx(tpr[fpr <= rate + 1e-12].max(), abs=1e-12)
        assert attack_roc(scores, member).tpr_at(rate) == pytest.approx(estimate.value, abs=1e-12)


def test_the_curve_by_brute_force():
    scores, member = _scores(3, ties=True, members=20, others=30)
    roc = attack_roc(scores, member)
    for threshold, fpr, tpr in zip(roc.thresholds, roc.fpr, roc.tpr, strict=True):
        assert tpr == np.mean(scores[member] >= threshold)
        assert fpr == np.mean(scores[~member] >= threshold)
    assert (roc.fpr[-1], roc.tpr[-1]) == (1.0, 1.0)


def test_a_share_has_the_interval_of_scipy():
    for count in (0, 3, 10):
        expected = binomtest(count, 10).proportion_ci(0.95, method="exact")
        found = share_interval(count, 10, low_error=0.025, high_error=0.025)
        assert found == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("shift", [0.0, 1.5], ids=["no leak", "leak"])
def test_intervals_cover_the_truth(shift):
    """In 400 samples, of normal scores whose curve is known.

    An interval that covers in 95% of the samples covers in fewer than 366 of 400 with a probability below 0.2%
    (binomial); eight are looked at. Those of TPR and advantage are conservative, the AUC's is approximate.
    """
    truth = {rate: norm.sf(norm.isf(rate) - shift) for rate in (0.01, 0.1)}
    auc, advantage = norm.cdf(shift / np.sqrt(2)), 2 * norm.cdf(shift / 2) - 1
    covered = dict.fromkeys([*truth, "auc", "advantage"], 0)
    for seed in range(400):
        scores, member = _scores(seed, ties=False, members=150, others=250, shift=shift)
        figures = attack_figures(scores, member, fprs=tuple(truth))
        for rate, value in truth.items():
            covered[rate] += figures.tpr[rate].low <= value <= figures.tpr[rate].high
        covered["auc"] += figures.auc_interval[0] <= auc <= figures.auc_interval[1]
        covered["advantage"] += figures.advantage_interval[0] <= advantage <= figures.advantage_interval[1]
    assert min(covered.values()) >= 366, covered


def test_too_few_non_members_say_so():
    member = np.arange(40) < 20
    perfect = attack_figures(member.astype(float), member, fprs=(0.001,))
    assert (perfect.tpr[0.001].value, perfect.tpr[0.001].low) == (1.0, 0.0)
    assert perfect.auc_interval[0] < 0.95
    assert perfect.auc_interval[1] == 1.0
    useless = attack_figures(-member.astype(float), member, fprs=(0.01,))
    assert (useless.auc, useless.auc_interval[0], useless.tpr[0.01].value) == (0.0, 0.0, 0.0)
    assert useless.auc_interval[1] > 0.05


@pytest.mark.parametrize(
    ("scores", "member", "message"),
    [
        ([1.0, np.nan], [True, False], "scores must not be NaN"),
        ([1.0, 2.0], [True, True], "members and non-members, got 2 and 0"),
        ([1.0, 2.0], [True], "must agree"),
        ([1.0, 2.0], [1, 0], "True or False"),
    ],
    ids=["nan", "no others", "shapes", "numbers"],
)
def test_bad_scores_are_named(scores, member, message):
    with pytest.raises(ConfigurationError, match=message):
        attack_figures(scores, member)


@pytest.mark.parametrize("option", [{"fprs": (0.0,)}, {"fprs": (1.0,)}, {"confidence": 1.0}], ids=str)
def test_bad_options_are_named(option):
    with pytest.raises(ConfigurationError, match=next(iter(option))):
        attack_figures([1.0, 2.0], [True, False], **option)


def test_p_value_is_that_of_all_assignments():
    """All 70 ways in which 4 of 8 scores may be those of members, counted."""
    from itertools import combinations

    def found(chosen) -> int:
        others = sorted(set(range(8)) - set(chosen), reverse=True)
        return sum(place > others[1] for place in chosen)  # 0.25 of 4 non-members may be above

    counts = np.array([found(chosen) for chosen in combinations(range(8), 4)])
    for chosen in combinations(range(8), 4):
        member = np.isin(np.arange(8), chosen)
        p_value = exceedance_p_value(np.arange(8.0), member, fpr=0.25)
        assert p_value == pytest.approx(np.mean(counts >= found(chosen)), abs=1e-12)


def test_what_would_be_noticed_is_noticed_as_often():
    """In 1,000 samples with the ratio that is missed with probability 0.1.

    The number missed is within 60 of 100 to 140 with a probability above 99.99% (binomial).
    """
    ratio = detectable_ratio(800, 1200, fpr=0.05, significance=0.05, miss=0.1)
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(1000):
        # Members are `ratio` times as dense as others in the top, and as much less dense below.
        top = rng.random(800) < ratio * 0.1
        inside = np.where(top, 0.9 + 0.1 * rng.random(800), 0.9 * rng.random(800))
        scores = np.concatenate([inside, rng.random(1200)])
        missed += exceedance_p_value(scores, np.arange(2000) < 800, fpr=0.05) > 0.05
    assert 60 <= missed <= 140
    assert detectable_ratio(1, 20, fpr=0.1) == np.inf  # a single member is no surprise wherever it is
