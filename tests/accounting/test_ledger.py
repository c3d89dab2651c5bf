from __future__ import annotations

import contextlib
import copy
import io
import math
from typing import Any

import pytest
import torch
from dp_accounting.pld import PLDAccountant
from dp_accounting.privacy_accountant import NeighboringRelation
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_privacy.accounting import (
    GaussianRelease,
    LaplaceRelease,
    NonPrivate,
    PrivacyLedger,
    PureRelease,
    RandomizedResponseRelease,
    Release,
    SampledGaussian,
    SelectionRelease,
    TruncatedSampledGaussian,
    calibrate_noise,
)
from lightning_privacy.accounting.epsilon_text import replacement_text
from lightning_privacy.errors import CheckpointError, ConfigurationError, PrivacyBudgetExceeded

STEP = SampledGaussian(6.0, 0.1)

# Few and narrow distributions, so that many examples stay cheap.
RELEASES = st.sampled_from(
    [
        STEP,
        SampledGaussian(9.0, 0.05),
        LaplaceRelease(0.05),
        SelectionRelease(0.05),
        PureRelease(0.05),
        RandomizedResponseRelease(0.1, 3),
        GaussianRelease(30.0),
    ]
)
CHARGES = st.lists(st.tuples(RELEASES, st.integers(1, 40), st.sampled_from([None, "a", "b"])), max_size=6)
ANY_RELEASE = st.one_of(
    st.builds(SampledGaussian, st.floats(0, 1e3), st.floats(1e-6, 1)),
    st.builds(
        TruncatedSampledGaussian,
        st.floats(0, 1e3),
        st.floats(1e-6, 1),
        st.integers(1, 10**9),
        st.integers(1, 10**6),
    ),
    st.builds(GaussianRelease, st.floats(0, 1e3)),
    st.builds(LaplaceRelease, st.floats(1e-6, 100)),
    st.builds(SelectionRelease, st.floats(1e-6, 100)),
    st.builds(PureRelease, st.floats(1e-6, 100)),
    st.builds(RandomizedResponseRelease, st.floats(1e-6, 100), st.integers(2, 1000)),
    st.builds(NonPrivate, st.text(min_size=1).filter(str.strip)),
)


def charged(charges, **options: Any) -> PrivacyLedger:
    ledger = PrivacyLedger(**({"delta": 1e-5} | options))
    for release, count, label in charges:
        ledger.charge(release, count, label)
    return ledger


def through_torch(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_empty_ledger_spent_nothing() -> None:
    ledger = PrivacyLedger(delta=1e-5)
    assert ledger.epsilon() == ledger.epsilon(exact=True) == ledger.epsilon(1e-3) == 0.0
    assert ledger.history == []
    assert "Nothing was released" in ledger.summary()


def test_exact_figure_is_the_accountants() -> None:
    ledger = charged([(STEP, 100, None), (LaplaceRelease(0.1), 2, None), (STEP, 50, None)])
    accountant = PLDAccountant(NeighboringRelation.REPLACE_SPECIAL)
    accountant.compose(STEP.event(), 150).compose(LaplaceRelease(0.1).event(), 2)
    assert ledger.epsilon(exact=True) == accountant.get_epsilon(1e-5)
    assert ledger.epsilon(1e-3) == accountant.get_epsilon(1e-3)
    assert ledger.state_dict()["epsilon"] == accountant.get_epsilon(1e-5)
    assert f"epsilon {math.ceil(accountant.get_epsilon(1e-5) * 1000) / 1000:.3f} at delta" in ledger.summary()
    assert accountant.get_epsilon(1e-5) <= ledger.epsilon() <= 1.01 * accountant.get_epsilon(1e-5)


def test_a_hundred_thousand_steps_one_by_one_are_one_group() -> None:
    ledger = PrivacyLedger(delta=1e-5)
    for _ in range(100_000):
        ledger.charge(STEP)
    assert ledger.groups == ((STEP, 100_000),)
    assert ledger.history == [(STEP, 100_000, None)]


@settings(max_examples=15, deadline=None)
@given(CHARGES, st.randoms(use_true_random=False))
def test_the_order_of_charges_does_not_matter(charges, random) -> None:
    shuffled = list(charges)
    random.shuffle(shuffled)
    one, other = charged(charges), charged(shuffled)
    assert dict(one.groups) == dict(other.groups)
    assert sorted(map(repr, one.history)) == sorted(map(repr, other.history))
    assert one.epsilon(exact=True) == pytest.approx(other.epsilon(exact=True), rel=1e-7)


@settings(max_examples=15, deadline=None)
@given(CHARGES, RELEASES, st.integers(1, 30))
def test_charging_never_lowers_epsilon(charges, release: Release, count: int) -> None:
    ledger = charged(charges)
    before = ledger.epsilon(exact=True)
    ledger.charge(release, count)
    after = ledger.epsilon(exact=True)
    assert after >= before * (1 - 1e-9)
    assert after <= ledger.epsilon() * (1 + 1e-12)
    assert ledger.epsilon() <= 1.01 * after


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(ANY_RELEASE, st.integers(1, 10**6), st.none() | st.text()), max_size=5),
    st.lists(st.text(min_size=1).filter(str.strip)),
    st.floats(1e-12, 0.5),
)
def test_state_round_trip(charges, caveats, delta: float) -> None:
    ledger = charged(charges, delta=delta, unit="client")
    for caveat in caveats:
        ledger.add_caveat(caveat)
    # The figure is not the subject here, and some of these compositions would take long.
    ledger.epsilon = lambda exact=False: 1.0  # type: ignore[method-assign]
    state = through_torch(ledger.state_dict())
    other = PrivacyLedger(delta=delta, unit="client")
    other.load_state_dict(state)
    assert other.history == ledger.history
    assert other.groups == ledger.groups
    assert other.caveats == ledger.caveats


def test_a_restored_ledger_has_the_same_figures_and_goes_on() -> None:
    whole = charged([(LaplaceRelease(0.1), 1, "counts"), (STEP, 30, None)])
    half = charged([(LaplaceRelease(0.1), 1, "counts"), (STEP, 10, None)])
    other = PrivacyLedger(delta=1e-5)
    other.charge(GaussianRelease(50.0))
    other.load_state_dict(through_torch(half.state_dict()))
    other.charge(STEP, 20)
    assert other.epsilon(exact=True) == whole.epsilon(exact=True)
    assert other.history == whole.history


def _damaged() -> list[tuple[str, Any, str]]:
    return [
        ("schema", 99, "schema 99"),
        ("unit", "client", "'client'"),
        ("unit", 5, "unit.*5"),
        ("delta", 1e-6, "delta 1e-06"),
        ("delta", "x", "delta.*'x'"),
        ("budget", -1.0, "budget.*-1.0"),
        ("budget", True, "budget.*True"),
        ("epsilon", math.nan, "epsilon.*nan"),
        ("epsilon", None, "epsilon.*None"),
        ("caveats", "text", "caveats.*'text'"),
        ("caveats", [1], r"caveats.*\[1\]"),
        ("releases", {}, "releases.*dict"),
        ("releases", [3], r"releases\[0\].*3"),
        ("releases", [{"release": STEP.to_dict(), "count": 0, "label": None}], "count.*0"),
        ("releases", [{"release": STEP.to_dict(), "count": 1.5, "label": None}], "count.*1.5"),
        ("releases", [{"release": STEP.to_dict(), "count": 1, "label": 2}], "label.*2"),
        ("releases", [{"release": {"kind": "magic"}, "count": 1, "label": None}], "unknown release kind 'magic'"),
        ("releases", [{"release": None, "count": 1, "label": None}], "mapping"),
        (
            "releases",
            [{"release": {"kind": "laplace", "epsilon": -1.0}, "count": 1, "label": None}],
            "epsilon.*-1.0",
        ),
        ("surprise", 1, "unknown entries: surprise"),
    ]


@pytest.mark.parametrize(("key", "value", "message"), _damaged())
def test_damaged_and_foreign_states_are_refused_and_change_nothing(key: str, value: Any, message: str) -> None:
    ledger = charged([(STEP, 3, None)])
    ledger.add_caveat("mine")
    before = ledger.state_dict()
    state = charged([(STEP, 5, "x")]).state_dict() | {key: value}
    with pytest.raises(CheckpointError, match=message):
        ledger.load_state_dict(state)
    assert ledger.state_dict() == before


@pytest.mark.parametrize("key", ["schema", "unit", "delta", "budget", "epsilon", "releases", "caveats"])
def test_missing_entries_are_named(key: str) -> None:
    state = charged([]).state_dict()
    del state[key]
    with pytest.raises(CheckpointError, match=f"lacks {key}"):
        PrivacyLedger(delta=1e-5).load_state_dict(state)


def test_a_state_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(CheckpointError, match="list"):
        PrivacyLedger(delta=1e-5).load_state_dict([1])  # type: ignore[arg-type]


def test_p30_the_charge_that_would_break_the_budget_raises_and_charges_nothing() -> None:
    ledger = PrivacyLedger(delta=1e-5, budget=0.5)
    steps = 0
    while ledger.affords(STEP):
        ledger.charge(STEP)
        steps += 1
    with pytest.raises(PrivacyBudgetExceeded, match=r"Gaussian, sampled.*the budget is 0\.5"):
        ledger.charge(STEP)
    # Everything up to here is within, and the refused one would not have been.
    assert ledger.count(STEP) == steps
    assert ledger.epsilon(exact=True) <= 0.5
    assert charged([(STEP, steps + 1, None)]).epsilon(exact=True) > 0.5
    assert not ledger.affords(STEP)
    assert ledger.affordable(STEP, 1000) == 0
    # Smaller releases may still fit.
    before = ledger.state_dict()
    with pytest.raises(PrivacyBudgetExceeded):
        ledger.charge(LaplaceRelease(1.0), label="late")
    assert ledger.state_dict() == before


def test_p30_affordable_counts_what_can_be_charged() -> None:
    ledger = PrivacyLedger(delta=1e-5, budget=0.5)
    ledger.charge(LaplaceRelease(0.05))
    many = ledger.affordable(STEP, 10**6)
    assert ledger.affordable(STEP, 5) == 5
    assert ledger.affords(STEP, many)
    assert not ledger.affords(STEP, many + 1)
    with pytest.raises(PrivacyBudgetExceeded):
        ledger.charge(STEP, many + 1)
    ledger.charge(STEP, many)
    assert PrivacyLedger(delta=1e-5).affordable(STEP, 123) == 123


@pytest.mark.parametrize("one_by_one", [True, False])
def test_calibrated_noise_fits_exactly_its_steps(one_by_one: bool) -> None:
    ledger = PrivacyLedger(delta=1e-5, budget=0.7)
    ledger.charge(LaplaceRelease(0.05), label="class counts")
    sigma = calibrate_noise(epsilon=0.7, delta=1e-5, sample_rate=0.1, steps=60, spent=ledger)
    step = SampledGaussian(sigma, 0.1)
    assert ledger.affordable(step, 60) == 60
    for count in [1] * 60 if one_by_one else [60]:
        ledger.charge(step, count)
        assert ledger.epsilon(exact=True) <= 0.7
    assert not ledger.affords(step)
    assert ledger.epsilon(exact=True) > 0.7 * 0.997


@pytest.mark.parametrize("release", [NonPrivate("raw counts"), GaussianRelease(0), SampledGaussian(0, 0.1)])
def test_what_is_not_private_has_infinite_epsilon(release: Release) -> None:
    ledger = charged([(STEP, 2, None), (release, 1, None)])
    assert ledger.epsilon() == ledger.epsilon(exact=True) == ledger.epsilon(1e-3) == math.inf
    assert "NOT PRIVATE" in ledger.summary()
    assert through_torch(ledger.state_dict())["epsilon"] == math.inf
    within = PrivacyLedger(delta=1e-5, budget=1e6)
    with pytest.raises(PrivacyBudgetExceeded, match="inf"):
        within.charge(release)
    assert not within.affords(release)
    assert within.history == []


def test_mark_not_private_states_the_reason() -> None:
    ledger = PrivacyLedger(delta=1e-5)
    ledger.mark_not_private("the checkpoint was chosen on training accuracy")
    assert ledger.epsilon() == math.inf
    assert "chosen on training accuracy" in ledger.summary()


def test_p35_one_adjacency_and_the_replace_one_figure_apart() -> None:
    ledger = charged([(STEP, 20, "steps"), (RandomizedResponseRelease(0.5, 3), 1, "labels")])
    accountant = PLDAccountant(NeighboringRelation.REPLACE_ONE)
    accountant.compose(STEP.event(), 20).compose(RandomizedResponseRelease(0.5, 3).event())
    assert ledger.replace_one_epsilon() == accountant.get_epsilon(1e-5)
    assert ledger.replace_one_epsilon() > ledger.epsilon(exact=True)
    text = ledger.summary()
    assert "replaced by an empty one" in text
    assert f"epsilon {math.ceil(accountant.get_epsilon(1e-5) * 1000) / 1000:.3f}." in text
    ledger.charge(LaplaceRelease(0.1))
    assert ledger.replace_one_epsilon() is None
    assert "the exact figure is not known for Laplace (epsilon 0.1)." in ledger.summary()
    for other in (SelectionRelease(0.1), PureRelease(0.1)):
        ledger = charged([(other, 1, "a choice")])
        assert f"the exact figure is not known for {other.label}." in ledger.summary()
        assert replacement_text(ledger.epsilon(exact=True), ledger.delta) in ledger.summary()


def test_summary_says_what_how_often_and_what_share() -> None:
    ledger = charged([(STEP, 1500, "training"), (LaplaceRelease(0.05), 1, "class counts")], budget=9.0, unit="person")
    ledger.add_caveat("The noise can be recomputed from a seed.")
    ledger.add_caveat("The noise can be recomputed from a seed.")
    text = ledger.summary()
    assert text.count("recomputed from a seed") == 1
    for part in ("each person", "(budget 9)", "1e-05", "1,500", "training", "class counts", "Caveats", "share:"):
        assert part in text
    alone = [charged([(STEP, 1500, None)]), charged([(LaplaceRelease(0.05), 1, None)])]
    costs = [each.epsilon(exact=True) for each in alone]
    assert f"{costs[0] / sum(costs):.1%}" in text
    assert ledger.caveats == ("The noise can be recomputed from a seed.",)


def test_a_copy_is_independent() -> None:
    ledger = charged([(STEP, 3, None)], budget=2.0)
    ledger.epsilon()
    other = copy.deepcopy(ledger)
    other.charge(STEP, 5)
    assert ledger.count(STEP) == 3
    assert other.count(STEP) == 8
    assert other.epsilon() > ledger.epsilon()


def test_a_witness_knows_of_every_charge_before_it_counts() -> None:
    ledger, told = PrivacyLedger(delta=1e-5, budget=3.0), []

    def witness(release: Release, total: int) -> None:
        told.append((release, total, ledger.count(release)))

    ledger.charge(STEP, 2)
    ledger.tell(witness)
    ledger.charge(STEP, 3, label="a")
    with pytest.raises(PrivacyBudgetExceeded):
        ledger.charge(LaplaceRelease(9.0))
    assert told == [(STEP, 2, 2), (STEP, 5, 2)]
    restored = PrivacyLedger(delta=1e-5)
    restored.charge(LaplaceRelease(0.1), 4)
    told.clear()
    ledger.load_state_dict(restored.state_dict())
    assert told == [(LaplaceRelease(0.1), 4, 4)]
    ledger.tell(None)
    ledger.charge(STEP)
    assert len(told) == 1


def test_nothing_is_charged_that_the_witness_could_not_take() -> None:
    def full(release: Release, total: int) -> None:
        raise OSError("no space left")

    ledger = PrivacyLedger(delta=1e-5)
    ledger.tell(full)
    with pytest.raises(OSError, match="no space"):
        ledger.charge(STEP)
    assert ledger.groups == ()


def test_a_copy_has_no_witness() -> None:
    ledger, told = PrivacyLedger(delta=1e-5), []
    ledger.tell(lambda release, total: told.append(total))
    copy.deepcopy(ledger).charge(STEP)
    assert told == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PrivacyLedger(delta=0.0), "delta.*0.0"),
        (lambda: PrivacyLedger(delta=1.0), "delta.*1.0"),
        (lambda: PrivacyLedger(delta=1e-5, budget=0), "budget.*0"),
        (lambda: PrivacyLedger(delta=1e-5, unit=""), "unit.*''"),
        (lambda: PrivacyLedger(delta=1e-5).charge("step"), "release.*'step'"),
        (lambda: PrivacyLedger(delta=1e-5).charge(STEP, 0), "count.*0"),
        (lambda: PrivacyLedger(delta=1e-5).charge(STEP, label=3), "label.*3"),
        (lambda: PrivacyLedger(delta=1e-5).epsilon(2.0), "delta.*2.0"),
        (lambda: PrivacyLedger(delta=1e-5).affordable(STEP, 0), "limit.*0"),
        (lambda: PrivacyLedger(delta=1e-5).add_caveat(""), "text.*''"),
    ],
)
def test_bad_values_are_named(make, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_what_threads_charge_at_once_is_all_in_the_ledger(eager_threads):
    ledger = PrivacyLedger(delta=1e-6)
    eager_threads(lambda: [ledger.charge(LaplaceRelease(0.01)) for _ in range(1000)])
    assert ledger.count(LaplaceRelease(0.01)) == 16 * 1000


def test_threads_together_do_not_pass_the_budget(eager_threads):
    ledger = PrivacyLedger(delta=1e-6, budget=1.0)

    def charge():
        with contextlib.suppress(PrivacyBudgetExceeded):
            ledger.charge(LaplaceRelease(0.3))

    eager_threads(charge)
    assert ledger.epsilon(exact=True) <= 1.0
