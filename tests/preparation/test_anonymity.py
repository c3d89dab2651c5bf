"""k-anonymity and l-diversity: measured against a loop over all pairs of rows, and reached by suppression."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import polars as pl
import pytest

from lightning_privacy import PrivacyLedger
from lightning_privacy.errors import ConfigurationError, PrivacyViolation
from lightning_privacy.preparation import Context, Preparation, Roles
from lightning_privacy.preparation.anonymity import SuppressToK, anonymity

COLUMNS = ["age", "place"]


def _table(seed, rows=60):
    rng = np.random.default_rng(seed)

    def column(values, missing):
        return [None if rng.random() < missing else values[i] for i in rng.integers(len(values), size=rows)]

    return pl.DataFrame(
        {
            "who": [f"p{i}" for i in rng.integers(rows // 2, size=rows)],
            "age": column([20, 30, 40, 50], 0.1),
            "place": column(["a", "b", "c"], 0.2),
            "ill": column(["x", "y", "z"], 0.1),
        }
    )


def _loop(table, columns, sensitive, person):
    """Every row looks at every other row."""
    rows = table.to_dicts()
    k, distinct, entropy, alone = [], [], [], set()
    for row in rows:
        group = [other for other in rows if all(other[name] == row[name] for name in columns)]
        people = {other[person] for other in group} if person else group
        k.append(len(people))
        counts = Counter(other[sensitive] for other in group)
        distinct.append(len(counts))
        entropy.append(math.exp(-sum(n / len(group) * math.log(n / len(group)) for n in counts.values())))
        if len(people) == 1:
            alone.add(tuple(row[name] for name in columns))
    return min(k), min(distinct), min(entropy), len(alone)


@pytest.mark.parametrize("person", [None, "who"])
@pytest.mark.parametrize("seed", range(8))
def test_k_and_l_are_those_of_a_loop_over_all_rows(seed, person):
    table = _table(seed)
    measured = anonymity(table.lazy(), COLUMNS, sensitive=["ill"], person=person)
    k, distinct, entropy, alone = _loop(table, COLUMNS, "ill", person)
    assert (measured.k, measured.diversity, measured.singled_out) == (k, {"ill": distinct}, alone)
    assert measured.entropy_diversity["ill"] == pytest.approx(entropy)
    assert measured.people == (table.height if person is None else table["who"].n_unique())
    assert measured.classes == table.select(COLUMNS).n_unique()


def test_ten_rows_of_one_person_hide_nobody():
    table = pl.DataFrame({"who": ["a"] * 10 + ["b"], "age": [30] * 11})
    assert anonymity(table, ["age"]).k == 11
    assert anonymity(table, ["age"], person="who").k == 2
    assert anonymity(table.head(10), ["age"], person="who").k == 1


@pytest.mark.parametrize("action", ["drop", "blank"])
@pytest.mark.parametrize(("k", "diversity"), [(1, 1), (3, 1), (5, 2), (4, 3)])
@pytest.mark.parametrize("seed", range(4))
def test_suppression_reaches_k_and_l_and_takes_no_more_than_it_must(seed, k, diversity, action):
    table = _table(seed, rows=120)
    step = SuppressToK(k, columns=COLUMNS, diversity=diversity, sensitive=["ill"], person="who", action=action)
    step.fit(table.lazy(), Context())
    kept = step.run(table)
    measured = anonymity(kept, COLUMNS, sensitive=["ill"], person="who")
    assert measured.k >= k
    assert measured.diversity["ill"] >= diversity
    assert kept.rows() == _suppressed(table, k, diversity, blank=action == "blank")


def _suppressed(table, k, diversity, *, blank):
    """The same row by row."""

    def is_large(rows):
        return len({row["who"] for row in rows}) >= k and len({row["ill"] for row in rows}) >= diversity

    def class_of(row, rows):
        return [other for other in rows if all(other[name] == row[name] for name in COLUMNS)]

    rows = table.to_dicts()
    large = [is_large(class_of(row, rows)) for row in rows]
    if not blank:
        return [tuple(row.values()) for row, good in zip(rows, large, strict=True) if good]
    rows = [row if good else row | dict.fromkeys(COLUMNS) for row, good in zip(rows, large, strict=True)]
    return [tuple(row.values()) for row in rows if is_large(class_of(row, rows))]


def test_blank_rows_stay_when_there_are_enough_of_them():
    table = pl.DataFrame({"age": [1, 1, 2, 3], "ill": list("abcd")})
    step = SuppressToK(2, columns=["age"], action="blank")
    step.fit(table.lazy(), Context())
    assert step.run(table).rows() == [(1, "a"), (1, "b"), (None, "c"), (None, "d")]
    assert step.report().changed == {"age": 2}


def test_a_blank_row_that_is_alone_goes():
    table = pl.DataFrame({"age": [1, 1, 2], "ill": list("abc")})
    step = SuppressToK(2, columns=["age"], action="blank")
    step.fit(table.lazy(), Context())
    assert step.run(table).rows() == [(1, "a"), (1, "b")]


def test_new_rows_stay_when_their_class_was_large():
    step = SuppressToK(2, columns=["age"])
    step.fit(pl.LazyFrame({"age": [1, 1, 2, None, None]}), Context())
    assert step.apply(pl.LazyFrame({"age": [2, 1, None, 7]})).collect()["age"].to_list() == [1, None]


def test_columns_come_from_the_roles():
    table = pl.DataFrame({"who": ["a", "b", "b"], "age": [1, 2, 2], "label": [0, 0, 1]})
    roles = Roles(identifier="who", quasi_identifiers="age", label="label")
    step = SuppressToK(2)
    step.fit(table.lazy(), Context(roles=roles))
    assert step.run(table).height == 0  # two rows of one person are one person
    step = SuppressToK(1, diversity=2)
    step.fit(table.lazy(), Context(roles=roles))
    assert step.run(table)["who"].to_list() == ["b", "b"]


def test_p33_under_differential_privacy_it_is_refused_or_a_caveat():
    table = _table(0)
    ledger = PrivacyLedger(delta=1e-5)
    with pytest.raises(PrivacyViolation, match="compares rows"):
        Preparation([SuppressToK(2, columns=COLUMNS)]).fit_apply(table, Context(ledger=ledger))
    assert ledger.caveats == ()
    Preparation([SuppressToK(2, columns=COLUMNS, caveat=True)]).fit_apply(table, Context(ledger=ledger))
    assert "suppress to k" in ledger.caveats[0]


def test_when_nothing_is_left_the_pipeline_says_which_step():
    with pytest.raises(ConfigurationError, match=r"step 1 \(suppress to k\) left no row"):
        Preparation([SuppressToK(61, columns=["age"])]).fit_apply(_table(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k must be a whole number"),
        ({"k": 2, "diversity": 0}, "diversity"),
        ({"k": 2, "action": "hide"}, "action must be one of"),
        ({"k": 2, "columns": ["age", "age"]}, "twice"),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        SuppressToK(**arguments)


def test_what_is_missing_is_named():
    table = _table(0).lazy()
    with pytest.raises(ConfigurationError, match="no columns"):
        SuppressToK(2).fit(table, Context())
    with pytest.raises(ConfigurationError, match="needs a sensitive column"):
        SuppressToK(2, columns=COLUMNS, diversity=2).fit(table, Context())
    with pytest.raises(ConfigurationError, match="must be fitted"):
        SuppressToK(2, columns=COLUMNS).apply(table)
    with pytest.raises(ConfigurationError, match="no rows"):
        anonymity(table.filter(pl.lit(value=False)), COLUMNS)
    with pytest.raises(ConfigurationError, match="'agee', which the table does not have; did you mean 'age'"):
        anonymity(table, ["agee"])
    with pytest.raises(ConfigurationError, match="at least one column"):
        anonymity(table, [])
