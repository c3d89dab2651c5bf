"""Filling with what naive Bayes predicts, and the classifier of counts behind it."""

from __future__ import annotations

from datetime import date

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from scipy import sparse
from sklearn.naive_bayes import CategoricalNB

from lightning_privacy import PrivacyLedger
from lightning_privacy.errors import ConfigurationError, PrivacyBudgetExceeded
from lightning_privacy.preparation import Context, Preparation
from lightning_privacy.preparation.bayes_table import BayesTable
from lightning_privacy.preparation.fill_model import FillFromModel

NAMES = {"ada": "f", "bob": "m", "cleo": "f", "dan": "m"}
CATEGORIES = {"sex": ["f", "m"], "name": list(NAMES), "town": ["Ulm", "Bonn"]}


def _people(rows=3000, seed=0, missing=0.2):
    rng = np.random.default_rng(seed)
    name = rng.choice(list(NAMES), rows)
    sex = [NAMES[each] if rng.random() < 0.95 else rng.choice(["f", "m"]) for each in name]
    town = rng.choice(["Ulm", "Bonn"], rows)
    age = np.where(np.array(sex) == "f", rng.normal(60, 5, rows), rng.normal(30, 5, rows)).round().astype(int)
    truth = pl.DataFrame({"name": name, "sex": sex, "town": town, "age": age})
    holes = {column: rng.random(rows) < missing for column in ("sex", "age")}
    damaged = truth.with_columns(
        pl.when(pl.Series(hole)).then(None).otherwise(pl.col(column)).alias(column) for column, hole in holes.items()
    )
    return truth, damaged


def _fitted(step, table, **context):
    step.fit(table.lazy(), Context(**context))
    return step


@pytest.mark.parametrize("smoothing", [1.0, 0.3])
def test_the_probabilities_are_those_of_scikit_learn(smoothing):
    """CategoricalNB with the same pseudo-count; it takes the prior without one, hence so many rows of each class."""
    rng = np.random.default_rng(0)
    sizes, classes = (5, 3, 40), rng.integers(0, 4, 4000)
    columns = [(rng.integers(0, size, 4000) + classes) % size for size in sizes]
    model = BayesTable(num_classes=4, smoothing=smoothing)
    for column, size in zip(columns, sizes, strict=True):
        model.add(column, classes, num_values=size)
    prior = np.bincount(classes) + smoothing
    reference = CategoricalNB(alpha=smoothing, class_prior=prior / prior.sum(), min_categories=list(sizes))
    reference.fit(np.stack(columns, axis=1), classes)
    new = [rng.integers(0, size, 50) for size in sizes]
    np.testing.assert_allclose(model.predict(new), reference.predict_proba(np.stack(new, axis=1)), rtol=1e-9)
    np.testing.assert_array_equal(model.best(new), model.predict(new).argmax(axis=1))


def test_a_missing_or_unknown_value_says_nothing():
    model = BayesTable(num_classes=2)
    model.add(np.array([0, 0, 1]), np.array([0, 0, 1]), num_values=2)
    expected = np.array([3.0, 2.0]) / 5.0
    np.testing.assert_allclose(model.predict([np.array([-1, 7])]), [expected, expected])


def test_dense_and_sparse_counts_are_the_same_and_negative_ones_are_none():
    counts = np.array([[3.0, -2.0, 0.0], [0.5, 1.0, 4.0]])
    models = [BayesTable(num_classes=3) for _ in range(3)]
    models[0].add_counts(counts)
    models[1].add_counts(np.maximum(counts, 0))
    models[2].add_counts(sparse.csr_array(counts))
    new = [np.array([0, 1, -1])]
    for model in models[1:]:
        np.testing.assert_array_equal(model.predict(new), models[0].predict(new))


def test_bad_counts_are_named():
    model = BayesTable(num_classes=2)
    with pytest.raises(ConfigurationError, match=r"counts must have shape \(values, 2\)"):
        model.add_counts(np.ones((2, 3)))
    with pytest.raises(ConfigurationError, match="columns must be the 0"):
        model.predict([])
    with pytest.raises(ConfigurationError, match="smoothing"):
        BayesTable(num_classes=2, smoothing=0)


def test_categories_are_filled_from_what_goes_with_them():
    truth, table = _people()
    step = _fitted(FillFromModel("sex", ["name", "age"]), table)
    filled = step.run(table)
    holes = table["sex"].is_null()
    assert (filled["sex"] == truth["sex"]).filter(holes).mean() > 0.97
    assert_frame_equal(filled.filter(~holes), table.filter(~holes))
    assert step.report().changed == {"sex": holes.sum()}


def test_numbers_are_filled_with_the_mean_over_the_bins():
    truth, table = _people()
    filled = _fitted(FillFromModel("age", ["sex", "name"]), table).run(table)
    holes = table["age"].is_null()
    error = (filled["age"] - truth["age"]).filter(holes).abs().mean()
    constant = (truth["age"].filter(holes) - table["age"].median()).abs().mean()
    assert error < 0.5 * constant
    assert filled.schema == table.schema


def test_dates_can_be_filled_and_predict():
    days = [date(1950, 1, 1), date(1990, 1, 1)]
    table = pl.DataFrame({"born": days * 50 + [None], "era": ["old", "new"] * 50 + ["new"]})
    filled = _fitted(FillFromModel("born", ["era"], smoothing=0.01), table).run(table)
    assert filled["born"][-1] > date(1965, 1, 1)
    table = table.with_columns(era=pl.Series(["old", "new"] * 50 + [None]), born=pl.Series(days * 50 + [days[0]]))
    assert _fitted(FillFromModel("era", ["born"]), table).run(table)["era"][-1] == "old"


def test_without_any_predictor_it_is_the_most_frequent():
    table = pl.DataFrame({"x": ["a", "b", "b", None], "y": ["u", "v", "v", None]})
    assert _fitted(FillFromModel("x", ["y"]), table).run(table)["x"][3] == "b"


def test_p33_under_differential_privacy_the_counts_are_charged_and_good():
    truth, table = _people()
    ledger = PrivacyLedger(delta=1e-9)
    step = FillFromModel("sex", ["name", "town"], categories=CATEGORIES, epsilon=1.0)
    filled, _ = Preparation([step]).fit_apply(table, Context(ledger=ledger))
    assert ledger.epsilon(exact=True) == pytest.approx(1.0, rel=2e-3)
    assert [count for _, count, _ in ledger.history] == [2]
    holes = table["sex"].is_null()
    assert (filled["sex"] == truth["sex"]).filter(holes).mean() > 0.94


def test_p33_numbers_within_public_bounds():
    _, table = _people()
    ledger = PrivacyLedger(delta=1e-9)
    step = FillFromModel("age", ["sex"], categories={"sex": ["f", "m"]}, bounds={"age": [0, 100]}, epsilon=1.0)
    filled = _fitted(step, table, ledger=ledger).run(table)
    women = filled.filter(table["age"].is_null() & (table["sex"] == "f"))["age"]
    assert 55 <= women.mean() <= 65


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"categories": {"sex": ["f", "m"], "name": list(NAMES)}}, "needs epsilon"),
        ({"epsilon": 1.0}, "'sex' needs public categories"),
        ({"epsilon": 1.0, "categories": {"sex": ["f", "m"]}}, "'name' needs public categories"),
    ],
)
def test_p33_without_epsilon_or_categories_nothing_is_learned(arguments, message):
    _, table = _people(100)
    ledger = PrivacyLedger(delta=1e-9)
    with pytest.raises(ConfigurationError, match=message):
        _fitted(FillFromModel("sex", ["name"], **arguments), table, ledger=ledger)
    step = FillFromModel("sex", ["age"], epsilon=1.0, categories={"sex": ["f", "m"]})
    with pytest.raises(ConfigurationError, match="'age' needs public bounds"):
        _fitted(step, table, ledger=ledger)
    assert ledger.history == []


def test_p30_a_budget_for_one_predictor_is_none_for_two():
    _, table = _people(100)
    ledger = PrivacyLedger(delta=1e-9, budget=0.7)
    step = FillFromModel("sex", ["name", "town"], categories=CATEGORIES, epsilon=1.0)
    with pytest.raises(PrivacyBudgetExceeded, match=r"step 1 of the preparation \(fill from model\)"):
        Preparation([step]).fit_apply(table, Context(ledger=ledger))
    assert ledger.history == []


def test_new_rows_in_batches_are_filled_by_the_same_model():
    _, table = _people(500)
    step = _fitted(FillFromModel("sex", ["name"]), table)
    whole = step.run(table)
    assert_frame_equal(pl.concat(Preparation([step]).stream(table, rows=64)), whole)
    assert_frame_equal(step.apply(table.lazy()).collect(), whole)


@pytest.mark.parametrize(
    ("values", "message"),
    [([None, None, None], "every value of column 'x' is missing"), (["a", "a", None], "one value only, 'a'")],
    ids=["missing", "one"],
)
def test_a_column_with_nothing_to_learn_is_named(values, message):
    table = pl.DataFrame({"x": pl.Series(values, dtype=pl.String), "y": ["u", "v", "w"]})
    with pytest.raises(ConfigurationError, match=message):
        _fitted(FillFromModel("x", ["y"]), table)
    numbers = pl.DataFrame({"x": [1.0, 1.0, None], "y": ["u", "v", "w"]})
    with pytest.raises(ConfigurationError, match=r"one value only, 1\.0"):
        _fitted(FillFromModel("x", ["y"]), numbers)
    with pytest.raises(ConfigurationError, match="none of its categories"):
        _fitted(FillFromModel("y", ["x"], categories={"y": ["z", "q"]}), numbers)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FillFromModel("x", ["x", "y"]), "predictors has 'x'"),
        (lambda: FillFromModel("x", []), "at least one column"),
        (lambda: FillFromModel("x", ["y"], bins=0), "bins"),
        (lambda: FillFromModel("x", ["y"], epsilon=0), "epsilon"),
        (
            lambda: FillFromModel("x", ["y"], categories={"z": ["a"]}),
            "categories has 'z', which is not among the columns of this step: 'x', 'y'",
        ),
        (lambda: _fitted(FillFromModel("sex", ["nam"]), _people(9)[1]), "did you mean 'name'"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()
