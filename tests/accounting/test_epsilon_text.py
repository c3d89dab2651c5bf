"""An epsilon as text is never less than the epsilon, and keeps to a budget that was kept."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from lightning_privacy.accounting import GaussianRelease, PrivacyLedger
from lightning_privacy.accounting.epsilon_text import epsilon_text, lower_bound_text, replacement_text
from lightning_privacy.report import sentences

FIGURES = st.floats(0.0, 1e12)


@given(FIGURES)
def test_an_epsilon_is_never_shown_smaller_than_it_is(epsilon):
    shown = float(epsilon_text(epsilon))
    assert epsilon <= shown <= epsilon * 1.01 + 0.001


@pytest.mark.parametrize("above", [3.0000000000000004, 1.1000000000000003, 0.5000000009, 5e-324, 1.7e308])
def test_however_little_it_is_above_a_round_figure(above):
    assert float(epsilon_text(above)) >= above


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [(0, "0"), (3, "3.000"), (2.9998, "3.000"), (1.1, "1.100"), (2.99901, "3.000"), (6.343001, "6.344"),
     (0.01, "0.010"), (0.0012341, "0.00124"), (0.00999999, "0.01000"), (math.inf, "infinite"), (math.nan, "infinite")],
)  # fmt: skip
def test_epsilons_as_text(epsilon, text):
    assert epsilon_text(epsilon) == text


@given(FIGURES, FIGURES)
def test_a_budget_is_shown_as_passed_only_where_it_was(epsilon, budget):
    shown = float(epsilon_text(epsilon, budget=budget))
    assert shown >= epsilon
    assert (shown > budget) == (epsilon > budget)


@pytest.mark.parametrize(("epsilon", "text"), [(2.9991, "2.9995"), (2.9981, "2.999"), (2.9996, "3.000")])
def test_an_epsilon_beside_its_budget(epsilon, text):
    assert epsilon_text(epsilon, budget=2.9995) == text


def test_reports_show_epsilons_the_same_way():
    assert sentences.epsilon_text is epsilon_text


@given(FIGURES)
def test_no_more_is_said_to_be_proved_than_was(bound):
    shown = float(lower_bound_text(bound))
    assert bound * 0.99 - 0.001 <= shown <= bound


@pytest.mark.parametrize(
    ("bound", "text"), [(0, "0"), (3, "3.000"), (0.6768, "0.676"), (3.0049, "3.004"), (0.0012349, "0.00123")]
)
def test_lower_bounds_as_text(bound, text):
    assert lower_bound_text(bound) == text


@given(st.floats(0.0, 5.0), st.floats(1e-12, 1e-4))
def test_a_replacement_is_two_steps_by_way_of_the_null_record(epsilon, delta):
    words = replacement_text(epsilon, delta).split()
    assert words[:4] == ["never", "more", "than", "epsilon"]
    assert 2 * epsilon <= float(words[4]) <= 2.02 * epsilon + 0.001
    assert (1 + math.exp(epsilon)) * delta <= float(words[-1]) <= 1.01 * (1 + math.exp(epsilon)) * delta


@pytest.mark.parametrize(("epsilon", "delta"), [(math.inf, 1e-5), (1e4, 1e-5), (20.0, 1e-5), (0.1, 0.5)])
def test_a_replacement_that_delta_swallows_is_not_bounded(epsilon, delta):
    assert replacement_text(epsilon, delta) == "not bounded"


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_the_bound_of_a_replacement_holds_for_gaussian_noise(scale):
    ledger = PrivacyLedger(delta=1e-5)
    ledger.charge(GaussianRelease(noise_multiplier=1 / scale))
    epsilon = ledger.epsilon(exact=True)
    # A shift of two sensitivities, exactly (Balle and Wang, 2018, Theorem 8), at the epsilon of the text.
    shift, large = 2 * scale, 2 * epsilon
    needed = norm.cdf(shift / 2 - large / shift) - math.exp(large) * norm.cdf(-shift / 2 - large / shift)
    assert needed <= float(replacement_text(epsilon, 1e-5).split()[-1])
