"""Bootstrap intervals: the law of the draws, the quantiles, and that they cover."""

from __future__ import annotations

import fairlearn.metrics as fm
import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import accuracy_score

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.fairness import GroupSample, group_rates, interval, resample_counts, resample_rows


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("cells", [1, 2, 3, 5, 7, 8, 13])
def test_drawn_tables_are_multinomial(cells):
    """Each cell's count is binomial, by a chi-square test over its quantiles; seeds are fixed.

    For a fresh seed each of the 39 tests would fail with probability 1e-6.
    """
    counts = torch.randint(1, 30, (cells,), generator=_generator(cells))
    counts[cells // 2] = 0 if cells > 2 else counts[cells // 2]
    total = int(counts.sum())
    drawn = resample_counts(counts, 20_000, generator=_generator())
    assert drawn.shape == (20_000, cells)
    assert bool((drawn.sum(1) == total).all())
    assert bool((drawn[:, counts == 0] == 0).all())
    for cell in torch.nonzero(counts).flatten().tolist():
        law = stats.binom(total, counts[cell].item() / total)
        edges = np.unique(law.ppf([0.1, 0.3, 0.5, 0.7, 0.9]))
        seen = np.histogram(drawn[:, cell].numpy(), [-1, *edges + 0.5, total + 1])[0]
        expected = 20_000 * np.diff([0.0, *law.cdf(edges), 1.0])
        held = expected > 0
        assert seen[~held].sum() == 0
        if held.sum() > 1:
            assert stats.chisquare(seen[held], expected[held]).pvalue > 1e-6


def test_cells_of_a_drawn_table_are_correlated_as_a_multinomial():
    """Covariances of 100,000 draws within 6 standard errors (bounded by twice the product of deviations)."""
    counts = torch.tensor([[5.0, 10.0], [15.0, 20.0]])
    drawn = resample_counts(counts, 100_000, generator=_generator()).flatten(1)
    shares = counts.flatten() / 50
    expected = 50 * (torch.diag(shares) - torch.outer(shares, shares)).double()
    deviations = expected.diagonal().sqrt()
    bound = 6 * 2 * torch.outer(deviations, deviations) / 100_000**0.5
    assert bool(((torch.cov(drawn.T) - expected).abs() < bound).all())


def test_rows_are_drawn_with_replacement():
    """Mean and variance of 400 x 500 counts against the binomial (500, 1/500), at 6 standard errors."""
    drawn = torch.stack(list(resample_rows(500, 400, generator=_generator())))
    assert bool((drawn.sum(1) == 500).all())
    assert drawn.double().var().item() == pytest.approx(1 - 1 / 500, abs=6 * (2 / 200_000) ** 0.5 * 1.5)
    assert drawn.sum(0).double().var().item() == pytest.approx(400, rel=6 * (2 / 500) ** 0.5)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95])
def test_intervals_are_numpy_quantiles_without_what_is_undefined(confidence):
    values = torch.rand(101, 3, 2, generator=_generator(), dtype=torch.float64)
    values[torch.rand(101, 3, 2, generator=_generator(1)) < 0.3] = torch.nan
    tail = (1 - confidence) / 2
    expected = np.nanquantile(values.numpy(), [tail, 1 - tail], axis=0)
    np.testing.assert_allclose(interval(values, confidence=confidence).numpy(), expected, rtol=0, atol=1e-12)
    values[:, 0] = torch.nan
    ends = interval(values)
    assert bool(ends[:, 0].isnan().all())
    assert not bool(ends[:, 1:].isnan().any())


def _sample(seed, size=300):
    generator = _generator(seed)
    groups = (torch.rand(size, generator=generator) < 0.4).long()
    target = (torch.rand(size, generator=generator) < 0.5).long()
    probs = (torch.rand(size, generator=generator) + 0.4 * target * (1 + groups)) / 1.8
    preds = (probs > 0.5).long()
    return GroupSample.of_rows(preds=preds, target=target, groups=groups, num_groups=2, num_classes=2, probs=probs)


def test_intervals_are_those_of_fairlearn():
    """Ends agree within 0.03, about 5 standard errors of such a quantile of fairlearn's 300 replicates."""
    sample = _sample(0)
    found = sample.intervals(replicates=2000)
    frame = fm.MetricFrame(
        metrics={"accuracy": accuracy_score, "selection_rate": fm.selection_rate},
        y_true=sample.target.numpy(),
        y_pred=(sample.probs > 0.5).long().numpy(),
        sensitive_features=sample.groups.numpy(),
        n_boot=300,
        ci_quantiles=[0.025, 0.975],
        random_state=0,
    )
    for name in ("accuracy", "selection_rate"):
        reference = np.stack([end[name].to_numpy(float) for end in frame.by_group_ci])
        np.testing.assert_allclose(found.figures[name].numpy(), reference, rtol=0, atol=0.03)
    reference = [end["selection_rate"] for end in frame.difference_ci()]
    np.testing.assert_allclose(found.disparities["demographic_parity_difference"].numpy(), reference, rtol=0, atol=0.03)


def test_intervals_of_scores_are_those_of_a_loop():
    sample = _sample(1, size=120)
    rng = np.random.default_rng(0)
    probs, target, groups = (column.numpy() for column in (sample.probs, sample.target, sample.groups))
    areas = []
    for _ in range(2000):
        drawn = rng.integers(120, size=120)
        areas.append([])
        for group in (0, 1):
            rows = drawn[groups[drawn] == group]
            positives = target[rows].sum()
            wins = stats.rankdata(probs[rows])[target[rows] == 1].sum() - positives * (positives + 1) / 2
            areas[-1].append(wins / (positives * (len(rows) - positives)))
    expected = np.quantile(areas, [0.025, 0.975], axis=0)
    found = sample.intervals(replicates=2000).figures["auroc"].numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.02)


def test_intervals_cover():
    """95% intervals of 300 fresh samples hold the true selection rate at least 88% and at most 99.5% of the time.

    The binomial chance to leave that range is below 1e-6 where the coverage is 0.95; seeds are fixed.
    """
    inside = 0
    for seed in range(300):
        drawn = torch.rand(200, generator=_generator(seed)) < 0.3
        counts = torch.tensor([[[200 - int(drawn.sum()), int(drawn.sum())], [0, 0]]])
        low, high = GroupSample(counts).intervals(replicates=300, seed=seed).figures["selection_rate"][:, 0]
        inside += int(low <= 0.3 <= high)
    assert 0.88 * 300 <= inside <= 0.995 * 300


def test_draws_depend_on_the_seed_alone():
    sample = _sample(2)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = sample.intervals(replicates=20, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second, third = sample.intervals(replicates=20, seed=5), sample.intervals(replicates=20, seed=6)
    for name, values in first.figures.items():
        assert torch.equal(values, second.figures[name])
    assert not torch.equal(first.figures["auroc"], third.figures["auroc"])
    assert not torch.equal(first.figures["accuracy"], third.figures["accuracy"])


def test_an_empty_group_has_no_interval():
    counts = torch.tensor([[[5, 5], [5, 5]], [[0, 0], [0, 0]]])
    found = GroupSample(counts).intervals(replicates=10)
    assert found.figures["accuracy"][:, 1].isnan().all()
    assert found.disparities["accuracy_parity_difference"].isnan().all()
    assert GroupSample(torch.zeros(2, 2, 2)).intervals(replicates=3).figures["tpr"].isnan().all()


def test_bad_input_is_named():
    sample = _sample(0)
    with pytest.raises(ConfigurationError, match="replicates must be a whole number >= 1, got 0"):
        sample.intervals(replicates=0)
    with pytest.raises(ConfigurationError, match=r"confidence must be a number in \(0, 1\), got 95"):
        sample.intervals(replicates=2, confidence=95)
    with pytest.raises(ConfigurationError, match="seed must be a whole number"):
        sample.intervals(replicates=2, seed=-1)


def test_rates_of_drawn_tables_have_the_shape_of_the_figures():
    drawn = resample_counts(torch.ones(3, 4, 4), 6, generator=_generator())
    rates = group_rates(drawn)
    assert rates["tpr"].shape == (6, 3, 4)
    assert rates["n"].shape == (6, 3)
