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
from lightning_privacy.preparation.anonymity import SuppressToK, anonymity, equivalence_classes

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
            alone.add(row[person] if person else tuple(row[name] for name in columns))
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


def test_people_alone_in_several_classes_are_singled_out_once():
    table = pl.DataFrame({"p": ["a", "a", "b", None, None], "zip": [1, 2, 3, 4, 5]})
    measured = anonymity(table, ["zip"], person="p")
    assert (measured.people, measured.singled_out, measured.classes) == (3, 3, 5)
    assert anonymity(table, ["zip"]).singled_out == 5
    assert anonymity(table, ["p"], person="p").singled_out == 3
    assert anonymity(table.with_columns(zip=1), ["zip"], person="p").singled_out == 0


def test_what_was_measured_prints_a_line_for_each_figure():
    table = pl.DataFrame({"age": ["18-29", "18-29", "65+"], "ill": [True, False, False]})
    assert str(anonymity(table, ["age"], sensitive=["ill"])).splitlines() == [
        "k: 1, the people in the smallest class",
        "l of ill: 1, the fewest values in a class",
        "entropy l of ill: 1",
        "classes: 2",
        "people: 3",
        "singled out: 1, people who are alone in a class",
    ]


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


@pytest.mark.parametrize("kind", [pl.Float64, pl.Float32])
def test_the_sign_of_a_zero_is_seen_and_makes_two_classes(kind):
    table = pl.DataFrame({"income": [0.0, -0.0, 5.0, 5.0], "ill": [True, False, True, False]}).with_columns(
        pl.col("income").cast(kind)
    )
    assert "-0.0" in table.write_csv()
    found = anonymity(table, ["income"], sensitive=["ill"])
    assert (found.k, found.classes, found.singled_out) == (1, 3, 2)
    assert found.diversity == {"ill": 1}
    assert found.entropy_diversity["ill"] == pytest.approx(1.0)
    assert equivalence_classes(table, ["income"]).columns == ["income", "people in class"]
    same = table.with_columns(pl.col("income").abs())
    assert anonymity(same, ["income"], sensitive=["ill"]).k == 2


@pytest.mark.parametrize("action", ["drop", "blank"])
@pytest.mark.parametrize("kind", [pl.Float64, pl.Float32])
def test_rows_of_one_class_look_alike(action, kind):
    """Zeros of either sign, and NaNs of any bits, which a file may show."""
    bits = [0x7FF8000000000000, 0xFFF8000000000123]
    nans = np.array(bits, np.uint64).view(np.float64)
    table = pl.DataFrame({"income": pl.Series([0.0, -0.0, *nans, 7.0], dtype=pl.Float64).cast(kind)})
    step = SuppressToK(2, columns=["income"], action=action)
    step.fit(table.lazy(), Context())
    out = step.run(table)
    assert out["income"].dtype == kind
    assert anonymity(out, ["income"]).k == 2
    assert out.write_csv() == "income\n0.0\n0.0\nNaN\nNaN\n"
    shown = out["income"].to_numpy()
    assert len({value.tobytes() for value in shown}) == 2
    # Rows that come later too.
    assert step.run(table[1:2]).write_csv() == "income\n0.0\n"


def test_signs_of_several_columns_are_told_apart_and_left_out():
    table = pl.DataFrame({"one": [0.0, 0.0, -0.0, -0.0], "two": [0.0, -0.0, 0.0, -0.0], "place": ["a"] * 4})
    assert anonymity(table, ["one", "two", "place"]).classes == 4
    step = SuppressToK(4, columns=["one", "two", "place"])
    step.fit(table.lazy(), Context())
    assert step.run(table).write_csv() == "one,two,place\n" + "0.0,0.0,a\n" * 4
    assert step.report().changed == {}


def test_a_class_of_zeros_that_is_too_small_goes_whatever_their_signs():
    table = pl.DataFrame({"income": [0.0, -0.0, 5.0, 5.0, 5.0]})
    step = SuppressToK(3, columns=["income"])
    step.fit(table.lazy(), Context())
    assert step.run(table)["income"].to_list() == [5.0] * 3
