"""Filling with constants and with what is learned of a column."""

from __future__ import annotations

import statistics
from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from lightning_privacy import PrivacyLedger
from lightning_privacy.errors import ConfigurationError, PrivacyBudgetExceeded
from lightning_privacy.preparation import Context, Preparation
from lightning_privacy.preparation.missing import FillConstant, FillMean, FillMedian, FillMode, MissingIndicator

BOUNDS = {"age": [0, 120]}
CATEGORIES = {"place": ["Ulm", "Bonn", "Oslo"]}


def _run(step, table, **context):
    step.fit(table.lazy(), Context(**context))
    return step.run(table)


def _people(rows=3000, seed=0):
    rng = np.random.default_rng(seed)
    place = rng.choice(["Ulm", "Bonn", "Oslo"], rows, p=[0.2, 0.5, 0.3]).tolist()
    age = rng.integers(18, 90, rows).tolist()
    gone = rng.random((rows, 2)) < 0.15
    return pl.DataFrame(
        {
            "age": [None if miss else value for value, miss in zip(age, gone[:, 0], strict=True)],
            "place": [None if miss else value for value, miss in zip(place, gone[:, 1], strict=True)],
        }
    )


def test_each_way_fills_what_is_missing_and_nothing_else():
    table = _people()
    ages, places = (table[name].drop_nulls().to_list() for name in ("age", "place"))
    for step, name, value in [
        (FillConstant({"age": -1}), "age", -1),
        (FillMedian("age"), "age", round(statistics.median(ages))),
        (FillMean("age"), "age", round(statistics.fmean(ages))),
        (FillMode("place"), "place", statistics.mode(places)),
    ]:
        filled = _run(step, table)
        expected = [value if given is None else given for given in table[name]]
        assert filled[name].to_list() == expected
        assert filled.schema == table.schema
        assert step.report().changed == {name: table[name].null_count()}


def test_floats_are_not_rounded_and_nan_is_missing():
    table = pl.DataFrame({"x": [1.0, 2.5, float("nan"), None]})
    assert _run(FillMean("x"), table)["x"].to_list() == [1.0, 2.5, 1.75, 1.75]
    assert _run(FillConstant({"x": 0}), table)["x"].to_list() == [1.0, 2.5, 0.0, 0.0]
    assert _run(MissingIndicator("x"), table)["x_missing"].to_list() == [False, False, True, True]


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_dates_and_moments_have_medians(zone):
    days = pl.DataFrame({"t": [date(2020, 1, 1), None, date(2020, 1, 3)]})
    assert _run(FillMedian("t"), days)["t"][1] == date(2020, 1, 2)
    moments = pl.DataFrame({"t": [datetime(2020, 1, 1, tzinfo=UTC), None, datetime(2020, 1, 1, 2, tzinfo=UTC)]})
    kind = pl.Datetime("ms", zone)
    moments = moments.with_columns(pl.col("t").dt.convert_time_zone("UTC").dt.replace_time_zone(None))
    if zone:
        moments = moments.with_columns(pl.col("t").dt.replace_time_zone("UTC").dt.convert_time_zone(zone))
    moments = moments.with_columns(pl.col("t").cast(kind))
    filled = _run(FillMedian("t"), moments)
    assert filled.schema["t"] == kind
    assert (filled["t"][1] - filled["t"][0]).total_seconds() == 3600


def test_the_mode_of_several_is_the_smallest_whatever_the_order():
    for values in (["b", "a", None], ["a", "b", None]):
        assert _run(FillMode("x"), pl.DataFrame({"x": values}))["x"][2] == "a"
    assert _run(FillMode("x"), pl.DataFrame({"x": [True, True, None]}))["x"][2] is True
    counted = _run(FillMode("x", categories={"x": ["a"]}), pl.DataFrame({"x": ["z", "z", "a", None]}))
    assert counted["x"].to_list() == ["z", "z", "a", "a"]


@pytest.mark.parametrize("kind", [pl.Categorical(), pl.Enum(["Bonn", "Oslo", "Ulm"])], ids=["categorical", "enum"])
@pytest.mark.parametrize("private", [False, True])
def test_categories_of_polars_will_do(kind, private):
    table = _people().with_columns(pl.col("place").cast(kind))
    ledger = PrivacyLedger(delta=1e-6) if private else None
    filled = _run(FillMode("place", categories=CATEGORIES, epsilon=1.0), table, ledger=ledger)
    assert filled.schema["place"] == kind
    assert filled["place"].null_count() == 0
    assert (
        filled["place"].to_list().count("Bonn") == table["place"].to_list().count("Bonn") + table["place"].null_count()
    )


@pytest.mark.parametrize(
    ("step", "name"),
    [
        (FillMedian("age", bounds=BOUNDS, epsilon=1.0), "age"),
        (FillMean("age", bounds=BOUNDS, epsilon=1.0), "age"),
        (FillMode("place", categories=CATEGORIES, epsilon=1.0), "place"),
    ],
    ids=["median", "mean", "mode"],
)
def test_p33_what_is_learned_of_private_rows_is_charged_and_close(step, name):
    """With 2,500 values at epsilon 1 each is right but for a year, with a probability of less than 1e-9 to fail."""
    table = _people()
    exact = {"fill median": FillMedian, "fill mean": FillMean, "fill mode": FillMode}[step.name](name)
    ledger = PrivacyLedger(delta=1e-9)
    filled, _ = Preparation([step]).fit_apply(table, Context(ledger=ledger))
    assert ledger.epsilon(exact=True) == pytest.approx(1.0, rel=2e-3)
    where = table[name].is_null().arg_max()
    value, wanted = filled[name][where], _run(exact, table)[name][where]
    assert value == wanted if name == "place" else abs(value - wanted) <= 2


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (FillMedian("age", epsilon=1.0), "needs public bounds"),
        (FillMean("age", epsilon=1.0), "needs public bounds"),
        (FillMode("place", epsilon=1.0), "needs public categories"),
        (FillMedian("age", bounds=BOUNDS), "needs epsilon"),
        (FillMode("place", categories=CATEGORIES), "needs epsilon"),
    ],
    ids=["median", "mean", "mode", "median epsilon", "mode epsilon"],
)
def test_p33_without_bounds_categories_or_epsilon_nothing_is_learned(step, message):
    ledger = PrivacyLedger(delta=1e-6)
    for fit in (lambda: step.fit(_people().lazy(), Context(ledger=ledger)), lambda: _pipeline(step, ledger)):
        with pytest.raises(ConfigurationError, match=message):
            fit()
    assert ledger.history == []


def _pipeline(step, ledger):
    Preparation([step]).fit_apply(_people(), Context(ledger=ledger))


def test_p33_constants_and_marks_are_free():
    ledger = PrivacyLedger(delta=1e-6, budget=0.01)
    Preparation([MissingIndicator("age"), FillConstant({"age": 0})]).fit_apply(_people(), Context(ledger=ledger))
    assert (ledger.history, ledger.caveats) == ([], ())


def test_p30_the_budget_is_asked_for_all_columns_before_one_is_read():
    table = _people().with_columns(other=pl.col("age"))
    ledger = PrivacyLedger(delta=1e-6, budget=0.3)
    step = FillMedian(["age", "other"], bounds={"age": [0, 120], "other": [0, 120]}, epsilon=0.2)
    with pytest.raises(PrivacyBudgetExceeded, match="fill median"):
        _pipeline_of(step, table, ledger)
    assert ledger.history == []


def _pipeline_of(step, table, ledger):
    Preparation([step]).fit_apply(table, Context(ledger=ledger))


def test_new_rows_get_what_was_learned_of_the_old_ones():
    step = FillMedian("age")
    step.fit(pl.LazyFrame({"age": [1, 2, 3]}), Context())
    table = pl.DataFrame({"age": [None, 9, None]}, schema={"age": pl.Int64})
    assert step.apply(table.lazy()).collect()["age"].to_list() == [2, 9, 2]
    assert_frame_equal(pl.concat(Preparation([step]).stream(table, rows=1)), pl.DataFrame({"age": [2, 9, 2]}))
    with pytest.raises(ConfigurationError, match="must be fitted"):
        FillMedian("age").apply(table.lazy())


@pytest.mark.parametrize("step", [FillMedian("x"), FillMean("x"), FillMode("x")], ids=["median", "mean", "mode"])
@pytest.mark.parametrize("kind", [pl.Float64, pl.Null, pl.Int64])
def test_a_column_without_values_is_named(step, kind):
    table = pl.DataFrame({"x": pl.Series([None, None], dtype=kind), "y": [1, 2]})
    with pytest.raises(ConfigurationError, match="every value of column 'x' is missing"):
        step.fit(table.lazy(), Context())


def test_a_column_of_none_of_its_categories_is_named():
    table = pl.DataFrame({"x": ["z", None]})
    with pytest.raises(ConfigurationError, match="missing or none of its categories"):
        FillMode("x", categories={"x": ["a"]}).fit(table.lazy(), Context())


def test_a_column_without_values_can_get_a_constant():
    table = pl.DataFrame({"x": [None, None], "y": [1, 2]})
    assert _run(FillConstant({"x": "unknown"}), table)["x"].to_list() == ["unknown", "unknown"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FillConstant({}), "values must map"),
        (lambda: FillConstant({"x": None}), "values must map"),
        (lambda: MissingIndicator("x", suffix=""), "suffix"),
        (lambda: MissingIndicator([]), "at least one column"),
        (lambda: FillMedian("x", epsilon=-1), "epsilon"),
        (lambda: FillMedian("x", bounds={"x": [1, 0]}), "lower one first"),
        (lambda: FillMode("x", categories={"x": []}), "different values, at least one"),
        (lambda: FillMode("x", categories={"x": ["a", "a"]}), "different values, at least one"),
        (lambda: FillMode("x", categories={"y": ["a"]}), "'y', which is not among the columns of this step"),
        (lambda: FillMode("x", categories=["a"]), "categories must map"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (FillConstant({"age": "old"}), "can't hold 'old'"),
        (FillConstant({"agee": 1}), "did you mean 'age'"),
        (FillMedian("place"), "only numbers, dates and moments"),
        (FillMode("place", categories={"place": [1, 2]}), "not of its type"),
        (MissingIndicator("age", suffix="_gone"), "already"),
    ],
    ids=["constant", "unknown", "median", "mode", "indicator"],
)
def test_what_does_not_fit_the_table_is_named(step, message):
    table = _people(50).with_columns(age_gone=pl.lit(value=True))
    with pytest.raises(ConfigurationError, match=message):
        _run(step, table)
