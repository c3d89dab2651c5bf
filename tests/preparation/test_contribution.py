"""At most m records for each person, and what epsilon is for a person then."""

from __future__ import annotations

import math
import pickle
from collections import Counter

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from lightning_privacy import PrivacyLedger
from lightning_privacy.accounting import LaplaceRelease
from lightning_privacy.errors import ConfigurationError, PrivacyViolation
from lightning_privacy.mechanisms import NoiseSource
from lightning_privacy.preparation import Context, Preparation, Roles
from lightning_privacy.preparation.contribution import BoundContributions, most_records
from lightning_privacy.security import Key

KEY = bytes(range(32))
ROLES = Roles(identifier="who")


def _table(people=50, rows=400, seed=0):
    who = np.random.default_rng(seed).integers(people, size=rows)
    return pl.DataFrame({"who": [f"p{i}" for i in who], "row": range(rows)})


def _bounded(table, m=1, key=KEY, **arguments):
    step = BoundContributions(m, **arguments)
    step.fit(table.lazy(), Context(roles=ROLES, key=key))
    return step.run(table)


def _add_laplace_loss(difference, epsilon):
    """The largest privacy loss of a count with Laplace noise of scale 1/epsilon, when it changes by ``difference``."""
    return abs(difference) * epsilon


@pytest.mark.parametrize("m", [1, 2, 3, 7])
def test_nobody_has_more_than_m_records_and_nobody_has_fewer_than_they_could(m):
    table = _table()
    kept = _bounded(table, m)
    before, after = Counter(table["who"]), Counter(kept["who"])
    assert after == {who: min(number, m) for who, number in before.items()}
    assert kept["row"].is_sorted()
    assert most_records(kept, "who") == m


def test_p34_a_person_in_fifty_records_is_not_protected_until_contributions_are_bounded():
    """What leaving one person out does to a count that is charged as one record.

    The privacy loss of Laplace noise is the change of the count times epsilon: 50 times what the ledger says before,
    and just what it says after.
    """
    crowd = pl.DataFrame({"who": ["a"] * 50 + [f"p{i}" for i in range(100)], "row": range(150)})
    without = crowd.filter(pl.col("who") != "a")
    ledger = PrivacyLedger(delta=1e-6, unit="person")
    ledger.charge(LaplaceRelease(epsilon=0.1))
    epsilon = ledger.epsilon(exact=True)
    assert _add_laplace_loss(crowd.height - without.height, 0.1) > 49 * epsilon
    difference = _bounded(crowd).height - _bounded(without).height
    assert _add_laplace_loss(difference, 0.1) <= epsilon * 1.001
    # With more records for each person, group privacy says what is left: exactly so for a count.
    two = BoundContributions(2, person="who")
    guarantee = two.guarantee(ledger)
    difference = _bounded(crowd, 2).height - _bounded(without, 2).height
    assert _add_laplace_loss(difference, 0.1) == pytest.approx(guarantee.epsilon, rel=2e-3)


def test_p34_what_is_kept_of_a_person_does_not_depend_on_who_else_is_there():
    table = _table()
    everybody = _bounded(table, 2)
    for left_out in ("p0", "p17"):
        fewer = _bounded(table.filter(pl.col("who") != left_out), 2)
        assert_frame_equal(fewer, everybody.filter(pl.col("who") != left_out))


def test_the_draw_is_uniform():
    """1,000 people of four records each: chi-square over the places kept; fails by chance once in 10,000 runs."""
    table = pl.DataFrame({"who": [f"p{i}" for i in range(1000) for _ in range(4)], "row": [0, 1, 2, 3] * 1000})
    counts = np.bincount(_bounded(table)["row"].to_numpy(), minlength=4)
    assert counts.sum() == 1000
    assert ((counts - 250) ** 2 / 250).sum() < 21.1  # 0.9999 quantile of chi-square with 3 degrees of freedom


def test_pairs_are_drawn_uniformly_too():
    """6 pairs of 4; chi-square with 5 degrees of freedom, 0.9999 quantile; the key is fixed, so that it never flips."""
    table = pl.DataFrame({"who": [f"p{i}" for i in range(1200) for _ in range(4)], "row": [0, 1, 2, 3] * 1200})
    kept = _bounded(table, 2)["row"].to_numpy().reshape(-1, 2)
    counts = Counter(map(tuple, kept.tolist()))
    assert set(counts) == {(a, b) for a in range(4) for b in range(a + 1, 4)}
    assert sum((number - 200) ** 2 / 200 for number in counts.values()) < 25.7


def test_the_key_decides_and_without_one_each_draw_is_new():
    table = _table()
    assert_frame_equal(_bounded(table), _bounded(table))
    assert_frame_equal(_bounded(table), _bounded(table, key=Key(KEY)))
    rows = [tuple(_bounded(table, key=key)["row"]) for key in (KEY, bytes(32), None, None)]
    assert len(set(rows)) == 4


def test_a_seeded_source_makes_it_the_same_again():
    def draw(seed):
        with pytest.warns(UserWarning, match="seed"):
            noise = NoiseSource(seed=seed)
        step = BoundContributions(person="who")
        step.fit(_table().lazy(), Context(noise=noise))
        return step.run(_table())["row"].to_list()

    assert draw(1) == draw(1) != draw(2)


def test_rows_that_do_not_say_whose_they_are():
    table = pl.DataFrame({"who": ["a", None, None], "row": [0, 1, 2]})
    with pytest.raises(ConfigurationError, match="2 rows don't say who they are about, in column 'who'"):
        _bounded(table)
    assert _bounded(table, missing="drop")["row"].to_list() == [0]
    step = BoundContributions(person="who")
    step.fit(table.drop_nulls().lazy(), Context())
    with pytest.raises(ConfigurationError, match="2 rows don't say"):
        step.run(table)
    assert _bounded(table.filter(pl.col("who").is_null()), missing="drop").height == 0


@pytest.mark.parametrize("nobody", ["", "  ", math.nan], ids=repr)
def test_p34_blank_values_say_nothing_and_are_no_person(nobody):
    who = [1.0 if isinstance(nobody, float) else "a", nobody, nobody, None]
    table = pl.DataFrame({"who": who, "row": [0, 1, 2, 3]}, strict=False)
    with pytest.raises(ConfigurationError, match="3 rows don't say who they are about, in column 'who'"):
        _bounded(table)
    assert _bounded(table, missing="drop")["row"].to_list() == [0]
    step = BoundContributions(person="who")
    step.fit(table[:1].lazy(), Context())
    with pytest.raises(ConfigurationError, match="3 rows don't say"):
        step.run(table)
    assert most_records(table, "who") == 3


def test_p34_a_ledger_of_persons_takes_no_second_record():
    ledger = PrivacyLedger(delta=1e-5, unit="person")
    context = Context(roles=ROLES, ledger=ledger)
    with pytest.raises(PrivacyViolation, match="max_records=2"):
        BoundContributions(2).fit(_table().lazy(), context)
    BoundContributions(1).fit(_table().lazy(), context)
    assert ledger.caveats == ()


def test_p34_a_ledger_of_persons_takes_no_release_before_the_bound():
    ledger = PrivacyLedger(delta=1e-5, unit="person")
    ledger.charge(LaplaceRelease(0.1))
    context = Context(roles=ROLES, ledger=ledger)
    with pytest.raises(PrivacyViolation, match="before the contributions were bounded"):
        BoundContributions().fit(_table().lazy(), context)
    assert ledger.caveats == ()
    single = _table().unique("who")
    BoundContributions().fit(single.lazy(), context)
    assert ledger.caveats == ()
    step = BoundContributions(caveat=True)
    step.fit(_table().lazy(), context)
    assert "one person had up to" in ledger.caveats[0]
    assert step.report().caveats == ledger.caveats


def test_p34_a_ledger_of_examples_says_what_epsilon_is_for():
    ledger = PrivacyLedger(delta=1e-5)
    BoundContributions(3).fit(_table().lazy(), Context(roles=ROLES, ledger=ledger))
    assert "up to 3 records" in ledger.caveats[0]
    ledger.charge(LaplaceRelease(0.1))
    guarantee = BoundContributions(3).guarantee(ledger, delta=1e-6)
    assert math.isclose(guarantee.epsilon, 0.3, rel_tol=2e-3)


@pytest.mark.parametrize("m", [1, 2])
def test_p34_a_ledger_of_examples_says_what_was_charged_of_more_records(m):
    """Cut afterwards or not: what was released before is worth less to who had many."""
    ledger = PrivacyLedger(delta=1e-5)
    ledger.charge(LaplaceRelease(0.1))
    table = pl.DataFrame({"who": ["a"] * 6 + ["b"]})
    step = BoundContributions(m)
    step.fit(table.lazy(), Context(roles=ROLES, ledger=ledger))
    (caveat,) = ledger.caveats
    assert f"were cut to {m}" in caveat
    assert "one person had up to 6 of them" in caveat
    assert "group_privacy(ledger, records=6)" in caveat
    assert step.guarantee(ledger).records == 6
    assert step.guarantee(ledger).epsilon == pytest.approx(0.6, rel=2e-3)
    bounded = PrivacyLedger(delta=1e-5)
    step.fit(table.lazy(), Context(roles=ROLES, ledger=bounded))
    assert step.guarantee(bounded).records == m


def test_p34_the_context_says_whose_records_are_bounded():
    table = pl.DataFrame({"who": ["a", "b", "c"], "person": ["x", "x", "y"]})
    step = BoundContributions()
    step.fit(table.lazy(), Context(roles=ROLES, person="person"))
    assert step.run(table)["person"].to_list() == ["x", "y"]
    assert Context(roles=ROLES).who == "who"
    with pytest.raises(ConfigurationError, match="person must be the name of a column or None"):
        Context(person="")


@pytest.mark.parametrize("unit", ["person", "patient", "client"])
def test_p34_a_ledger_of_people_by_any_name_has_one_record_of_each(unit):
    with pytest.raises(PrivacyViolation, match=f"protects a {unit}, and with max_records=3"):
        BoundContributions(3).fit(_table().lazy(), Context(roles=ROLES, ledger=PrivacyLedger(delta=1e-5, unit=unit)))


def test_batches_by_themselves_would_not_do():
    step = BoundContributions(person="who")
    step.fit(_table().lazy(), Context())
    with pytest.raises(ConfigurationError, match="batches"):
        list(Preparation([step]).stream(_table()))


def test_the_key_does_not_travel_with_the_step():
    step = BoundContributions(person="who")
    step.fit(_table().lazy(), Context(key=KEY))
    secret = step._secret
    copy = pickle.dumps(step)
    assert secret not in copy
    with pytest.raises(ConfigurationError, match="must be fitted"):
        pickle.loads(copy).run(_table())


def test_p34_rows_without_a_person_could_all_be_of_one():
    assert most_records(pl.DataFrame({"who": [None, None]}), "who") == 2
    assert most_records(pl.LazyFrame({"who": ["a", "a", None, None, None]}), "who") == 3
    assert most_records(pl.LazyFrame({"who": []}, schema={"who": pl.String}), "who") == 0


def test_p34_what_was_released_of_rows_without_a_person_is_charged_to_one_of_many():
    """Left out by the step, they were in what was released before it: in a ledger of persons that is told."""
    ledger = PrivacyLedger(delta=1e-5, unit="person")
    ledger.charge(LaplaceRelease(0.1))
    table = pl.DataFrame({"who": ["a", "b", None, None]})
    with pytest.raises(PrivacyViolation, match="one person had up to 2 of them"):
        BoundContributions(missing="drop").fit(table.lazy(), Context(roles=ROLES, ledger=ledger))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"max_records": 0}, "max_records"), ({"missing": "keep"}, "missing must be one of"), ({"person": ""}, "person")],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        BoundContributions(**arguments)


def test_what_is_missing_is_named():
    with pytest.raises(ConfigurationError, match="must know whose a record is"):
        BoundContributions().fit(_table().lazy(), Context())
    with pytest.raises(ConfigurationError, match="did you mean 'who'"):
        BoundContributions(person="whoo").fit(_table().lazy(), Context())
