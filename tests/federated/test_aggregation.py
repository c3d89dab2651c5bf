from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.aggregation import (
    QFFL,
    Bulyan,
    CoordinateMedian,
    GeometricMedian,
    Krum,
    TrimmedMean,
    WeightedMean,
    _rows,
)
from lightning_privacy.federated.update import ClientUpdate

ALL = [
    WeightedMean(),
    CoordinateMedian(),
    TrimmedMean(2),
    TrimmedMean(0.2),
    Krum(2),
    Krum(2, select=5),
    Bulyan(2),
    GeometricMedian(),
    QFFL(q=2.0, learning_rate=0.1),
]
ROBUST = [each for each in ALL if not isinstance(each, WeightedMean | QFFL)]


def random_rows(clients: int, entries: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(clients, entries, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_weights(clients: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(clients, generator=torch.Generator().manual_seed(seed + 100), dtype=torch.float64) + 0.5


# References: one loop per client and entry, written from the papers.


def slow_mean(rows, weights):
    total = [0.0] * len(rows[0])
    for row, weight in zip(rows, weights, strict=True):
        for entry, value in enumerate(row):
            total[entry] += weight * value
    return [value / sum(weights) for value in total]


def slow_median(rows, weights):
    return [float(np.median([row[entry] for row in rows])) for entry in range(len(rows[0]))]


def slow_trimmed(rows, trim):
    columns = [sorted(row[entry] for row in rows) for entry in range(len(rows[0]))]
    return [sum(column[trim : len(column) - trim]) / (len(column) - 2 * trim) for column in columns]


def slow_scores(rows, byzantine):
    scores = []
    for one, row in enumerate(rows):
        squares = sorted(
            sum((a - b) ** 2 for a, b in zip(row, other, strict=True)) for two, other in enumerate(rows) if two != one
        )
        # Ties, which are the rule with one neighbour, go to the row that is closer to the others.
        scores.append(sum(squares[: max(1, len(rows) - byzantine - 2)]) + 1e-9 * float(np.median(squares)))
    return scores


def slow_krum(rows, byzantine, select):
    scores = slow_scores(rows, byzantine)
    best = sorted(range(len(rows)), key=lambda row: scores[row])[:select]
    return slow_mean([rows[row] for row in best], [1.0] * select)


def slow_bulyan(rows, byzantine):
    left, chosen = list(rows), []
    while len(chosen) < len(rows) - 2 * byzantine:
        scores = slow_scores(left, byzantine) if len(left) > 1 else [0.0]
        chosen.append(left.pop(scores.index(min(scores))))
    result = []
    for entry in range(len(rows[0])):
        column = sorted(row[entry] for row in chosen)
        centre = float(np.median(column))
        nearest = sorted(column, key=lambda value: abs(value - centre))[: len(rows) - 4 * byzantine]
        result.append(sum(nearest) / len(nearest))
    return result


def slow_geometric(rows, weights):
    point = np.array(slow_mean(rows, weights))
    for _ in range(1_500):
        pulls = [w / max(1e-9, float(np.linalg.norm(point - row))) for w, row in zip(weights, rows, strict=True)]
        point = np.array(slow_mean(rows, pulls))
    return point.tolist()


def slow_q_fedavg(rows, losses, q, lr):
    # In the paper's signs: w <- w - sum Delta / sum h, with Delta_k = F_k^q L (w - w_k).
    lipschitz, steps, heights = 1.0 / lr, [], []
    for row, loss in zip(rows, losses, strict=True):
        moved = [lipschitz * -value for value in row]
        steps.append([loss**q * value for value in moved])
        heights.append(q * loss ** (q - 1) * sum(value**2 for value in moved) + lipschitz * loss**q)
    return [-sum(step[entry] for step in steps) / sum(heights) for entry in range(len(rows[0]))]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("clients", [11, 12])
def test_each_equals_its_reference(seed, clients):
    deltas, weights = random_rows(clients, 6, seed), random_weights(clients, seed)
    rows, counts = deltas.tolist(), weights.tolist()
    expected = {
        WeightedMean(): slow_mean(rows, counts),
        CoordinateMedian(): slow_median(rows, counts),
        TrimmedMean(3): slow_trimmed(rows, 3),
        TrimmedMean(0.2): slow_trimmed(rows, 3),
        Krum(3): slow_krum(rows, 3, 1),
        Krum(3, select=5): slow_krum(rows, 3, 5),
        Bulyan(2): slow_bulyan(rows, 2),
        Bulyan(0): slow_bulyan(rows, 0),
        GeometricMedian(tolerance=1e-12): slow_geometric(rows, counts),
        QFFL(q=2.0, learning_rate=0.1): slow_q_fedavg(rows, counts, 2.0, 0.1),
        QFFL(q=0.5, learning_rate=0.3): slow_q_fedavg(rows, counts, 0.5, 0.3),
    }
    for aggregator, result in expected.items():
        got = aggregator.aggregate(deltas, weights)
        torch.testing.assert_close(got, torch.tensor(result, dtype=torch.float64), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("aggregator", ALL, ids=str)
def test_single_precision_many_slices_and_no_change_of_the_input(aggregator, monkeypatch):
    deltas, weights = random_rows(11, 37), random_weights(11)
    expected = aggregator.aggregate(deltas, weights)
    single = deltas.float()
    before = single.clone()
    monkeypatch.setattr(_rows, "_SLICE", 55)  # five columns at a time
    got = aggregator.aggregate(single, weights)
    assert got.dtype == torch.float32
    assert got.shape == (37,)
    assert torch.equal(single, before)
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("aggregator", ALL, ids=str)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**20), order=st.permutations(range(11)))
def test_the_order_of_the_clients_does_not_matter(aggregator, seed, order):
    deltas, weights = random_rows(11, 5, seed), random_weights(11, seed)
    got = aggregator.aggregate(deltas[list(order)], weights[list(order)])
    torch.testing.assert_close(got, aggregator.aggregate(deltas, weights), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("aggregator", ALL, ids=str)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_equal_deltas_come_out_and_all_scale(aggregator, seed):
    deltas, weights = random_rows(11, 5, seed), random_weights(11, seed)
    if not isinstance(aggregator, QFFL):
        same = deltas[:1].expand(11, -1)
        torch.testing.assert_close(aggregator.aggregate(same, weights), deltas[0])
        scaled, shifted = aggregator.aggregate(deltas * 4.0, weights), aggregator.aggregate(deltas + 2.0, weights)
        torch.testing.assert_close(scaled, aggregator.aggregate(deltas, weights) * 4.0, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(shifted, aggregator.aggregate(deltas, weights) + 2.0, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("clients", [10, 11])
def test_sign_flipped_deltas_times_a_hundred_move_the_mean_only(clients):
    # Two clients send garbage. Without them, the honest deltas lie within a distance of about 3.2 of their mean.
    centre = torch.full((100,), 0.5)
    honest = centre + 0.3 * random_rows(clients, 100, dtype=torch.float32)
    deltas = honest.clone()
    deltas[[3, 7]] *= -100.0
    ones = torch.ones(clients)
    clean = honest[[row for row in range(clients) if row not in (3, 7)]].mean(dim=0)
    spread = float((honest - clean).norm(dim=1).max())
    assert float((WeightedMean().aggregate(deltas, ones) - clean).norm()) > 20 * spread
    for aggregator in [*ROBUST, Krum(2, select=3), GeometricMedian(weighted=True)]:
        if isinstance(aggregator, Bulyan) and clients < 11:
            continue  # needs 4 * 2 + 3 clients
        distance = float((aggregator.aggregate(deltas, ones) - clean).norm())
        assert distance <= 1.01 * spread, (aggregator, distance, spread)


@pytest.mark.parametrize("aggregator", ROBUST, ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_astronomic_numbers_of_the_hostile_do_not_matter(aggregator, sign):
    for dtype, huge in ((torch.float32, 3e38), (torch.float64, 1e307)):
        deltas = random_rows(11, 20, dtype=dtype)
        deltas[0] = huge
        deltas[1] = sign * huge
        result = aggregator.aggregate(deltas, torch.ones(11))
        assert bool(result.isfinite().all())
        assert float(result.norm()) < 20


def test_geometric_median_minimises_the_sum_of_distances():
    deltas, weights = random_rows(9, 4), random_weights(9)

    def cost(point):
        return float((weights * (deltas - point).norm(dim=1)).sum())

    best = GeometricMedian(tolerance=1e-10).aggregate(deltas, weights)
    for seed in range(20):
        assert cost(best) <= cost(best + 1e-3 * random_rows(1, 4, seed)[0])


def test_q_ffl_is_the_mean_for_q_zero_and_follows_the_worst_off():
    deltas, losses = random_rows(6, 4), random_weights(6)
    plain = QFFL(q=0.0, learning_rate=0.5).aggregate(deltas, losses)
    torch.testing.assert_close(plain, deltas.mean(dim=0))
    towards, away = torch.tensor([[1.0], [-1.0]]), torch.tensor([4.0, 1.0])
    assert float(QFFL(q=1.0, learning_rate=1.0).aggregate(towards, away)) > 0
    nothing_left = QFFL(q=0.5, learning_rate=1.0).aggregate(torch.tensor([[0.0], [1.0]]), torch.tensor([0.0, 1.0]))
    assert 0 < float(nothing_left) < 1


def test_the_median_of_large_numbers_and_the_rounding_of_a_trim():
    large = torch.tensor([[-3e38], [3e38], [3e38], [3e38]])
    assert float(CoordinateMedian().aggregate(large, torch.ones(4))) == pytest.approx(3e38)
    assert 0.07 * 100 > 7
    assert [TrimmedMean(0.07).count(clients) for clients in (10, 100, 101)] == [1, 7, 8]


def test_weights_of_clients():
    update = ClientUpdate(4, torch.zeros(3), num_examples=12, num_steps=3, metrics={"initial_loss": 0.25})
    assert WeightedMean().weight(update) == 12.0
    assert WeightedMean(weighted=False).weight(update) == 1.0
    assert GeometricMedian(weighted=True).weight(update) == 12.0
    assert QFFL(q=1.0, learning_rate=0.1).weight(update) == 0.25
    assert {type(each) for each in ALL if each.linear} == {WeightedMean}
    for each in ROBUST:
        assert each.weight(update) == 1.0


ROWS, ONES = torch.zeros(5, 2), torch.ones(5)
NO_LOSS = ClientUpdate(4, torch.zeros(3), num_examples=12, num_steps=3)
BAD_LOSS = ClientUpdate(4, torch.zeros(3), num_examples=12, num_steps=3, metrics={"initial_loss": math.nan})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Krum(2).check(6), r"byzantine=2 needs at least 2 \* 2 \+ 3 = 7 clients in a round, got 6.*at most 1"),
        (lambda: Krum(2).aggregate(ROWS, ONES), "byzantine=2 needs at least .* = 7 clients in a round, got 5"),
        (lambda: Krum(1, select=3).check(5), "select=3 .* at most clients - byzantine - 2 = 2"),
        (lambda: Krum(-1), "byzantine.*-1"),
        (lambda: Krum(1, select=0), "select.*0"),
        (
            lambda: Bulyan(2).check(10),
            r"byzantine=2 needs at least 4 \* 2 \+ 3 = 11 clients in a round, got 10.*at most 1",
        ),
        (lambda: Bulyan(1).aggregate(ROWS, ONES), "byzantine=1 needs at least"),
        (lambda: Bulyan(1.5), "byzantine.*1.5"),
        (lambda: TrimmedMean(3).check(6), "trim=3 leaves out 3 at each end, and of 6 clients nobody.*at most 2"),
        (lambda: TrimmedMean(3).aggregate(ROWS, ONES), "trim=3 leaves out 3 at each end, and of 5"),
        (lambda: TrimmedMean(0.5), r"trim as a fraction must be in \[0, 0.5\), got 0.5"),
        (lambda: TrimmedMean(0.49).check(2), "trim=0.49 leaves out 1 at each end, and of 2"),
        (lambda: TrimmedMean(-1), "trim.*-1"),
        (lambda: TrimmedMean(math.nan), "trim.*nan"),
        (lambda: CoordinateMedian().check(0), "cohort_size.*0"),
        (lambda: WeightedMean().aggregate(ROWS, torch.zeros(5)), "weights of all 5 clients are 0"),
        (lambda: WeightedMean(weighted=1), "weighted must be True or False, got 1"),
        (lambda: WeightedMean().aggregate(ROWS, -ONES), "weights must be finite and at least 0"),
        (lambda: WeightedMean().aggregate(ROWS, torch.ones(4)), r"weights must have shape \(5,\)"),
        (lambda: WeightedMean().aggregate(ROWS[0], ONES), r"deltas must be floating point of shape .* \(2,\)"),
        (lambda: WeightedMean().aggregate(ROWS.int(), ONES), "deltas must be floating point .*int32"),
        (lambda: GeometricMedian(smoothing=0.0), "smoothing.*0.0"),
        (lambda: GeometricMedian(weighted=None), "weighted.*None"),
        (lambda: GeometricMedian().aggregate(ROWS, torch.zeros(5)), "weights of all 5 clients are 0"),
        (lambda: QFFL(q=-1.0, learning_rate=0.1), "q must be.*-1.0"),
        (lambda: QFFL(q=1.0, learning_rate=0.0), "learning_rate.*0.0"),
        (lambda: QFFL(q=1.0, learning_rate=0.1).weight(NO_LOSS), "client 4 has no metric 'initial_loss'"),
        (lambda: QFFL(q=1.0, learning_rate=0.1).weight(BAD_LOSS), "initial_loss of client 4 .* got nan"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ConfigurationError, match=message):
        call()


@pytest.mark.parametrize("aggregator", ALL, ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_p41_a_delta_that_is_not_finite_is_refused(aggregator, value):
    deltas = random_rows(11, 3)
    deltas[6, 1] = value
    with pytest.raises(ConfigurationError, match="row 6 of deltas is not finite"):
        aggregator.aggregate(deltas, torch.ones(11))
