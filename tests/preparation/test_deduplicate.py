"""Persons found in tables: on real data with truth, on toy tables, with nothing that a user would not have."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.errors import ConfigurationError, PrivacyViolation
from lightning_privacy.preparation import Context, Preparation, Roles
from lightning_privacy.preparation.deduplicate import Deduplicate
from lightning_privacy.preparation.deduplicate_linkage import equal_records, link_records

DATA = Path(os.environ.get("LIGHTNING_PRIVACY_DATA", Path(__file__).parents[3] / "shared" / "data")) / "persona"
FAKE, FIGURES = DATA / "fake_1000.csv", DATA / "historical_figures_with_errors_50k.parquet"
NAMES = ["name", "gender", "age", "place"]


def _pairs(labels):
    sizes = np.unique(labels, return_counts=True)[1].astype(float)
    return (sizes * (sizes - 1) / 2).sum()


def _found(persons, truth):
    both = _pairs(persons * (truth.max() + 1) + truth)
    return both / _pairs(persons), both / _pairs(truth)


def _table(*rows):
    return pl.DataFrame(list(rows), NAMES, orient="row")


def _people(count, seed=0):
    """People with names of ten random letters each, so that no two are alike."""
    rng = np.random.default_rng(seed)
    letters = rng.integers(97, 123, (count, 20)).astype(np.uint8)
    names = [f"{bytes(row[:10]).decode()} {bytes(row[10:]).decode()}" for row in letters]
    return [(name, "f", int(rng.integers(90)), f"town {rng.integers(50)}") for name in names]


def _persons(table, **settings):
    return Deduplicate(**settings).run(table)["person"].to_list()


@pytest.mark.skipif(not FAKE.is_file(), reason=f"{FAKE} is not there")
def test_fake_1000_reaches_an_f1_of_0_8_with_the_defaults():
    table = pl.read_csv(FAKE)
    found = Deduplicate(["first_name", "surname", "dob", "city", "email"]).run(table)["person"].to_numpy()
    precision, recall = _found(found, table["cluster"].to_numpy())
    assert precision >= 0.98
    assert 2 * precision * recall / (precision + recall) >= 0.85


@pytest.fixture(scope="module")
def figures():
    if not FIGURES.is_file():
        pytest.skip(f"{FIGURES} is not there")
    table = pl.read_parquet(FIGURES).sample(fraction=1.0, shuffle=True, seed=0)
    return table.with_columns(truth=pl.col("cluster").rank("dense").cast(pl.Int64))


def test_historical_figures_all_columns_given(figures):
    # The benchmark runs the whole table; here every sixth person, in random order.
    table = figures.filter(pl.col("truth") % 6 == 0)
    linkage = link_records(table, [name for name in table.columns if name not in ("unique_id", "cluster", "truth")])
    assert set(linkage.left_out) == {"full_name", "first_and_surname"}
    precision, recall = _found(linkage.persons(0.7), table["truth"].to_numpy())
    assert precision >= 0.95
    assert recall >= 0.70
    points = [_found(linkage.persons(threshold), table["truth"].to_numpy()) for threshold in (0.1, 0.9, 0.999)]
    assert [precision for precision, _ in points] == sorted(precision for precision, _ in points)
    assert [recall for _, recall in points] == sorted((recall for _, recall in points), reverse=True)


def test_where_nobody_is_twice_next_to_nobody_is_joined(figures):
    table = figures.unique("cluster", keep="first", maintain_order=True).head(2500)
    columns = [name for name in table.columns if name not in ("unique_id", "cluster", "truth")]
    persons = link_records(table, columns).persons(0.7)
    assert _pairs(persons) <= 5


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (
            [("Ada Byron", "f", 36, "London"), ("Ada Biron", "f", 36, "London"), ("Carl Gauss", "m", 50, "Ulm")],
            [0, 0, 1],
        ),
        (
            [("Ada Byron", "f", 36, "London"), ("Jane Roe", "f", 36, "London"), ("Carl Gauss", "m", 50, "Ulm")],
            [0, 1, 2],
        ),
        ([("Ada Byron", "f", 36, "London"), ("Byron Ada", "f", 36, None), ("Carl Gauss", "m", 50, "Ulm")], [0, 0, 1]),
        ([("Ada Byron", "f", 36, "London")], [0]),
        ([(None, "f", None, None), (None, "f", None, None), ("Carl", "m", 50, "Ulm")], [0, 1, 2]),
    ],
    ids=["typing-error", "two-people-of-one-town", "words-exchanged", "one-row", "nothing-known"],
)
def test_toy_tables(rows, wanted):
    assert _persons(_table(*rows)) == wanted


def test_what_is_frequent_says_little():
    people = [(f"person {number}", "f", number % 60, "x") for number in range(300)]
    same = [("unknown", "f", 0, "x")] * 300
    table = _table(*people, *same)
    assert len(set(_persons(table, columns=["name"]))) == 600


def test_a_person_in_more_copies_than_a_block_holds_is_found():
    people = _people(800)
    table = _table(*people, *[("ada byron", "f", 36, "london")] * 80)
    persons = _persons(table)
    assert len(set(persons[800:])) == 1
    assert len(set(persons[:800])) == 800


def test_the_order_of_the_rows_does_not_matter():
    rng, people = np.random.default_rng(0), _people(150)
    table = _table(*people, *[(f"{name}x", gender, age, place) for name, gender, age, place in people[:60]])
    order = rng.permutation(table.height)
    persons, shuffled = np.array(_persons(table)), np.array(_persons(table[order]))
    same, same_shuffled = persons[order][:, None] == persons[order], shuffled[:, None] == shuffled
    assert (same == same_shuffled).all()
    assert len(set(persons.tolist())) < table.height


def test_exact_only():
    rows = [("Ada", "f", 36, "Ulm"), (" ADA", "F", 36, "ulm "), ("Ada", "f", 37, "Ulm"), (None, "f", None, None)]
    table = _table(*rows, rows[3])
    assert _persons(table, near=False) == [0, 0, 1, 2, 3]
    assert equal_records(table, ["name"]).tolist() == [0, 0, 0, 1, 2]


def test_merged_and_reported():
    table = _table(("Ada Byron", "f", 36, "London"), ("Ada Biron", "f", 36, "London"), ("Carl Gauss", "m", 50, "Ulm"))
    step = Deduplicate(merge="first", person="who")
    merged = step.run(table)
    assert merged.rows() == [("Ada Byron", "f", 36, "London", 0), ("Carl Gauss", "m", 50, "Ulm", 1)]
    report = step.report()
    assert (report.rows_before, report.rows_after) == (3, 2)
    assert report.learned["persons"] == 2
    assert report.learned["records of persons with several"] == 2
    assert report.learned["most records of a person"] == 2
    lazy = Deduplicate(merge="first", person="who").apply(table.lazy()).collect()
    assert lazy.equals(merged)


def test_columns_of_other_roles_and_row_numbers_are_not_compared():
    table = _table(("Ada Byron", "f", 36, "London"), ("Ada Byron", "f", 36, "London"), ("Carl Gauss", "m", 50, "Ulm"))
    table = table.with_row_index("record").with_columns(digit=pl.Series([1, 2, 3]), note=pl.Series(["a", "b", "c"]))
    step = Deduplicate()
    prepared, _ = Preparation([step]).fit_apply(table, Context(roles=Roles(label="digit", free_text="note")))
    assert prepared["person"].to_list() == [0, 0, 1]
    assert step.report().learned["columns"] == ", ".join(NAMES)


def test_a_column_without_values_is_left_out_and_said():
    table = _table(("Ada Byron", "f", 36, None), ("Ada Byrom", "f", 36, None), ("Carl Gauss", "m", 50, None))
    step = Deduplicate()
    step.run(table)
    assert step.report().learned["place left out"] == "every value is missing"


def test_p34_under_privacy_it_is_refused_or_a_caveat():
    table = _table(("Ada Byron", "f", 36, "London"), ("Carl Gauss", "m", 50, "Ulm"))
    ledger = PrivacyLedger(delta=1e-5, budget=1.0)
    with pytest.raises(PrivacyViolation, match=r"step 'deduplicate' compares rows .* caveat=True"):
        Preparation([Deduplicate()]).fit_apply(table, Context(ledger=ledger))
    assert not ledger.caveats
    Preparation([Deduplicate(caveat=True)]).fit_apply(table, Context(ledger=ledger))
    assert ledger.caveats == (Deduplicate().caveat_sentence(),)
    assert ledger.epsilon() == 0.0


def test_nothing_is_written_to_disk(tmp_path, monkeypatch):
    for variable in ("TMPDIR", "TEMP", "TMP", "POLARS_TEMP_DIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    _persons(_table(*[(f"secret {number}", "f", number, "x") for number in range(200)]))
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": ["nmae"]}, "columns names column 'nmae', .* did you mean 'name'"),
        ({"columns": []}, "columns must name at least one"),
        ({"columns": ["name", "name"]}, "columns names column 'name' twice"),
        ({"person": "age"}, "person='age' is a column of the table already"),
        ({"threshold": 1.0}, "threshold must be"),
        ({"merge": "best"}, "merge must be one of"),
        ({"kinds": {"name": "words"}}, "kind of column 'name' must be one of"),
        ({"kinds": {"nme": "text"}}, "kinds names column 'nme'"),
        ({"block_limit": 1}, "block_limit must be at least 2"),
        ({"caveat": "yes"}, "caveat must be True or False"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_bad_settings_are_named(settings, message):
    table = _table(("Ada Byron", "f", 36, "London"), ("Carl Gauss", "m", 50, "Ulm"))
    with pytest.raises(ConfigurationError, match=message):
        Deduplicate(**settings).run(table)


def test_too_many_columns_are_refused():
    table = pl.DataFrame({f"c{number}": [f"{number}a", f"{number}b"] for number in range(21)})
    with pytest.raises(ConfigurationError, match="columns: 21 are too many"):
        Deduplicate(kinds=dict.fromkeys(table.columns, "text")).run(table)
