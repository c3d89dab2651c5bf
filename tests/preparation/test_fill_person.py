"""Filling from other records of the same person."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pytest

from lightning_privacy import PrivacyLedger
from lightning_privacy.errors import ConfigurationError, PrivacyViolation
from lightning_privacy.preparation import Context, Preparation, Roles
from lightning_privacy.preparation.fill_person import FillFromPerson

ROLES = Roles(identifier="who")


def _run(step, table, **context):
    step.fit(table.lazy(), Context(**context))
    return step.run(table)


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_most_frequent_value_of_the_person(seed):
    """By a loop over the persons."""
    rng = np.random.default_rng(seed)
    table = pl.DataFrame(
        {
            "who": [None if i == 0 else f"p{i}" for i in rng.integers(12, size=80)],
            "town": [[None, "a", "b", "c"][i] for i in rng.integers(4, size=80)],
            "size": [[float("nan"), None, 1.5, 2.5][i] for i in rng.integers(4, size=80)],
        }
    )
    filled = _run(FillFromPerson(["town", "size"], person="who"), table)
    for name in ("town", "size"):
        expected = []
        for who, value in zip(table["who"], table[name], strict=True):
            here = None if value != value else value
            if here is None and who is not None:
                own = Counter(v for w, v in zip(table["who"], table[name], strict=True) if w == who and v == v and v)
                here = min(own, key=lambda v: (-own[v], v)) if own else None
            expected.append(here)
        assert filled[name].to_list() == expected


@pytest.mark.parametrize("nobody", ["", " "])
def test_p34_rows_with_a_blank_key_are_of_nobody_and_stay_as_they_are(nobody):
    table = pl.DataFrame({"who": [nobody, nobody, "a", "a"], "town": ["Lyon", None, "Bonn", None]})
    filled = _run(FillFromPerson("town", person="who"), table)
    assert filled.to_dict(as_series=False) == {
        "who": [nobody, nobody, "a", "a"],
        "town": ["Lyon", None, "Bonn", "Bonn"],
    }


def test_p33_what_it_is_for_one_ledger_it_is_not_for_the_next():
    """A data module without a ledger asks the step itself whether it learns from records."""
    table, step = pl.DataFrame({"who": [1, 1], "town": ["a", None]}), FillFromPerson("town")
    persons = PrivacyLedger(delta=1e-5, unit="person")
    _, report = Preparation([step]).fit_apply(table, Context(roles=ROLES, ledger=persons))
    assert (report.steps[0].private, step.private) == ("rowwise", "compares")


def test_the_order_of_rows_and_of_columns_stays():
    table = pl.DataFrame({"town": [None, "b", "a"], "who": [2, 1, 2], "row": [0, 1, 2]})
    filled = _run(FillFromPerson("town"), table, roles=ROLES)
    assert filled.rows() == [("a", 2, 0), ("b", 1, 1), ("a", 2, 2)]


def test_p34_it_is_free_for_persons_and_a_caveat_for_records():
    table = pl.DataFrame({"who": [1, 1], "town": ["a", None]})
    persons = PrivacyLedger(delta=1e-5, unit="person")
    Preparation([FillFromPerson("town")]).fit_apply(table, Context(roles=ROLES, ledger=persons))
    assert (persons.history, persons.caveats) == ([], ())
    records = PrivacyLedger(delta=1e-5)
    step = FillFromPerson("town")
    with pytest.raises(PrivacyViolation, match="compares rows"):
        step.fit(table.lazy(), Context(roles=ROLES, ledger=records))
    FillFromPerson("town", caveat=True).fit(table.lazy(), Context(roles=ROLES, ledger=records))
    assert "fill from person" in records.caveats[0]


def test_batches_by_themselves_would_not_do():
    step = FillFromPerson("town", person="who")
    table = pl.DataFrame({"who": [1, 1], "town": ["a", None]})
    step.fit(table.lazy(), Context(ledger=PrivacyLedger(delta=1e-5, unit="person")))
    with pytest.raises(ConfigurationError, match="batches"):
        list(Preparation([step]).stream(table))


def test_bad_settings_are_named():
    table = pl.DataFrame({"who": [1, 1], "town": ["a", None]}).lazy()
    with pytest.raises(ConfigurationError, match="must know whose a record is"):
        FillFromPerson("town").fit(table, Context())
    with pytest.raises(ConfigurationError, match="columns has 'who'"):
        FillFromPerson(["who", "town"], person="who").fit(table, Context())
    with pytest.raises(ConfigurationError, match="did you mean 'town'"):
        FillFromPerson("towns", person="who").fit(table, Context())
    with pytest.raises(ConfigurationError, match="person must be"):
        FillFromPerson("town", person="")
