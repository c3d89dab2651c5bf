"""People who share a name stay apart: addresses that repeat names, and what is said where they may not have."""

from __future__ import annotations

import warnings
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from lightning_privacy.preparation import Context, Deduplicate, Preparation, Roles
from lightning_privacy.preparation import deduplicate_linkage as linkage_module
from lightning_privacy.preparation.deduplicate_columns import ComparedColumn
from lightning_privacy.preparation.deduplicate_doubts import doubts, other_identifiers
from lightning_privacy.preparation.deduplicate_linkage import link_records
from lightning_privacy.preparation.deduplicate_repeats import RepeatingColumn, repeated_columns

FIRST = ("Anna", "Jörg", "Käthe", "Zoë", "Marie", "Lena", "Sofía", "Peter", "Hans", "Søren", "Günter", "Ömer", "Karl")
LAST = ("Müller", "Schäfer", "Groß", "Weiß", "Köhler", "Böhm", "García", "Öztürk", "Meyer", "Schmidt", "Bauer", "Koch")
COLUMNS = ["number", "first", "last", "mail", "born", "gender", "place"]
ROLES = Roles(identifier="number")


def _written(name):
    for umlaut, letters in (("ä", "ae"), ("ö", "oe"), ("ü", "ue"), ("ß", "ss")):
        name = name.lower().replace(umlaut, letters)
    return name


def _customers(people=1200, twice=100, digits=False, seed=0):
    """Customers of few names, most of whom share theirs with others; some are in the table twice, with an error."""
    rng = np.random.default_rng(seed)
    rows = []
    for person in range(people):
        first, last = rng.choice(FIRST), rng.choice(LAST)
        if rng.random() < 0.3:
            last = f"{last}-{rng.choice(LAST)}"
        born = date(1940, 1, 1) + timedelta(days=int(rng.integers(22_000)))
        mail = f"{_written(first)}.{_written(last)}{rng.integers(100, 1000) if digits else ''}@example.org"
        place = rng.choice(["Köln", "München", "Lübeck", "Görlitz", "Ulm", "Bonn"])
        rows.append([f"K{person:05d}", first, last, mail, born, rng.choice(["m", "f"]), place, person])
    for person in range(twice):
        row = list(rows[person])
        spoilt = rng.integers(4)
        row[(2, 3, 4, 6)[spoilt]] = (row[2].upper()[:-1] + "x", None, row[4] + timedelta(days=1), "Ulm")[spoilt]
        rows.append(row)
    return pl.DataFrame(rows, [*COLUMNS, "truth"], orient="row")


def _precision_recall(table, persons):
    def pairs(labels):
        sizes = labels.value_counts()["count"].cast(pl.Int64)
        return int((sizes * (sizes - 1) // 2).sum())

    both = pairs(pl.Series(persons * 10_000) + table["truth"])
    return both / pairs(pl.Series(persons)), both / pairs(table["truth"])


def test_addresses_that_repeat_names_do_not_join_namesakes(monkeypatch):
    table = _customers()
    linkage = link_records(table, COLUMNS)
    assert linkage.repeats == {"mail": ("first", "last")}
    precision, recall = _precision_recall(table, linkage.persons(0.7))
    assert precision >= 0.98
    assert recall >= 0.9
    # Counted as three independent facts, names and address make one person of most namesakes.
    monkeypatch.setattr(linkage_module, "repeated_columns", lambda _: {})
    assert _precision_recall(table, link_records(table, COLUMNS).persons(0.7))[0] < 0.3


def test_what_an_address_says_beyond_the_names_still_counts():
    columns = ["first", "last", "mail", "gender", "place"]
    with_digits, without = (_customers(digits=digits) for digits in (True, False))
    precision, recall = _precision_recall(with_digits, link_records(with_digits, columns).persons(0.7))
    assert precision >= 0.95
    assert recall >= 0.7
    assert _precision_recall(without, link_records(without, columns).persons(0.7))[1] < recall


@pytest.mark.parametrize(
    ("name", "mail", "rest"),
    [
        ("jörg müller", "joerg.mueller@b.de", "@b.de"),
        ("joerg mueller", "jörg.müller@b.de", "@b.de"),
        ("jörg müller", "jorg.muller@b.de", "@b.de"),
        ("sofía garcía", "sofía_garcia12@b.de", "12@b.de"),
        ("weiß-groß", "weiss-gross@b.de", "@b.de"),
        ("ada byron", "ada.k.byron@b.de", "@b.de"),
        ("ada byron", "ada.byron.berlin@b.de", "berlin@b.de"),
        ("ada byron", "ada.biron@b.de", None),
        ("ada byron", "a.byron@b.de", None),
        ("bo", "bo@b.de", None),
        ("ada byron", "ada.byron", None),  # nothing is left
    ],
)
def test_what_is_left_of_an_address_without_the_names(name, mail, rest):
    names = ComparedColumn(pl.Series("name", [name]), "text")
    assert RepeatingColumn(ComparedColumn(pl.Series("mail", [mail]), "code"), [names]).rests.to_list() == [rest]


def test_an_address_that_does_not_repeat_its_own_record_is_compared_whole():
    names = ComparedColumn(pl.Series("name", ["ada byron", "ada biron", "ada byron", "ada byron"]), "text")
    mails = ["ada.byron@b.de", "ada.byron@b.de", "lady@x.org", None]
    column = RepeatingColumn(ComparedColumn(pl.Series("mail", mails), "code"), [names])
    assert column.levels(np.array([0, 0, 0]), np.array([1, 2, 3])).tolist() == [4, 1, 0]
    part = column.take(np.array([1, 2]))
    assert isinstance(part, RepeatingColumn)
    assert part.levels(np.array([0]), np.array([1])).tolist() == [1]


def test_addresses_of_other_things_and_years_of_birth():
    table = _customers(200, 0)
    named = [ComparedColumn(table[name], "text") for name in ("first", "last")]
    other = ComparedColumn(pl.Series("mail", [f"user{number}@example.org" for number in range(200)]), "code")
    assert repeated_columns([*named, other]) == {}
    born = ComparedColumn(table["born"], "date")
    year = pl.Series("login", [f"x{day.year}" for day in table["born"]])
    assert list(repeated_columns([born, ComparedColumn(year, "code")])) == ["login"]


def _warned(table, **settings):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, report = Preparation([Deduplicate(**settings)]).fit_apply(table, Context(roles=ROLES))
    return [str(each.message) for each in caught], report.steps[0].learned


def test_the_report_says_how_many_persons_were_made_of_how_many_records():
    warned, learned = _warned(_customers(), columns=COLUMNS)
    assert learned["found"] == f"1,300 records -> {learned['persons']:,} persons"
    assert learned["mail compared beyond"] == "first, last"
    assert warned == []
    assert "doubts" not in learned


def test_joined_people_with_other_identifiers_and_days_of_birth_are_warned_of_once(monkeypatch):
    monkeypatch.setattr(linkage_module, "repeated_columns", lambda _: {})
    (warning,), learned = _warned(_customers(), columns=COLUMNS)
    assert "may have joined several people (1,300 records -> " in warning
    assert "differ in 'born' in" in warning
    assert "records with different values of 'number' were joined" in warning
    assert "columns=" in warning
    assert "threshold= above 0.7" in warning
    assert learned["doubts"] in warning
    other, _, joined, _ = learned["joined with another number"].split()
    assert int(other.replace(",", "")) > 0.5 * int(joined.replace(",", ""))


def test_an_identifier_that_is_not_compared_is_looked_at_too():
    warned, learned = _warned(_customers(), columns=["first", "last", "place"])
    assert "records with different values of 'number' were joined" in warned[0]
    assert warned[0].count("differ in") == 0
    assert learned["doubts"].startswith("records with different values")


def test_people_with_two_numbers_are_told_and_no_doubt():
    table = _customers()
    again = pl.int_range(pl.len()) >= 1280  # of the hundred who are there twice, the last twenty
    table = table.with_columns(number=pl.when(again).then(pl.col("number").str.replace("K", "L9")).otherwise("number"))
    warned, learned = _warned(table, columns=COLUMNS)
    assert warned == []
    other, _, joined, _ = learned["joined with another number"].split()
    assert 10 <= int(other) <= 20
    assert 80 <= int(joined) <= 110


def test_spellings_of_one_name_and_numbers_of_rows_are_no_other_identifiers():
    persons = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    names = ["ada byron", "ada byrom", "max born", "max borm", "carl gauss", "carl gaus", "emmy noether", "ada byron"]
    assert other_identifiers(pl.Series([*names[:7], "emy noether"]), persons) == (0, 0)  # no two are equal
    assert other_identifiers(pl.Series([*names[:7], names[6]]), persons) == (0, 4)
    assert other_identifiers(pl.Series(range(8)), persons) == (0, 0)
    assert other_identifiers(pl.Series([1, 2, 3, 4, 5, 6, None, None]), persons) == (0, 0)  # missing ones are no pair
    assert other_identifiers(pl.Series([1, 2, 3, 4, 5, 6, 7, 7]), persons) == (3, 4)
    assert other_identifiers(pl.Series([1, None, None, 4, 5, 5, 7, 7]), persons) == (0, 2)
    assert other_identifiers(pl.Series([1, 1, 2, 2, 3, 3, 4, 4]), np.arange(8)) == (0, 0)
    assert doubts(None, identifier="who", other=2, joined=2) == ()
    assert doubts(None, identifier="who", other=21, joined=100) == ()
    (doubt,) = doubts(None, identifier="who", other=56, joined=100)
    assert doubt.endswith("'who' were joined: 56 of the 100 that follow the first of a person")
