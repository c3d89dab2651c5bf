"""Drawing in two stages gives every example the probability of its weight, and cells the numbers of their shares."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chisquare

from lightning_privacy.sampling.strata import Strata, apportion, grouped

# A test of a distribution fails by chance less often than once in a million runs; they are seeded all the same.
ERROR = 1e-6


def probabilities(strata: Strata, num_examples: int) -> NDArray[np.float64]:
    """Of each example, from what the strata hold: its stratum's, and of those kept there its part."""
    found = np.zeros(num_examples)
    for start, count, share in zip(strata.starts, strata.counts, strata.shares, strict=True):
        members = strata.members[start : start + count]
        kept = np.ones(count) if strata.acceptance is None else strata.acceptance[members]
        found[members] += share * kept / kept.sum()
    return found


@pytest.mark.parametrize("num_cells", [1, 2, 255, 256, 257, 65_536, 65_537])
def test_examples_stand_cell_after_cell_in_their_order(num_cells):
    cells = np.random.default_rng(num_cells).integers(0, num_cells, 500)
    cells[::7] = num_cells - 1  # the largest number there is must not wrap round
    members, counts = grouped(cells, num_cells)
    assert members.tolist() == sorted(range(500), key=lambda example: (cells[example], example))
    assert counts.tolist() == [int((cells == cell).sum()) for cell in range(num_cells)]


@pytest.mark.parametrize("total", [0, 1, 7, 10])
@pytest.mark.parametrize(
    "shares", [[1.0], [0.5, 0.5], [0.55, 0.25, 0.2], [1 / 3, 1 / 3, 1 / 3], [0.0, 1.0], [0.7, 0.29, 0.01]], ids=str
)
def test_whole_numbers_are_as_near_as_can_be(total, shares):
    found = apportion(total, np.array(shares))
    assert found.sum() == total
    distance = max(abs(int(number) - total * Fraction(share)) for number, share in zip(found, shares, strict=True))
    every = (each for each in itertools.product(range(total + 1), repeat=len(shares)) if sum(each) == total)
    nearest = min(max(abs(n - total * Fraction(s)) for n, s in zip(each, shares, strict=True)) for each in every)
    assert float(distance) <= float(nearest) + 1e-9
    assert all(number == 0 for number, share in zip(found, shares, strict=True) if share == 0)


WEIGHTS = {
    "equal": np.full(9, 0.3),
    "powers": 2.0 ** -np.arange(12),
    "between": np.random.default_rng(1).random(200) + 0.01,
    "some are never drawn": np.array([0.0, 1.0, 0.0, 2.5, 0.7]),
    "hundreds of orders apart": np.array([1e-300, 1.0, 1e-20, 3e-300, 0.9]),
    "huge": np.array([1e308, 5e307, 1e308]),
    "smallest": np.array([5e-324, 1e-323, 5e-324]),
    "one": np.array([4.2]),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_each_example_has_the_probability_of_its_weight(name):
    weights = WEIGHTS[name]
    exact = [Fraction(float(weight)) for weight in weights]
    wanted = [float(weight / sum(exact)) for weight in exact]
    np.testing.assert_allclose(probabilities(Strata.from_weights(weights), len(weights)), wanted, rtol=1e-12)


def test_few_draws_are_thrown_away():
    strata = Strata.from_weights(WEIGHTS["between"])
    assert strata.acceptance is not None
    assert strata.acceptance.min() >= 0.5
    for name in ("equal", "powers", "one"):  # all of a stratum weigh the same
        assert Strata.from_weights(WEIGHTS[name]).acceptance is None


def test_a_cell_s_share_falls_to_its_members_alike():
    cells = np.array([2, 0, 0, 2, 1, 0, 2, 2])
    strata = Strata.from_cells(cells, np.array([0.2, 0.0, 0.8]))
    expected = np.array([0.2, 1 / 15, 1 / 15, 0.2, 0.0, 1 / 15, 0.2, 0.2])
    np.testing.assert_allclose(probabilities(strata, 8), expected, rtol=1e-12)
    assert strata.acceptance is None


@pytest.mark.parametrize("name", ["between", "some are never drawn", "powers"])
def test_draws_follow_the_weights(name):
    weights = WEIGHTS[name]
    drawn = Strata.from_weights(weights).draw(np.random.default_rng(4), 200_000)
    counts, possible = np.bincount(drawn, minlength=len(weights)), weights > 0
    assert counts[~possible].sum() == 0
    expected = weights[possible] / weights.sum() * len(drawn)
    assert chisquare(counts[possible], expected).pvalue > ERROR


def test_draws_are_independent_of_those_before():
    """Neighbours in the order of drawing: pairs are as frequent as two independent draws make them."""
    weights = np.array([1.0, 2.0, 3.5])
    drawn = Strata.from_weights(weights).draw(np.random.default_rng(5), 200_000)
    pairs = np.bincount(drawn[::2] * 3 + drawn[1::2], minlength=9)
    expected = np.outer(weights, weights).ravel() / weights.sum() ** 2 * pairs.sum()
    assert chisquare(pairs, expected).pvalue > ERROR


def test_members_of_given_strata():
    strata = Strata.from_cells(np.array([0, 1, 1, 2]), np.array([0.5, 0.25, 0.25]))
    drawn = strata.draw_from(np.random.default_rng(0), np.array([2, 1, 0, 1] * 50))
    assert set(drawn[::4]) == {3}
    assert set(drawn[2::4]) == {0}
    assert set(drawn[1::4]) == {1, 2}
