"""What was released while a person had more records than are trained on is not told as what it cost a person."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.data import PersonaDataModule
from lightning_privacy.data.persona.generator import PersonaData
from lightning_privacy.errors import ConfigurationError, PrivacyViolation
from lightning_privacy.preparation import BoundContributions, DeclaredLimits, FillMedian, Step, SuppressToK, anonymity

KEY = bytes(32)
ROLES = {"identifier": "who", "label": "label"}


class Given:
    """A hundred people with a record each, and one with eight."""

    def __init__(self, who: str = "many") -> None:
        names = [f"c{row}" for row in range(100)] + [who.format(row) for row in range(8)]
        ages = {"age": [30.0] * 99 + [None] + [80.0] * 8}
        self.records = pl.DataFrame({"who": names, "image": range(108), "label": [1] * 108} | ages)

    def __repr__(self) -> str:
        return f"Given({self.records['who'].to_list()})"

    def generate(self) -> PersonaData:
        return PersonaData(self.records, np.zeros((len(self.records), 28, 28), np.uint8))


class Rows(Step):
    """Does something to a table, as it is told."""

    name = "rows"

    def __init__(self, change) -> None:
        super().__init__()
        self._change = change

    def _apply(self, frame):
        return self._change(frame)


class Median(FillMedian):
    """Released at epsilon 0.5."""

    def __init__(self) -> None:
        super().__init__("age", bounds={"age": (18, 95)}, epsilon=0.5)


def one_name(frame):
    return frame.with_columns(pl.col("who").str.replace(r"^many.*", "many"))


def one_of_many(frame):
    return frame.unique("who", keep="first", maintain_order=True)


def found(frame):
    return frame.with_columns(person=pl.col("who").str.replace(r"^many.*", "many"))


def prepared(*steps, unit="example", who="many", **settings):
    ledger = PrivacyLedger(delta=1e-5, unit=unit)
    datamodule = PersonaDataModule(
        source=Given(who), preparation=list(steps), roles=ROLES, held_out=0.0, ledger=ledger, key=KEY, **settings
    )
    datamodule.prepare_data()
    return datamodule, ledger


@pytest.mark.parametrize(
    ("who", "steps"),
    [
        ("many", lambda: [Median(), BoundContributions(1)]),
        ("many", lambda: [Median()]),
        ("many", lambda: [Median(), Rows(one_of_many)]),
        ("many {}", lambda: [Median(), Rows(one_name), BoundContributions(1)]),
        ("many {}", lambda: [Rows(found), BoundContributions(1), Median(), BoundContributions(1, person="person")]),
    ],
    ids=["bounded", "cut by the pipeline", "dropped", "named later", "joined"],
)
def test_p34_a_release_before_the_cut_is_for_a_person_of_as_many_records(who, steps):
    datamodule, ledger = prepared(*steps(), who=who)
    assert datamodule.counts["train"] == 101
    assert any("one person had up to 8 of them" in caveat for caveat in ledger.caveats)
    guarantee = datamodule.guarantee(ledger)
    assert (guarantee.records, guarantee.epsilon) == (8, pytest.approx(4.0, rel=1e-2))
    assert "Each person is in one record" not in guarantee.sentence()
    with pytest.raises(PrivacyViolation, match="had up to 8 of them"):
        prepared(*steps(), who=who, unit="patient")


@pytest.mark.parametrize(
    "steps",
    [
        lambda: {"preparation": [BoundContributions(1), Median()]},
        lambda: {"preparation": [], "train_preparation": [Median()]},
        lambda: {"preparation": [DeclaredLimits({"age": (18, 95)}), BoundContributions(1)]},
        lambda: {"preparation": [Rows(found), BoundContributions(1, person="person"), Median()]},
    ],
    ids=["bounded before", "of those to train on", "no release", "found before"],
)
def test_a_release_after_the_cut_is_for_one_record_of_each(steps):
    arguments = steps()
    datamodule, ledger = prepared(*arguments.pop("preparation"), **arguments)
    assert not any("up to" in caveat for caveat in ledger.caveats)
    assert datamodule.most_records_charged == datamodule.guarantee(ledger).records == 1
    assert datamodule.guarantee(ledger).sentence().startswith("Each person is in one record")


def test_p34_a_release_before_people_are_found_is_for_nobody_knows_whom():
    """Eight names of one person, whom a later step finds out: what was left out in between is known to nobody."""
    steps = [Median(), Rows(one_of_many), Rows(found), BoundContributions(1, person="person")]
    datamodule, ledger = prepared(*steps, who="many {}")
    assert any("before all was known that says who is who" in caveat for caveat in ledger.caveats)
    assert datamodule.most_records_charged is None
    assert datamodule.guarantee(ledger) is None
    with pytest.raises(PrivacyViolation, match="before all was known that says who is who"):
        prepared(Median(), Rows(found), unit="person")


def test_p34_a_release_before_the_cut_can_be_had_as_a_caveat_of_a_ledger_of_persons():
    datamodule, ledger = prepared(Median(), BoundContributions(1, caveat=True), unit="person")
    assert any("one person had up to 8 of them" in caveat for caveat in ledger.caveats)
    assert datamodule.guarantee(ledger).records == 8


def test_p34_a_store_knows_of_how_many_records_it_was(tmp_path):
    first, ledger = prepared(Median(), BoundContributions(1), store=tmp_path)
    again, other = prepared(Median(), BoundContributions(1), store=tmp_path)
    assert again._stage.stamp == first._stage.stamp
    assert other.caveats == ledger.caveats
    assert again.guarantee(other) == first.guarantee(ledger)
    assert again.guarantee(other).records == 8


def test_p34_records_are_not_multiplied_after_the_cut():
    twice = Rows(lambda frame: pl.concat([frame, frame]))
    with pytest.raises(ConfigurationError, match="made up to 2 records of one person"):
        prepared(train_preparation=[twice])
    datamodule, _ = prepared(train_preparation=[twice], max_records_per_person=2, who="many {}")
    assert datamodule.counts["train"] == 2 * 108


def test_before_the_data_are_prepared_the_settings_are_asked():
    datamodule = PersonaDataModule(source=Given(), preparation=[], roles=ROLES, max_records_per_person=3)
    assert datamodule.most_records_charged == 3
    assert datamodule._stage is None


# Who a record is about, for steps that are not told.


@pytest.mark.parametrize("action", ["drop", "blank"])
def test_p34_people_hide_among_people_and_not_among_numbers_of_customers(action):
    """Eighty-year-olds are eight customer numbers, of two people in truth."""
    two = Rows(lambda frame: frame.with_columns(person=pl.col("who").str.replace(r"^many [0-3]$", "many")))
    three = Rows(lambda frame: frame.with_columns(pl.col("person").str.replace(r"^many [4-7]$", "other")))
    hidden = SuppressToK(3, columns=["age"], action=action, caveat=True)
    settings = {"max_records_per_person": 8, "who": "many {}", "train_preparation": [hidden]}
    datamodule, _ = prepared(Rows(lambda frame: frame.drop_nulls("age")), two, three, **settings)
    table = datamodule._stage.table
    assert anonymity(table, ["age"], person="person").k >= 3
    assert 80.0 not in table["age"].to_list()


def test_p34_records_are_cut_to_one_of_each_person_found():
    settings = {"max_records_per_person": 8, "who": "many {}", "train_preparation": [BoundContributions(1)]}
    datamodule, _ = prepared(Rows(found), **settings)
    assert len(datamodule._stage.table) == 101


def test_the_identifier_stays_what_it_is_for_pseudonyms():
    from lightning_privacy.preparation import Pseudonymise

    datamodule, _ = prepared(Rows(found), train_preparation=[Pseudonymise()])
    table = datamodule._stage.table
    assert not set(table["who"]) & set(Given().records["who"])
    assert "many" in table["person"].to_list()
