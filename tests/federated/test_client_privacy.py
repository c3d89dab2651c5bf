from __future__ import annotations

import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_privacy.accounting import GaussianRelease, PrivacyLedger, SampledGaussian
from lightning_privacy.errors import (
    CheckpointError,
    ConfigurationError,
    PrivacyBudgetExceeded,
    PrivacyViolation,
    UnsupportedError,
)
from lightning_privacy.federated.aggregation import CoordinateMedian, WeightedMean
from lightning_privacy.federated.client_accounting import CohortAccounting
from lightning_privacy.federated.client_clipping import AdaptiveNorm, clip_delta
from lightning_privacy.federated.client_privacy import ClientPrivacy
from lightning_privacy.federated.cohorts import AllClients, PoissonCohorts, UniformCohorts, WeightedCohorts
from lightning_privacy.mechanisms import NoiseSource, SeededNoiseWarning


def seeded(seed=0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeededNoiseWarning)
        return NoiseSource(seed)


def planned(cohort=None, rounds=10, clients=100, **options):
    options = {"delta": 1e-5, "noise_multiplier": 1.0, "max_delta_norm": 1.0} | options
    privacy = ClientPrivacy(**options)
    privacy.plan(clients, cohort or PoissonCohorts(10), rounds)
    return privacy


def rows(count, entries, seed=0, scale=1.0):
    return scale * torch.randn(count, entries, generator=torch.Generator().manual_seed(seed))


# Clipping


def test_p37_the_whole_delta_is_clipped_buffers_and_scalars_included():
    # One vector of a weight matrix, a running mean and a scalar; only together are they too long.
    parts = [torch.full((3, 3), 0.3), torch.full((2,), 0.4), torch.tensor([0.5])]
    delta = torch.cat([part.reshape(-1) for part in parts])
    assert all(float(part.norm()) < 1.0 for part in parts)
    clipped, vote = clip_delta(delta, 1.0)
    assert float(clipped.double().norm()) == pytest.approx(1.0, rel=1e-6)
    torch.testing.assert_close(clipped / clipped.norm(), delta / delta.norm())
    assert float(vote) == -0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_clipped_delta_is_never_longer_than_the_bound(dtype):
    for seed in range(50):
        long = rows(4, 1000, seed, scale=10.0 ** (seed % 5 - 1)).to(dtype)
        clipped, votes = clip_delta(long, 0.3)
        exact = [math.sqrt(math.fsum(x * x for x in row)) for row in clipped.double().tolist()]
        assert max(exact) <= 0.3
        assert min(exact) > 0.3 * (1 - 1e-6)
        assert votes.tolist() == [-0.5] * 4


def test_within_the_bound_nothing_changes():
    delta = torch.tensor([0.6, 0.8], dtype=torch.float64)
    clipped, vote = clip_delta(delta, 1.0 + 1e-12)
    assert torch.equal(clipped, delta)
    assert float(vote) == 0.5
    assert float(clip_delta(torch.zeros(3), 1.0)[1]) == 0.5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_p41_a_client_that_is_not_finite_adds_nothing(bad):
    deltas = rows(3, 4)
    deltas[1, 2] = bad
    clipped, votes = clip_delta(deltas, 100.0)
    assert torch.equal(clipped, torch.stack([deltas[0], torch.zeros(4), deltas[2]]))
    assert votes.tolist() == [0.5, -0.5, 0.5]
    overflowing = torch.full((4,), 1e200, dtype=torch.float64)
    assert not bool(clip_delta(overflowing, 1.0)[0].any())


# Release


def test_p36_noise_is_that_of_the_clip_and_the_divisor_a_constant():
    # Whatever came: the sum is divided by the expected size, 20, and the noise has 1.5 times the norm, 0.5.
    entries = 200_000
    for came in (0, 3, 50):
        privacy = planned(PoissonCohorts(20), noise_multiplier=1.5, max_delta_norm=0.5)
        total = torch.full((entries,), 0.01 * came)
        mean = privacy.finish(0, total.clone())
        noise = mean.double() - total.double() / 20
        # Mean and variance of 200,000 draws: error probability 1e-9 each.
        std = 1.5 * 0.5 / 20
        assert abs(float(noise.mean())) < 6.2 * std / math.sqrt(entries)
        assert float(noise.var()) / std**2 == pytest.approx(1.0, abs=6.2 * math.sqrt(2 / entries))


def test_p36_one_client_moves_the_sum_by_no_more_than_the_norm_whatever_its_size():
    privacy = planned(noise_multiplier=0.0, max_delta_norm=0.7)
    deltas = rows(5, 30, scale=5.0)
    deltas[2] *= 1e6
    clipped, votes = privacy.clip(deltas)
    with_client = privacy.finish(0, clipped.sum(0), votes.sum())
    others = clipped[[0, 1, 3, 4]]
    without = privacy.finish(1, others.sum(0), votes.sum())
    assert float((with_client - without).norm()) * 10 <= 0.7 * (1 + 1e-5)


@pytest.mark.parametrize("aggregator", [WeightedMean(), CoordinateMedian()], ids=str)
def test_p36_weights_and_other_rules_are_refused(aggregator):
    with pytest.raises(ConfigurationError, match=r"can't be used with client privacy.*WeightedMean\(weighted=False\)"):
        planned().check(aggregator)
    planned().check(WeightedMean(weighted=False))


def test_p18_an_empty_cohort_is_a_release_like_any_other():
    privacy = planned(adaptive=True)
    mean = privacy.finish(0, torch.zeros(1000), 0.0)
    assert float(mean.norm()) > 0
    assert privacy.ledger.count(privacy.release) == 1
    assert privacy.max_delta_norm != 1.0  # the noisy count moves the norm too


def test_the_charge_comes_before_the_release_and_once():
    privacy = planned()
    with pytest.raises(PrivacyViolation, match="round 0 is to be released without a charge"):
        privacy.noised(0, torch.zeros(3), 0.0)
    privacy.charge(0)
    assert privacy.ledger.count(privacy.release) == 1
    first = privacy.noised(0, torch.zeros(3), 0.0)
    with pytest.raises(PrivacyViolation, match="round 0 is to be released without a charge"):
        privacy.noised(0, torch.zeros(3), 0.0)
    assert torch.equal(privacy.settle(first), first[:3] / 10)
    with pytest.raises(PrivacyViolation, match="round 0 was released already"):
        privacy.finish(0, torch.zeros(3))
    privacy.finish(5, torch.zeros(3))
    assert privacy.ledger.count(privacy.release) == 2


def test_p30_the_budget_stops_the_round_before_its_release():
    privacy = planned(PoissonCohorts(50), epsilon=6.0, noise_multiplier=1.0, noise=seeded())
    released = 0
    while privacy.affords_round():
        privacy.finish(released, torch.zeros(3))
        released += 1
    assert 0 < released == privacy.ledger.count(privacy.release)
    assert privacy.ledger.epsilon(exact=True) <= 6.0
    with pytest.raises(PrivacyBudgetExceeded):
        privacy.finish(200, torch.zeros(3))
    with pytest.raises(PrivacyViolation, match="round 200 is to be released without a charge"):
        privacy.noised(200, torch.zeros(3), 0.0)
    assert privacy.ledger.count(privacy.release) == released


def test_a_sum_that_is_not_finite_is_no_sum_of_clipped_deltas():
    privacy = planned()
    with pytest.raises(PrivacyViolation, match="sum of round 0 is not finite"):
        privacy.finish(0, torch.tensor([0.0, math.nan]))


def test_the_votes_stay_inside_where_the_norm_is_fixed():
    privacy = planned(noise_multiplier=0.0)
    privacy.charge(0)
    assert float(privacy.noised(0, torch.zeros(3), 4.5)[-1]) == 0.0


# Noise for a target


@pytest.mark.parametrize("cohort", [PoissonCohorts(10), UniformCohorts(10), AllClients()], ids=str)
def test_a_target_epsilon_is_reached_and_kept(cohort):
    privacy = planned(cohort, rounds=12, epsilon=8.0, noise_multiplier=None)
    for number in range(12):
        privacy.finish(number, torch.zeros(2))
    assert 7.9 < privacy.ledger.epsilon(exact=True) <= 8.0
    assert not privacy.affords_round()
    assert privacy.ledger.unit == "client"


def test_what_was_spent_before_counts():
    ledger = PrivacyLedger(delta=1e-5, budget=8.0, unit="client")
    ledger.charge(GaussianRelease(2.0), label="sizes of the clients")
    cohort = AllClients()
    more = planned(cohort, rounds=1, epsilon=8.0, noise_multiplier=None, ledger=ledger)
    assert more.noise_multiplier > 1.02 * planned(cohort, rounds=1, epsilon=8.0, noise_multiplier=None).noise_multiplier


# Accounting of cohorts


def _mixture_epsilon(probability, means_p, means_q, std, rounds, delta):
    """Epsilon of ``rounds`` independent draws from a pair of mixtures of two normals: lower bound by a fine grid."""
    # Privacy losses of P against Q, rounded down on a grid of step 1e-3, convolved; a lower bound on the divergence.
    grid = np.linspace(-12.0, 12.0, 100_001) * std
    width = grid[1] - grid[0]

    def density(means):
        near = (1 - probability) * stats.norm.pdf(grid, means[0], std)
        return near + probability * stats.norm.pdf(grid, means[1], std)

    p, q = density(means_p) * width, density(means_q) * width
    step, half = 1e-3, 40_000
    loss = np.clip(np.floor(np.log(p / q) / step), -half, half).astype(int) + half
    masses = np.bincount(loss, weights=p, minlength=2 * half + 1)
    spectrum = np.fft.rfft(np.roll(masses, -half)) ** rounds
    composed = np.roll(np.fft.irfft(spectrum, 2 * half + 1), half)
    epsilons = (np.arange(2 * half + 1) - half) * step
    low, high = 0.0, 30.0
    for _ in range(50):
        middle = (low + high) / 2
        above = epsilons > middle
        if (composed[above] * -np.expm1(middle - epsilons[above])).sum() > delta:
            low = middle
        else:
            high = middle
    return low


@pytest.mark.parametrize("rounds", [1, 5])
@pytest.mark.parametrize(("clients", "size", "sigma"), [(100, 10, 1.5), (20, 10, 3.0)])
def test_p35_a_fixed_size_costs_at_least_what_the_worst_clients_found_do(clients, size, sigma, rounds):
    # x and y stand for the client that is zeroed out and the one that is drawn in its place; s - y is at 0 - y.
    release = CohortAccounting.of(UniformCohorts(size), clients).release(sigma)
    ledger = PrivacyLedger(delta=1e-5, unit="client")
    ledger.charge(release, count=rounds)
    charged = ledger.epsilon(exact=True)
    worst = 0.0
    for y in (1.0, 0.5, 0.0, -1.0):
        p, q = (0.0, 1.0 - y), (0.0, -y)  # the mirror image is x = -1
        for first, second in ((p, q), (q, p)):
            worst = max(worst, _mixture_epsilon(size / clients, first, second, sigma, rounds, 1e-5))
    assert worst <= charged
    # Poisson cohorts of the same rate are cheaper than what was found: the fixed size can't be charged as Poisson.
    poisson = PrivacyLedger(delta=1e-5, unit="client")
    poisson.charge(SampledGaussian(sigma, size / clients), count=rounds)
    assert poisson.epsilon(exact=True) < worst


def test_each_kind_of_cohort_is_charged_as_what_it_is():
    assert planned(PoissonCohorts(10)).release == SampledGaussian(1.0, 0.1)
    assert planned(AllClients()).release == SampledGaussian(1.0, 1.0)
    assert planned(UniformCohorts(100)).release == SampledGaussian(1.0, 1.0)
    assert planned(UniformCohorts(10)).release.to_dict() == {
        "kind": "truncated_sampled_gaussian",
        "noise_multiplier": 1.0,
        "sample_rate": 1.0,
        "num_examples": 100,
        "max_batch_size": 10,
    }
    assert planned(UniformCohorts(10)).expected_cohort_size == 10.0
    assert planned(AllClients()).ledger.caveats == ()
    assert "who was in which cohort" in planned(PoissonCohorts(10)).ledger.caveats[0]
    assert "'poisson' needs less noise" in planned(UniformCohorts(10)).ledger.caveats[1]
    assert any("NOT PRIVATE" in text for text in planned(noise=seeded()).ledger.caveats)


def test_unequal_cohorts_are_refused():
    with pytest.raises(UnsupportedError, match=r"WeightedCohorts.*client_sampling='poisson'"):
        planned(WeightedCohorts(2, [1.0, 2.0, 3.0]), clients=3)

    class Mine(PoissonCohorts):
        pass

    with pytest.raises(UnsupportedError, match="Mine"):
        planned(Mine(10))


# Adaptive norm


@pytest.mark.parametrize("start", [0.1, 20.0], ids=["from below", "from above"])
@pytest.mark.parametrize("quantile", [0.5, 0.8])
def test_p38_the_norm_converges_to_the_quantile(start, quantile):
    # 400 clients whose norms are spread evenly over (0, 2): the quantile is at 2 * quantile.
    how = AdaptiveNorm(target_quantile=quantile, learning_rate=0.3)
    privacy = planned(
        PoissonCohorts(200), clients=400, noise_multiplier=0.5, max_delta_norm=start, adaptive=how, noise=seeded(3)
    )
    generator = torch.Generator().manual_seed(1)
    norms = torch.linspace(0.0, 2.0, 400)
    path = []
    for number in range(80):
        came = torch.rand(400, generator=generator) < 0.5
        deltas = torch.zeros(int(came.sum()), 8)
        deltas[:, number % 8] = norms[came]
        clipped, votes = privacy.clip(deltas)
        privacy.finish(number, clipped.sum(0), votes.sum())
        path.append(privacy.max_delta_norm)
    assert path[0] > start if start < 1 else path[0] < start
    assert np.mean(path[-30:]) == pytest.approx(2 * quantile, rel=0.1)


def test_p13_delta_and_count_share_the_noise_multiplier_that_is_charged():
    privacy = planned(noise_multiplier=1.0, adaptive=AdaptiveNorm(count_noise_std=1.25))
    s = privacy.delta_noise_multiplier
    assert 1 / s**2 + 1 / (2 * 1.25) ** 2 == pytest.approx(1.0)
    privacy.finish(0, torch.zeros(3), 0.0)
    release, count, label = privacy.ledger.history[0]
    assert (release.event(), count) == (SampledGaussian(1.0, 0.1).event(), 1)
    assert label == f"rounds (noise {s:.4g} on deltas, 1.25 on the count)"
    # Of one coordinate of the released noise and the count: 4,000 rounds, error probability 1e-9 each.
    privacy = planned(noise_multiplier=1.0, adaptive=AdaptiveNorm(count_noise_std=1.25), ledger=None)
    noisy = []
    for number in range(4000):
        privacy._account._charged_round = number  # the accountant is not what is tested, and takes long for so many
        noisy.append(privacy.noised(number, torch.zeros(1), 2.0))
    deltas, counts = torch.stack(noisy).double().T
    assert float(deltas.std()) == pytest.approx(s, rel=6.2 / math.sqrt(8000))
    assert float(counts.std()) == pytest.approx(1.25, rel=6.2 / math.sqrt(8000))
    assert float(counts.mean()) == pytest.approx(2.0, abs=6.2 * 1.25 / math.sqrt(4000))
    assert abs(float(np.corrcoef(deltas, counts)[0, 1])) < 6.2 / math.sqrt(4000)


def test_the_default_noise_on_the_count_suits_small_cohorts_and_large_ones():
    assert AdaptiveNorm().count_std(noise_multiplier=1.1, expected_cohort_size=10) == 1.1
    assert AdaptiveNorm().count_std(noise_multiplier=1.1, expected_cohort_size=1000) == 50.0
    assert planned(adaptive=True).delta_noise_multiplier == pytest.approx(2 / math.sqrt(3))


# State


def run(privacy, numbers):
    means = []
    for number in numbers:
        clipped, votes = privacy.clip(rows(6, 5, seed=number, scale=2.0))
        means.append(privacy.finish(number, clipped.sum(0), votes.sum()))
    return means


@pytest.mark.parametrize(("plan_first", "adaptive"), [(True, True), (False, True), (False, False)])
def test_p43_a_resumed_run_equals_an_uninterrupted_one(plan_first, adaptive):
    # Without a noise multiplier it is chosen for epsilon once, and restored.
    options = {"epsilon": 8.0, "noise_multiplier": 1.0 if adaptive else None, "adaptive": adaptive}
    whole = planned(noise=seeded(), **options)
    expected = run(whole, range(6))
    first = planned(noise=seeded(), **options)
    run(first, range(3))
    state = pickle.loads(pickle.dumps(first.state_dict()))
    second = ClientPrivacy(delta=1e-5, max_delta_norm=1.0, noise=seeded(), **options)
    if plan_first:
        second.plan(100, PoissonCohorts(10), 10)
    second.load_state_dict(state)
    second.plan(100, PoissonCohorts(10), 10)
    for got, wanted in zip(run(second, range(3, 6)), expected[3:], strict=True):
        assert torch.equal(got, wanted)
    assert second.ledger.groups == whole.ledger.groups
    assert second.max_delta_norm == whole.max_delta_norm
    with pytest.raises(PrivacyViolation, match="round 5 was released already"):
        run(second, [5])


def test_p26_rounds_after_the_checkpoint_stay_charged(tmp_path):
    journal = tmp_path / "rounds.jsonl"
    first = planned()
    first.keep_journal(journal)
    run(first, range(2))
    state = first.state_dict()
    run(first, range(2, 5))
    # In a process that knows nothing of them, the journal does.
    second = planned()
    second.load_state_dict(state)
    second.keep_journal(journal)
    assert second.ledger.count(second.release) == 5
    run(second, range(2, 4))
    assert second.ledger.count(second.release) == 7
    third = planned()
    third.load_state_dict(state)
    third.keep_journal(journal, write=False)
    assert third.ledger.count(third.release) == 7
    # In the process that took them, the ledger does.
    first.load_state_dict(state)
    assert first.ledger.count(first.release) == 5


def test_what_a_new_process_charged_before_the_resume_counts_too():
    first = planned()
    run(first, range(2))
    second = planned()
    second.ledger.charge(GaussianRelease(3.0))
    second.ledger.charge(first.release, label="something else")
    second.load_state_dict(first.state_dict())
    assert dict(second.ledger.groups) == {first.release: 3, GaussianRelease(3.0): 1}


def _resumed(**options):
    state = planned(PoissonCohorts(10)).state_dict()
    changes = options.pop("state", {})
    made = planned(**options) if "plan" not in options else ClientPrivacy(**options["plan"])
    made.load_state_dict({key: value for key, value in (state | changes).items() if value != "gone"})
    return made


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_multiplier": 2.0}, "noise_multiplier=1.0, this one has 2.0"),
        ({"max_delta_norm": 2.0}, "max_delta_norm=1.0, this one has 2.0"),
        ({"adaptive": True}, "clipping norm is fixed, and this ClientPrivacy has adaptive"),
        ({"clients": 200}, "num_clients=100, this one has 200"),
        ({"cohort": PoissonCohorts(20)}, "expected_cohort_size=10.0, this one has 20.0"),
        ({"cohort": UniformCohorts(10)}, "sample_rate=0.1, this one has 1.0"),
        ({"state": {"ledger": "gone"}}, "lacks ledger"),
        ({"delta": 1e-6}, "delta"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(options, message):
    with pytest.raises(CheckpointError, match=message):
        _resumed(**options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: planned(delta=1.0), "delta must be.*1.0"),
        (lambda: planned(max_delta_norm=0.0), "max_delta_norm.*0.0"),
        (lambda: planned(noise_multiplier=None), "neither epsilon nor noise_multiplier"),
        (lambda: planned(noise_multiplier=-1.0), "noise_multiplier.*-1.0"),
        (lambda: planned(epsilon=1.0, noise_multiplier=0.0), "noise_multiplier=0 can't keep epsilon=1"),
        (lambda: planned(adaptive=3), "adaptive must be True, False or an AdaptiveNorm, got 3"),
        (lambda: planned(adaptive=AdaptiveNorm(max_norm=0.5)), "max_delta_norm must be between"),
        (lambda: planned(adaptive=AdaptiveNorm(count_noise_std=0.4)), "count_noise_std must be above 0.5"),
        (lambda: AdaptiveNorm(target_quantile=1.0), "target_quantile.*1.0"),
        (lambda: AdaptiveNorm(min_norm=2.0, max_norm=1.0), "min_norm must be at most max_norm"),
        (lambda: planned(ledger=PrivacyLedger(delta=1e-5)), "unit 'example'.*unit='client'"),
        (lambda: planned(ledger=PrivacyLedger(delta=1e-6, unit="client")), "delta=1e-05 differs"),
        (lambda: planned(epsilon=1.0, ledger=PrivacyLedger(delta=1e-5, unit="client")), "epsilon=1 differs"),
        (lambda: planned(ledger=[]), r"ledger must be a PrivacyLedger, got \[\]"),
        (lambda: planned(rounds=0), "rounds.*0"),
        (lambda: planned(clients=5), "cohort_size"),
        (lambda: planned().plan(200, PoissonCohorts(10), 5), "was planned for .*num_clients=100"),
        (lambda: ClientPrivacy(delta=1e-5, epsilon=1.0, max_delta_norm=1.0).clip(torch.ones(2)), "no plan yet"),
        (
            lambda: planned().clip(torch.ones(2, dtype=torch.int64)),
            "delta must be a flat vector of float32 or float64, got torch.int64",
        ),
        (lambda: planned().finish(0, torch.ones(2, 2)), r"total must be a flat .*\(2, 2\)"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ConfigurationError, match=message):
        call()


def test_p35_the_unit_of_the_ledger_is_the_client():
    assert planned().ledger.unit == "client"
    assert "client" in planned().summary()


def test_a_delta_at_which_a_client_may_be_published_is_a_caveat():
    made = ClientPrivacy(delta=0.01, noise_multiplier=1.0, max_delta_norm=1.0, noise=seeded())
    with pytest.warns(UserWarning, match="delta=0.01 is not below 1/100, one over the number of clients"):
        made.plan(num_clients=100, cohort=PoissonCohorts(10), rounds=2)
    assert any("not below 1/100" in caveat for caveat in made.ledger.caveats)
