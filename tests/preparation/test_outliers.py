"""Limits, declared and learned, and what is done with what lies outside."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from lightning_privacy import PrivacyLedger
from lightning_privacy.errors import ConfigurationError, PrivacyBudgetExceeded
from lightning_privacy.preparation import Context, Preparation
from lightning_privacy.preparation.outliers import DeclaredLimits, RobustLimits


def _fitted(step, table, **context):
    step.fit(table.lazy(), Context(**context))
    return step


def _ages(rows=4000, wrong=40, seed=0):
    rng = np.random.default_rng(seed)
    ages = np.clip(rng.normal(40, 12, rows), 1, 99).round().astype(int)
    where = rng.choice(rows, wrong, replace=False)
    ages[where] = rng.integers(200, 999, wrong)
    truth = np.zeros(rows, dtype=bool)
    truth[where] = True
    return pl.DataFrame({"age": ages}), truth


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("null", [None, 0, 50, 120, None, None]),
        ("clip", [0, 0, 50, 120, 120, None]),
        ("drop", [0, 50, 120, None]),
    ],
)
@pytest.mark.parametrize("dtype", [pl.Int64, pl.Int8, pl.Float64, pl.UInt8])
def test_declared_limits(action, expected, dtype):
    low = 0 if dtype == pl.UInt8 else -3
    if dtype == pl.UInt8 and action != "drop":
        expected = [0, *expected[1:]]
    elif dtype == pl.UInt8:
        expected = [0, *expected]
    table = pl.DataFrame({"age": pl.Series([low, 0, 50, 120, 127, None], dtype=dtype)})
    cleaned = DeclaredLimits({"age": [0, 120]}, action=action).run(table)
    assert cleaned["age"].to_list() == expected
    assert cleaned.schema["age"] == dtype


def test_flags_are_a_column_of_their_own():
    table = pl.DataFrame({"age": [-1, 5, None]})
    flagged = DeclaredLimits({"age": [0, 120]}, action="flag").run(table)
    assert flagged.rows() == [(-1, True), (5, False), (None, False)]


def test_what_is_not_a_finite_number_is_outside():
    table = pl.DataFrame({"x": [float("nan"), float("inf"), float("-inf"), 0.5]})
    assert DeclaredLimits({"x": [0, 1]}).run(table)["x"].to_list() == [None, None, None, 0.5]
    assert DeclaredLimits({"x": [0, 1]}, action="clip").run(table)["x"].to_list() == [None, 1.0, 0.0, 0.5]


def test_whole_numbers_are_clipped_to_whole_numbers_inside_the_limits():
    table = pl.DataFrame({"x": [0, 1, 9, 10]})
    assert DeclaredLimits({"x": [0.5, 9.5]}, action="clip").run(table)["x"].to_list() == [1, 1, 9, 9]


@pytest.mark.parametrize(
    "limits", [["1990-01-01", "2020-12-31"], [date(1990, 1, 1), date(2020, 12, 31)]], ids=["iso", "date"]
)
def test_dates_and_moments_have_limits_too(limits):
    days = pl.DataFrame({"t": [date(1066, 10, 14), date(1990, 1, 1), date(2020, 12, 31), date(2999, 1, 1)]})
    expected = [None, date(1990, 1, 1), date(2020, 12, 31), None]
    assert DeclaredLimits({"t": limits}).run(days)["t"].to_list() == expected
    clipped = DeclaredLimits({"t": limits}, action="clip").run(days)["t"].to_list()
    assert clipped == [date(1990, 1, 1), date(1990, 1, 1), date(2020, 12, 31), date(2020, 12, 31)]
    moments = pl.DataFrame({"t": [datetime(1989, 12, 31, 23, tzinfo=UTC), datetime(1990, 1, 1, 1, tzinfo=UTC)]})
    assert DeclaredLimits({"t": limits}).run(moments)["t"].to_list() == [None, datetime(1990, 1, 1, 1, tzinfo=UTC)]


def test_fences_are_tukeys():
    """By numpy, from the definition."""
    table, _ = _ages()
    first, third = np.quantile(table["age"].to_numpy(), [0.25, 0.75])
    step = _fitted(RobustLimits("age", factor=2.0), table)
    assert step.limits["age"] == (first - 2 * (third - first), third + 2 * (third - first))
    step = _fitted(RobustLimits("age", method="mad"), table)
    middle = np.median(table["age"])
    reach = 3 * 1.4826 * np.median(np.abs(table["age"].to_numpy() - middle))
    assert step.limits["age"] == pytest.approx((middle - reach, middle + reach))


@pytest.mark.parametrize("method", ["iqr", "mad"])
@pytest.mark.parametrize("private", [False, True], ids=["exact", "private"])
def test_planted_outliers_are_found(method, private):
    table, truth = _ages()
    ledger = PrivacyLedger(delta=1e-6) if private else None
    step = RobustLimits("age", method=method, bounds={"age": [0, 1000]}, epsilon=1.0)
    found = _fitted(step, table, ledger=ledger).run(table)["age"].is_null().to_numpy()
    assert found[truth].all()
    assert found[~truth].mean() < 0.01


def test_p33_quartiles_of_private_rows_go_through_the_ledger():
    table, _ = _ages()
    table = table.with_columns(other=pl.col("age") * 2)
    ledger = PrivacyLedger(delta=1e-6)
    bounds = {"age": [0, 1000], "other": [0, 2000]}
    Preparation([RobustLimits(["age", "other"], bounds=bounds, epsilon=0.25)]).fit_apply(table, Context(ledger=ledger))
    assert sum(count for _, count, _ in ledger.history) == 4
    assert ledger.epsilon(exact=True) == pytest.approx(0.5, rel=2e-3)


def test_p33_without_bounds_or_epsilon_nothing_is_learned():
    table, _ = _ages()
    ledger = PrivacyLedger(delta=1e-6)
    with pytest.raises(ConfigurationError, match="needs public bounds"):
        _fitted(RobustLimits("age", epsilon=1.0), table, ledger=ledger)
    with pytest.raises(ConfigurationError, match="needs epsilon"):
        _fitted(RobustLimits("age", bounds={"age": [0, 1000]}), table, ledger=ledger)
    assert ledger.history == []


def test_p30_a_budget_that_is_too_small_stops_before_the_step():
    table, _ = _ages()
    ledger = PrivacyLedger(delta=1e-6, budget=0.4)
    steps = [RobustLimits("age", bounds={"age": [0, 1000]}, epsilon=0.5)]
    with pytest.raises(PrivacyBudgetExceeded, match=r"step 1 of the preparation \(robust limits\) was not begun"):
        Preparation(steps).fit_apply(table, Context(ledger=ledger))
    assert ledger.history == []


def test_declared_limits_are_free():
    table, _ = _ages()
    ledger = PrivacyLedger(delta=1e-6, budget=0.1)
    Preparation([DeclaredLimits({"age": [0, 120]})]).fit_apply(table, Context(ledger=ledger))
    assert (ledger.history, ledger.caveats) == ([], ())


def test_new_rows_are_held_to_the_limits_of_the_old_ones():
    step = _fitted(RobustLimits("age"), pl.DataFrame({"age": [30, 35, 40, 45, 50]}))
    assert step.apply(pl.LazyFrame({"age": [40, 400, None]})).collect()["age"].to_list() == [40, None, None]
    batches = list(Preparation([step]).stream(pl.DataFrame({"age": [40, 400, None]}), rows=1))
    assert_frame_equal(pl.concat(batches), pl.DataFrame({"age": [40, None, None]}))


def test_limits_of_dates_read_as_dates():
    days = [date(2020, 1, day) for day in range(1, 29)]
    step = _fitted(RobustLimits("t"), pl.DataFrame({"t": days}))
    assert step.report().learned["t"].startswith("2019-12-")
    wrong = pl.DataFrame({"t": [date(2020, 1, 5), date(2055, 1, 1)]})
    assert step.run(wrong)["t"].to_list() == [date(2020, 1, 5), None]


@pytest.mark.parametrize("values", [[None, None], [float("nan")]], ids=["missing", "nan"])
def test_a_column_without_values_is_named(values):
    table = pl.DataFrame({"age": pl.Series(values, dtype=pl.Float64), "other": [1.0] * len(values)})
    with pytest.raises(ConfigurationError, match="every value of column 'age' is missing"):
        _fitted(RobustLimits("age"), table)
    ledger = PrivacyLedger(delta=1e-6)
    bounds = {"age": [0, 1], "other": [0, 1]}
    with pytest.raises(ConfigurationError, match="every value of column 'age' is missing"):
        _fitted(RobustLimits(["other", "age"], bounds=bounds, epsilon=1.0), table, ledger=ledger)
    assert ledger.history == []


def test_a_column_without_spread_is_named():
    table = pl.DataFrame({"age": [40] * 20 + [41, 39]})
    with pytest.raises(ConfigurationError, match="the middle half of column 'age' is one value"):
        _fitted(RobustLimits("age"), table)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DeclaredLimits({}), "at least one column"),
        (lambda: DeclaredLimits({"age": [120, 0]}), "the lower one first"),
        (lambda: DeclaredLimits({"age": [0, float("nan")]}), "finite number or a date"),
        (lambda: DeclaredLimits({"age": [0]}), r"must be \[lowest, highest\]"),
        (lambda: DeclaredLimits({"age": ["young", "old"]}), "a date such as"),
        (lambda: DeclaredLimits([0, 1]), "bounds must map columns"),
        (lambda: DeclaredLimits({"age": [0, 1]}, action="fix"), "action must be one of"),
        (lambda: RobustLimits([]), "at least one column"),
        (lambda: RobustLimits("age", method="sd"), "method must be one of"),
        (lambda: RobustLimits("age", factor=0), "factor"),
        (lambda: RobustLimits("age", epsilon=0), "epsilon"),
        (lambda: RobustLimits("age", bounds={"agee": [0, 1]}), "'agee', which is not among"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_a_column_of_text_is_named():
    with pytest.raises(ConfigurationError, match="only numbers, dates and moments"):
        _fitted(RobustLimits("name"), pl.DataFrame({"name": ["a"]}))
    with pytest.raises(ConfigurationError, match="only numbers, dates and moments"):
        DeclaredLimits({"name": [0, 1]}).run(pl.DataFrame({"name": ["a"]}))
    with pytest.raises(ConfigurationError, match="which the table does not have"):
        DeclaredLimits({"name": [0, 1]}).run(pl.DataFrame({"x": ["a"]}))
