"""One record or one person less: nobody else changes sides, and of nobody else other records are kept."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.data.persona.generator import PersonaData
from lightning_privacy.data.persona.pipeline import run
from lightning_privacy.data.persona.plan import Plan
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation import BoundContributions, Context, Deduplicate, Preparation, Roles, Step

KEY = bytes(range(32))
ROWS = 40
IMAGES = np.zeros((ROWS, 28, 28), np.uint8)


class Given:
    """A table given by hand, and images enough for all of which it is a part."""

    def __init__(self, records: pl.DataFrame) -> None:
        self.records = records

    def generate(self) -> PersonaData:
        return PersonaData(self.records, IMAGES)


class SelectColumns(Step):
    """Writes the rows anew, with some columns."""

    name = "select"

    def __init__(self, *columns: str) -> None:
        super().__init__()
        self._columns = columns

    def _apply(self, frame):
        return frame.select(self._columns)


class Shuffle(Step):
    """Puts the rows in an order in which those of others have a part."""

    name = "shuffle"

    def _apply(self, frame):
        return frame.sort("label", "town", descending=True)


def _people(seed: int, *, record: bool, public: bool) -> pl.DataFrame:
    generator = np.random.default_rng(seed)
    table = pl.DataFrame(
        {
            "name": [f"p{number}" for number in generator.integers(0, 15, ROWS)],
            "town": generator.choice(["Ulm", "Bonn", ""], ROWS).tolist(),
            "image": generator.permutation(ROWS),
            "label": [None if draw > 9 else draw for draw in generator.integers(0, 11, ROWS).tolist()],
        }
    )
    if record:
        table = table.with_columns(record=generator.permutation(ROWS))
    if public:
        # Half of them are private for sure: somebody is to be trained on.
        table = table.with_columns(public=(pl.col("name").str.slice(1).cast(pl.Int64) % 2 == 0) & (pl.col("label") < 8))
    return table


def _sides(table: pl.DataFrame, *steps: Step, most: int, person: str = "person", identifier: str | None = None) -> dict:
    plan = Plan(
        source=Given(table),
        preparation=Preparation(steps),
        roles=Roles(identifier=identifier, label="label"),
        person=person,
        max_records=most,
        held_out=0.4,
        val_share=0.5,
    )
    stage = run(plan, store=None, ledger=PrivacyLedger(delta=1e-5), key=KEY)
    assert not [name for name in stage.table.columns if name.startswith("\x00")]
    return dict(stage.table.select("image", "side").iter_rows())


def _others(sides: dict, gone: pl.DataFrame) -> dict:
    return {image: side for image, side in sides.items() if image not in gone["image"].to_list()}


def _without_label(table: pl.DataFrame, gone: pl.DataFrame) -> pl.DataFrame:
    kept = pl.when(~pl.col("image").is_in(gone["image"].to_list())).then("label")
    return table.with_columns(kept.alias("label"))


def _neighbours(table: pl.DataFrame, gone: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    return table.join(gone, on="image", how="anti", maintain_order="left"), _without_label(table, gone)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    place=st.integers(0, ROWS - 1),
    identified=st.booleans(),
    record=st.booleans(),
    public=st.booleans(),
    most=st.integers(1, 3),
)
def test_p34_a_record_less_deals_nobody_else_anew(seed, place, identified, record, public, most):
    table = _people(seed, record=record, public=public)
    own = table[place]
    gone = table.filter(name=own["name"][0]) if identified else own
    who = "name" if identified else None
    whole = _others(_sides(table, most=most, identifier=who), gone)
    # One record of a person, and all of them.
    for less in (own, gone):
        for neighbour in _neighbours(table, less):
            assert _others(_sides(neighbour, most=most, identifier=who), gone) == whole


@pytest.mark.parametrize("merge", [None, "first", "complete", "frequent"])
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    place=st.integers(0, ROWS - 1),
    bounded=st.booleans(),
    record=st.booleans(),
    public=st.booleans(),
    most=st.integers(1, 3),
)
def test_p34_a_person_who_was_found_by_a_step_and_goes_deals_nobody_else_anew(
    merge, seed, place, bounded, record, public, most
):
    """Steps number people in the order in which they appear."""
    table = _people(seed, record=record, public=public)
    gone = table.filter(name=table["name"][place])

    def sides(records: pl.DataFrame) -> dict:
        steps = [Deduplicate(["name"], near=False, merge=merge, caveat=True)]
        if bounded:
            steps += [Shuffle(), BoundContributions(most, person="person")]
        return _others(_sides(records, *steps, most=most), gone)

    whole = sides(table)
    for neighbour in _neighbours(table, gone):
        assert sides(neighbour) == whole


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), place=st.integers(0, ROWS - 1), made=st.booleans(), most=st.integers(1, 3))
def test_p34_after_a_step_that_writes_rows_anew_nobody_else_is_dealt_anew(seed, place, made, most):
    table = _people(seed, record=True, public=False)
    gone = table.filter(name=table["name"][place])

    def sides(records: pl.DataFrame) -> dict:
        deduplicate = [Deduplicate(["name"], near=False, caveat=True)] if made else []
        who = "person" if made else "name"
        steps = [*deduplicate, SelectColumns(who, "image", "label"), BoundContributions(most, person=who)]
        return _others(_sides(records, *steps, most=most, person=who), gone)

    whole = sides(table)
    for neighbour in _neighbours(table, gone):
        assert sides(neighbour) == whole


@pytest.mark.parametrize("most", [1, 2, 3])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), number=st.integers(0, 14))
def test_p34_what_is_kept_of_a_person_depends_on_no_running_number(most, seed, number):
    """Outside the pipeline too: the step goes by what records hold, and by no order of them."""
    generator = np.random.default_rng(seed)
    table = pl.DataFrame({"name": generator.integers(0, 15, 60), "row": np.arange(60)})

    def kept(records: pl.DataFrame) -> list[int]:
        numbered = records.with_columns(person=pl.col("name").rank("dense")).drop("name")
        step = BoundContributions(most, person="person")
        step.fit(numbered.lazy(), Context(key=KEY))
        return step.run(numbered)["row"].sort().to_list()

    others = table.filter(pl.col("name") != number)
    whole = [row for row in kept(table) if row in others["row"].to_list()]
    assert kept(others) == whole
    assert kept(others.sample(fraction=1.0, shuffle=True, seed=seed)) == whole


@pytest.mark.parametrize("blank", ["", "  "])
def test_p34_rows_with_a_blank_identifier_are_not_taken_for_one_person(blank):
    """Were one of them kept, it would be another person's once its own is gone."""
    who = [blank if row < 4 else f"c{row}" for row in range(ROWS)]
    table = pl.DataFrame({"customer": who, "image": range(ROWS), "label": [0] * ROWS})
    plan = Plan(source=Given(table), roles=Roles(identifier="customer", label="label"))
    with pytest.raises(ConfigurationError, match="4 rows don't say who they are about"):
        run(plan, store=None, ledger=PrivacyLedger(delta=1e-5, unit="person"))


@pytest.mark.parametrize("column", ["person", "customer"])
def test_p34_people_told_apart_by_a_column_of_the_raw_table_alone_are_a_caveat(column):
    """By whatever name: no step has compared the records."""
    table = pl.DataFrame({column: [f"c{row}" for row in range(ROWS)], "image": range(ROWS), "label": [0] * ROWS})
    ledger = PrivacyLedger(delta=1e-5, unit="person")
    plan = Plan(
        source=Given(table), roles=Roles(identifier="customer" if column == "customer" else None, label="label")
    )
    run(plan, store=None, ledger=ledger)
    assert [caveat for caveat in ledger.caveats if f"the column {column!r} alone" in caveat]
