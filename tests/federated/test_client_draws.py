"""Draws inside clients, against the distribution they must have."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.client_draws import ClientDraws
from lightning_privacy.mechanisms import NoiseSource, SeededNoiseWarning


def seeded(seed=0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeededNoiseWarning)
        return NoiseSource(seed)


def test_each_example_is_drawn_at_its_rate_by_itself():
    """2,000 steps of 40 examples at 0.25: counts within 6 standard deviations but for 1e-7; so is each pair's count."""
    draws = ClientDraws(NoiseSource())
    taken = np.zeros((2000, 40))
    for step in range(2000):
        drawn = draws.draw(5, step, size=40, sample_rate=0.25)
        assert len(set(drawn.tolist())) == len(drawn)
        taken[step, drawn] = 1
    assert np.abs(taken.sum(0) - 500).max() < 6 * np.sqrt(2000 * 0.25 * 0.75)
    pairs = (taken.T @ taken)[np.triu_indices(40, 1)]
    assert np.abs(pairs - 125).max() < 6 * np.sqrt(2000 * 0.0625 * 0.9375)
    steps = taken[:-1, 0] @ taken[1:, 0]
    assert abs(steps - 125) < 6 * np.sqrt(2000 * 0.0625 * 0.9375) * np.sqrt(2)


def test_the_whole_of_a_small_client_is_drawn():
    assert sorted(ClientDraws(NoiseSource()).draw(0, 0, size=4, sample_rate=1.0)) == [0, 1, 2, 3]


def test_a_step_is_drawn_alike_by_one_object_and_by_no_other_unless_seeded():
    def drawn(draws, client=2, step=3):
        return draws.draw(client, step, size=400, sample_rate=0.5).tolist()

    one, other = ClientDraws(NoiseSource()), ClientDraws(NoiseSource())
    assert drawn(one) == drawn(one)
    different = [drawn(one), drawn(other), drawn(one, client=3), drawn(one, step=4)]
    assert all(different[i] != different[j] for i in range(4) for j in range(i))
    assert drawn(ClientDraws(seeded(1))) == drawn(ClientDraws(seeded(1))) != drawn(ClientDraws(seeded(2)))


def test_p09_no_two_steps_share_the_number_of_their_noise():
    draws = ClientDraws(NoiseSource())
    most = 2**24 - 1
    places = [0, 1, 2, 2**12, most]
    assert len({draws.noise_step(client, step) for client in places for step in places}) == 25
    assert draws.noise_step(most, most) < 2**48


@pytest.mark.parametrize(("client", "step"), [(2**24, 0), (0, 2**24)])
def test_a_number_that_would_come_twice_is_refused(client, step):
    with pytest.raises(ConfigurationError, match=r"both must be below 2\*\*24"):
        ClientDraws(NoiseSource()).noise_step(client, step)
