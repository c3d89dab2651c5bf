"""Who is public, and how many records a person has: decided before records are cut, told to what training protects."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from lightning_privacy.accounting import LaplaceRelease, PrivacyLedger
from lightning_privacy.callbacks._preconditions import check_data_ledger
from lightning_privacy.data import PersonaDataModule
from lightning_privacy.data.persona.generator import PersonaData
from lightning_privacy.data.persona.persons import check_persons
from lightning_privacy.data.persona.pipeline import run
from lightning_privacy.data.persona.plan import Plan
from lightning_privacy.data.persona.publicness import PRIVATE, PrivatePeople
from lightning_privacy.data.persona.same_person import SamePerson
from lightning_privacy.errors import ConfigurationError, PrivacyViolation
from lightning_privacy.preparation import (
    BoundContributions,
    Deduplicate,
    FillFromPerson,
    FillMedian,
    Preparation,
    Roles,
    Step,
    group_privacy,
)

KEYS = [bytes([number]) * 32 for number in range(8)]


class Given:
    """A table given by hand."""

    def __init__(self, **columns) -> None:
        self.records = pl.DataFrame(columns)

    def __repr__(self) -> str:
        return f"Given({self.records.to_dict(as_series=False)})"

    def generate(self) -> PersonaData:
        return PersonaData(self.records, np.zeros((len(self.records), 28, 28), np.uint8))


def people(**more) -> Given:
    """Twenty people with a private record that holds a secret and a public one without; five public ones; one other."""
    columns = {
        "who": [f"p{row // 2}" for row in range(40)] + [f"q{row}" for row in range(5)] + ["r"],
        "public": [row % 2 == 1 for row in range(40)] + [True] * 5 + [False],
        "town": ["secret" if row % 2 == 0 else None for row in range(40)] + ["open"] * 5 + ["secret"],
        "image": list(range(46)),
        "label": [row // 2 % 10 for row in range(40)] + [1] * 6,
    }
    return Given(**columns, **more)


ROLES = Roles(identifier="who", label="label")


class DropPrivateRows(Step):
    """Leaves out the private records of people, those of one excepted."""

    name = "drop private rows"

    def _apply(self, frame):
        return frame.filter(pl.col("public") | (pl.col("who") == "r"))


class SelectColumns(Step):
    """Selects columns."""

    name = "select"

    def _apply(self, frame):
        return frame.select("who", "public", "image", "label")


# Who is public.


@pytest.mark.parametrize("key", KEYS, ids=range(8))
@pytest.mark.parametrize(
    "steps",
    [
        lambda: [FillFromPerson("town", caveat=True), BoundContributions(1)],
        lambda: [FillFromPerson("town", caveat=True)],
        lambda: [FillFromPerson("town", caveat=True), DropPrivateRows()],
        lambda: [Deduplicate(["who"], near=False, merge="frequent", caveat=True)],
        lambda: [FillFromPerson("town", caveat=True), Deduplicate(["who"], near=False, merge="first", caveat=True)],
    ],
    ids=["bounded", "cut by the pipeline", "dropped", "merged", "first"],
)
def test_p34_what_only_a_private_record_said_is_in_no_public_one(steps, key):
    """Whatever is left of a person's records, one of which was private: the public ones are not held out."""
    plan = Plan(source=people(), preparation=Preparation(steps()), roles=ROLES, val_share=0.0)
    stage = run(plan, store=None, ledger=PrivacyLedger(delta=1e-5), key=key)
    held_out = stage.table.filter(pl.col("side") != "train")
    assert set(held_out["who"]) == {f"q{number}" for number in range(5)}
    assert "secret" not in held_out["town"].to_list()


@pytest.mark.parametrize("rule", ["complete", "first", "frequent"])
def test_p34_one_record_made_of_several_is_private_if_one_was(rule):
    """Nobody knew before whose the records are; the merged one may hold a value of a private one, and say public."""
    source = people()
    source.records = source.records.reverse().with_columns(name=pl.col("who")).drop("who")
    steps = [Deduplicate(["name"], near=False, merge=rule)]
    stage = run(Plan(source=source, preparation=Preparation(steps), val_share=0.0), store=None)
    assert set(stage.table.filter(side="test")["name"]) == {f"q{number}" for number in range(5)}


def test_p34_a_private_record_without_a_label_makes_its_person_private():
    source = people()
    source.records = source.records.with_columns(
        pl.when(pl.col("public") | (pl.col("who") == "r")).then("label").alias("label")
    )
    stage = run(Plan(source=source, roles=ROLES, val_share=0.0), store=None)
    assert set(stage.table.filter(side="test")["who"]) == {f"q{number}" for number in range(5)}


def test_p34_of_a_private_person_the_private_records_are_trained_on():
    """The cut is among the records to train on: a public one that would be left out takes no place."""
    stage = run(Plan(source=people(), roles=ROLES, val_share=0.0), store=None)
    train = stage.table.filter(side="train")
    assert train["who"].sort().to_list() == sorted([f"p{number}" for number in range(20)] + ["r"])
    assert not train["public"].any()
    assert stage.counts["public records of private people"] == -20
    assert not [name for name in stage.table.columns if name.startswith("\x00")]


def test_people_are_joined_by_all_columns_that_say_who_they_are():
    table = pl.DataFrame(
        {
            "who": ["a", "a", "b", "c", None],
            "cluster": [0, 1, 1, 2, 3],
            "public": [False, True, True, True, None],
        }
    )
    assert PrivatePeople(["who", "cluster"])(table)[PRIVATE].to_list() == [True, True, True, False, True]
    assert PrivatePeople(["cluster", "who"])(table)[PRIVATE].to_list() == [True, True, True, False, True]
    assert PrivatePeople(["who"])(table)[PRIVATE].to_list() == [True, True, False, False, True]
    assert PrivatePeople(["who"])(table.drop("public")).columns == ["who", "cluster"]


def test_a_step_that_forgets_who_is_private_is_named():
    plan = Plan(source=people(), preparation=Preparation([SelectColumns()]), roles=ROLES)
    with pytest.raises(ConfigurationError, match="selected columns, and left out the one in which it is kept"):
        run(plan, store=None)


# Records of a person.


def test_p34_training_for_persons_on_several_records_of_one_is_refused(tmp_path):
    """The preparation is row by row, so that only training has a ledger."""
    datamodule = PersonaDataModule(source=people(), preparation=[], roles=ROLES, max_records_per_person=3)
    with pytest.raises(PrivacyViolation, match=r"protects a person, and up to 3 records .* max_records_per_person=1"):
        check_data_ledger(datamodule, PrivacyLedger(delta=1e-5, unit="person"))
    dataset = datamodule.train_dataloader().dataset
    with pytest.raises(PrivacyViolation, match="up to 3 records"):
        check_data_ledger(dataset, PrivacyLedger(delta=1e-5, unit="person"))
    for source in (datamodule, dataset):
        ledger = PrivacyLedger(delta=1e-5)
        check_data_ledger(source, ledger)
        assert "group_privacy(ledger, records=3)" in ledger.caveats[0]
    # A client's guarantee is for all records there are of anybody.
    check_data_ledger(datamodule, PrivacyLedger(delta=1e-5, unit="client"), clients=True)


def test_p34_one_record_of_each_is_what_a_ledger_of_persons_is_for():
    datamodule = PersonaDataModule(source=people(), preparation=[], roles=ROLES)
    ledger = PrivacyLedger(delta=1e-5, unit="person")
    check_data_ledger(datamodule, ledger)
    check_data_ledger(datamodule.train_dataloader().dataset, ledger)
    assert [caveat for caveat in ledger.caveats if "told apart by" not in caveat] == []


def test_p34_who_is_not_known_is_protected_by_no_ledger_of_persons():
    datamodule = PersonaDataModule(source=people(), preparation=[], roles={}, held_out=0.0)
    dataset = datamodule.train_dataloader().dataset
    with pytest.raises(PrivacyViolation, match="nobody knows who a record is about"):
        check_data_ledger(dataset, PrivacyLedger(delta=1e-5, unit="person"))
    with pytest.raises(PrivacyViolation, match="nobody knows who a record is about"):
        run(Plan(source=people()), store=None, ledger=PrivacyLedger(delta=1e-5, unit="person"))
    assert datamodule.guarantee(PrivacyLedger(delta=1e-5)) is None


@pytest.mark.parametrize("unit", ["person", "patient"])
def test_p34_a_preparation_for_persons_keeps_one_record_of_each(unit):
    plan = Plan(source=people(), roles=ROLES, max_records=2)
    with pytest.raises(PrivacyViolation, match=f"protects a {unit}, and up to 2 records of one are trained on"):
        run(plan, store=None, ledger=PrivacyLedger(delta=1e-5, unit=unit))


def test_p35_what_is_learned_from_records_is_not_charged_to_clients():
    roles = Roles(identifier="who", client="town", label="label")
    step = FillMedian("label", bounds={"label": [0, 9]}, epsilon=0.1)
    plan = Plan(source=people(), roles=roles, train_preparation=Preparation([step]))
    ledger = PrivacyLedger(delta=1e-5, unit="client")
    with pytest.raises(PrivacyViolation, match="the ledger protects a client, and the step 'fill median' releases"):
        run(plan, store=None, ledger=ledger)
    assert ledger.groups == ()


def test_a_guarantee_for_a_person_is_group_privacy():
    datamodule = PersonaDataModule(source=people(), preparation=[], roles=ROLES, max_records_per_person=2)
    ledger = PrivacyLedger(delta=1e-5)
    ledger.charge(LaplaceRelease(0.5))
    assert datamodule.guarantee(ledger) == group_privacy(ledger, records=2)
    assert "epsilon is 0.500 for a record and 1.000 for a person" in datamodule.guarantee(ledger).sentence()
    check_persons(ledger, 1)
    assert ledger.caveats == ()


# Who is who, by several columns.


class WhoByTown(Step):
    """Finds people by another column, and as it may be, wrongly."""

    name = "who by town"

    def _apply(self, frame):
        return frame.with_columns(person=pl.col("town"))


class OneRowOfEach(Step):
    """Leaves out all but one row of each person found, and perhaps the identifier, before people are counted."""

    name = "one row of each"

    def _apply(self, frame):
        return frame.unique("person", keep="first", maintain_order=True).drop("who")


def customers(**more) -> Given:
    """A hundred customers with a record each, and one with eight, in each of which all else is different."""
    who = [f"c{row}" for row in range(100)] + ["many"] * 8
    towns = [f"t{row}" for row in range(108)]
    return Given(**({"who": who, "town": towns, "image": list(range(108)), "label": [1] * 108} | more))


@pytest.mark.parametrize("steps", [[WhoByTown()], [WhoByTown(), OneRowOfEach()]], ids=["kept", "forgotten"])
@pytest.mark.parametrize("most", [1, 3])
def test_p34_a_customer_in_records_that_differ_is_one_person(steps, most):
    """The steps take them for eight; seven of them, one of another side, would be trained on with epsilon of one."""
    plan = Plan(source=customers(), preparation=Preparation(steps), roles=ROLES, held_out=0.5, max_records=most)
    table = run(plan, store=None).table
    own = table.filter(pl.col("image") >= 100)
    assert len(own) == most
    assert own["side"].n_unique() == own["person"].n_unique() == 1
    assert len(table) == 100 + most
    others = table.filter(pl.col("image") < 100)
    assert others["person"].to_list() == others["town"].to_list()


def test_p34_what_was_released_of_a_customer_in_records_that_differ_is_not_for_one():
    class Released(Step):
        name = "released"

        def _fit(self, frame, context):
            context.ledger.charge(LaplaceRelease(0.5), label=self.name)

        def planned(self, schema, context):
            return [(LaplaceRelease(0.5), 1)]

        def _apply(self, frame):
            return frame

    steps = [WhoByTown(), BoundContributions(1, person="person"), Released()]
    plan = Plan(source=customers(), preparation=Preparation(steps), roles=ROLES)
    with pytest.raises(PrivacyViolation, match="one person had up to 8 of them"):
        run(plan, store=None, ledger=PrivacyLedger(delta=1e-5, unit="person"))


@pytest.mark.parametrize("missing", [None, " "], ids=["null", "blank"])
def test_a_missing_identifier_joins_nobody(missing):
    source = customers(who=[missing] * 108)
    plan = Plan(source=source, preparation=Preparation([WhoByTown()]), roles=ROLES)
    assert run(plan, store=None).table["person"].n_unique() == 108


def test_people_are_the_connected_parts_of_what_columns_say():
    generator = np.random.default_rng(0)
    columns = {name: generator.integers(0, 60, 80).tolist() for name in "abc"}
    for values in columns.values():
        for row in generator.integers(0, 80, 30).tolist():
            values[row] = None
    columns["a"] = [row if value is None else value for row, value in enumerate(columns["a"], start=1000)]
    table = pl.DataFrame(columns)
    same = SamePerson("abc")
    same.look_at(table[:50])
    same.look_at(table[30:])
    names = same.named(table, "a")["a"].to_list()
    groups = list(range(80))
    for _ in groups:
        for one in range(80):
            for other in range(80):
                if any(values[one] is not None and values[one] == values[other] for values in columns.values()):
                    groups[one] = groups[other] = min(groups[one], groups[other])
    assert 5 < len(set(groups)) < 60
    for one in range(80):
        assert [name == names[one] for name in names] == [group == groups[one] for group in groups]
        assert names[one] == min(
            str(value) for value, group in zip(columns["a"], groups, strict=True) if group == groups[one]
        )
