"""From people to prepared tables: bounded, divided by person, charged to one ledger, kept encrypted."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from lightning_privacy.accounting import LaplaceRelease, PrivacyLedger
from lightning_privacy.data.persona.encoding import UNKNOWN_REGION, encode
from lightning_privacy.data.persona.generator import PersonaData, PersonaGenerator
from lightning_privacy.data.persona.pipeline import run
from lightning_privacy.data.persona.plan import Plan
from lightning_privacy.data.persona.split import at_most, split_by_person
from lightning_privacy.data.persona.stage import SIDES
from lightning_privacy.data.persona.store import PersonaStore
from lightning_privacy.errors import ConfigurationError, PrivacyBudgetExceeded
from lightning_privacy.preparation import BoundContributions, Preparation, Roles, Step
from lightning_privacy.security import Key, TamperedError, WrongKeyError

KEY = bytes(range(32))
ROLES = Roles(identifier="customer", groups=("gender",), client="location", label="label")


class CountRows(Step):
    """Releases the number of rows with noise, and writes it into a column."""

    name = "count rows"
    private = "released"
    learns = True

    def __init__(self, epsilon: float = 0.5) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.seen: int | None = None

    def planned(self, schema, context):
        return [(LaplaceRelease(self.epsilon), 1)] if context.private else ()

    def _fit(self, frame, context):
        if context.ledger is not None:
            context.ledger.charge(LaplaceRelease(self.epsilon), label=self.name)
        self.seen = frame.collect().height
        self._learned = {"rows": self.seen}

    def _apply(self, frame):
        return frame.with_columns(seen=pl.lit(self.seen))


class WhoIsWho(Step):
    """A perfect de-duplication: by image, which doubles share; two images of one person stay two people."""

    name = "who is who"

    def _apply(self, frame):
        return frame.with_columns(person=pl.col("image"))


class Fixed:
    """A table given by hand."""

    def __init__(self, **columns) -> None:
        self.columns = columns

    def __repr__(self) -> str:
        return f"Fixed({self.columns})"

    def generate(self) -> PersonaData:
        records = pl.DataFrame(self.columns)
        return PersonaData(records, np.zeros((len(records), 28, 28), np.uint8))


def _generator(**settings) -> PersonaGenerator:
    return PersonaGenerator(**{"num_persons": 300, **settings})


# Division by person.


def _table(rows: int = 3000, persons: int = 900, seed: int = 0, **columns) -> pl.DataFrame:
    generator = np.random.default_rng(seed)
    person = generator.integers(0, persons, rows)
    return pl.DataFrame({"record": np.arange(rows), "person": person, **columns})


def test_p34_nobody_is_on_two_sides():
    sides = split_by_person(_table(), person="person", held_out=0.3, val_share=0.5, seed=1)
    assert sum(map(len, sides.values())) == 3000
    people = [set(sides[name]["person"]) for name in SIDES]
    assert not people[0] & people[1]
    assert not people[0] & people[2]
    assert not people[1] & people[2]
    shares = [len(part) / 900 for part in people]
    # Four standard deviations of a binomial share.
    assert np.allclose(shares, [0.7 * 0.96, 0.15 * 0.96, 0.15 * 0.96], atol=0.06)


def test_a_side_depends_on_that_person_alone():
    table = _table()
    whole = split_by_person(table, person="person", held_out=0.3, val_share=0.5, seed=1)
    fewer = split_by_person(
        table.filter(pl.col("person") % 3 > 0), person="person", held_out=0.3, val_share=0.5, seed=1
    )
    for name in SIDES:
        assert fewer[name].equals(whole[name].filter(pl.col("person") % 3 > 0))


def test_public_people_are_held_out_and_public_records_of_others_left_out():
    table = pl.DataFrame(
        {
            "record": range(6),
            "person": ["a", "a", "b", "b", "c", "d"],
            "public": [True, True, True, False, None, True],
        }
    )
    sides = split_by_person(table, person="person", held_out=0.0, val_share=0.0, seed=0)
    assert sides["test"]["record"].to_list() == [0, 1, 5]
    assert sides["train"]["record"].to_list() == [3, 4]
    assert sides["neither"]["record"].to_list() == [2]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_p34_a_person_has_at_most_so_many_records(count):
    table = _table()
    kept = at_most(table, count, person="person", seed=0)
    expected = table.group_by("person").len().select("person", pl.col("len").clip(upper_bound=count)).sort("person")
    assert kept.group_by("person").len().sort("person").equals(expected)
    assert kept["record"].is_sorted()
    # Whose records they are, nobody else decides.
    alone = at_most(table.filter(person=5), count, person="person", seed=0)
    assert alone.equals(kept.filter(person=5))


def test_which_record_is_kept_is_no_matter_of_order():
    table = _table()
    shuffled = table.sample(fraction=1.0, shuffle=True, seed=3)
    kept, other = (at_most(part, 1, person="person", seed=0)["record"].sort() for part in (table, shuffled))
    assert kept.equals(other)


def test_nobody_left_to_train_on_is_an_error():
    plan = Plan(source=_generator(public_share=1.0))
    with pytest.raises(ConfigurationError, match="nobody is left to train on"):
        run(plan, store=None)


# Order of the stages.


def test_p34_records_are_bounded_before_the_training_part_is_learned_from():
    plan = Plan(
        source=_generator(), preparation=Preparation([WhoIsWho()]), train_preparation=Preparation([CountRows()])
    )
    stage = run(plan, store=None, ledger=PrivacyLedger(delta=1e-5))
    train = stage.table.filter(side="train")
    assert train["person"].is_unique().all()
    assert set(stage.table["seen"]) == {len(train)}  # learned from the training part, applied to all


def test_base_images_stay_apart_through_the_preparation():
    plan = Plan(source=_generator(num_persons=1000), preparation=Preparation([WhoIsWho()]), roles=ROLES)
    stage = run(plan, store=None)
    bases = stage.table.join(stage.truth.records.select("record", "base", true="person"), on="record")
    sides = {name: bases.filter(side=name) for name in SIDES}
    for column in ("base", "true"):
        train, val, test = (set(sides[name][column]) for name in SIDES)
        assert not train & (val | test), column


@pytest.mark.parametrize("ledger", [None, PrivacyLedger(delta=1e-5)], ids=["plain", "private"])
def test_p34_rows_that_do_not_say_whose_they_are_are_refused_or_left_out(ledger):
    """Taken for as many people, all rows of one person without a name would be trained on."""
    source = Fixed(image=[0, 1, 2, 3], label=[0, 1, 2, 3], person=["a", "a", None, None])
    with pytest.raises(ConfigurationError, match="2 rows don't say who they are about, in column 'person'"):
        run(Plan(source=source, held_out=0.0), store=None, ledger=ledger)
    left_out = Preparation([BoundContributions(person="person", missing="drop")])
    assert len(run(Plan(source=source, held_out=0.0, preparation=left_out), store=None, ledger=ledger).table) == 1


# The ledger.


def test_what_is_learned_is_charged_and_nothing_else():
    ledger = PrivacyLedger(delta=1e-5)
    plan = Plan(
        source=_generator(),
        preparation=Preparation([WhoIsWho()]),
        train_preparation=Preparation([CountRows(0.5), CountRows(0.25)]),
    )
    stage = run(plan, store=None, ledger=ledger)
    assert ledger.history == [(LaplaceRelease(0.5), 1, "count rows"), (LaplaceRelease(0.25), 1, "count rows")]
    assert ledger.epsilon(exact=True) == pytest.approx(0.75, abs=1e-3)
    assert list(stage.releases) == ledger.history
    assert ledger.caveats == ()


def test_without_a_ledger_nothing_is_private_and_nothing_charged():
    stage = run(Plan(source=_generator(), train_preparation=Preparation([CountRows()])), store=None)
    assert stage.releases == ()
    assert not stage.private


@pytest.mark.parametrize("where", ["preparation", "train_preparation"])
def test_p30_a_budget_that_is_too_small_stops_before_the_step(where):
    steps = [CountRows(0.4), CountRows(0.7)]
    ledger = PrivacyLedger(delta=1e-5, budget=1.0)
    with pytest.raises(PrivacyBudgetExceeded, match=r"step 2 of the preparation \(count rows\) was not begun"):
        run(Plan(source=_generator(), **{where: Preparation(steps)}), store=None, ledger=ledger)
    assert steps[1].seen is None
    assert ledger.epsilon(exact=True) == pytest.approx(0.4, abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "caveat"),
    [
        ({"roles": Roles()}, "does not say who a record is about"),
        ({"roles": ROLES}, "told apart by the column 'customer' alone"),
        ({"preparation": Preparation([WhoIsWho()]), "max_records": 3}, "Up to 3 records of one person"),
    ],
    ids=["nobody", "identifier", "several"],
)
def test_p34_what_a_person_is_worth_is_a_caveat(settings, caveat):
    ledger = PrivacyLedger(delta=1e-5)
    run(Plan(source=_generator(), **settings), store=None, ledger=ledger)
    assert [text for text in ledger.caveats if caveat in text]


# The store.


@pytest.fixture
def plan():
    def make(**settings) -> Plan:
        defaults = {"source": _generator(), "preparation": Preparation([WhoIsWho()])}
        return Plan(**{**defaults, "train_preparation": Preparation([CountRows(0.5)]), **settings})

    return make


def test_a_stored_preparation_is_read_and_charged_again(tmp_path, plan):
    store = PersonaStore(tmp_path / "store", KEY)
    ledgers = [PrivacyLedger(delta=1e-5) for _ in range(2)]
    step = CountRows(0.5)
    first = run(plan(), store=store, ledger=ledgers[0])
    again = run(plan(train_preparation=Preparation([step])), store=store, ledger=ledgers[1])
    assert step.seen is None  # nothing was learned anew
    assert again.stamp == first.stamp
    assert again.table.equals(first.table)
    assert np.array_equal(again.images, first.images)
    assert ledgers[0].history == ledgers[1].history == [(LaplaceRelease(0.5), 1, "count rows")]
    assert again.report.to_dict() == first.report.to_dict()
    assert again.counts == first.counts


def test_charging_what_is_stored_keeps_to_the_budget(tmp_path, plan):
    store = PersonaStore(tmp_path, KEY)
    run(plan(), store=store, ledger=PrivacyLedger(delta=1e-5))
    with pytest.raises(PrivacyBudgetExceeded):
        run(plan(), store=store, ledger=PrivacyLedger(delta=1e-5, budget=0.2))


@pytest.mark.parametrize(
    "change",
    [
        {"train_preparation": Preparation([CountRows(0.25)])},
        {"train_preparation": Preparation([])},
        {"source": _generator(seed=1)},
        {"source": _generator(num_persons=301)},
        {"max_records": 2},
        {"seed": 5},
        {"roles": ROLES},
    ],
    ids=["epsilon", "steps", "seed of people", "people", "records", "seed", "roles"],
)
def test_another_plan_is_prepared_anew(tmp_path, plan, change):
    store = PersonaStore(tmp_path, KEY)
    first = run(plan(), store=store, ledger=PrivacyLedger(delta=1e-5))
    ledger = PrivacyLedger(delta=1e-5)
    other = run(plan(**change), store=store, ledger=ledger)
    assert other.stamp != first.stamp
    assert list(other.releases) == ledger.history


def test_p33_a_preparation_without_privacy_is_not_taken_for_a_private_one(tmp_path, plan):
    store = PersonaStore(tmp_path, KEY)
    run(plan(), store=store)
    ledger = PrivacyLedger(delta=1e-5)
    assert run(plan(), store=store, ledger=ledger).private
    assert ledger.epsilon(exact=True) == pytest.approx(0.5, abs=1e-3)


def test_a_preparation_that_was_interrupted_never_began(tmp_path, plan, monkeypatch):
    store = PersonaStore(tmp_path, KEY)
    run(plan(), store=store)
    monkeypatch.setattr(PersonaStore, "write_notes", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(plan(seed=9), store=store)
    assert store.read_notes("prepared_notes") is None


def test_nothing_in_the_store_is_in_the_clear(tmp_path, plan):
    stage = run(plan(source=_generator(num_persons=50)), store=PersonaStore(tmp_path, KEY))
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    texts = [text for name in ("given_name", "surname", "email") for text in stage.truth.records[name]]
    # Longer ones: three letters come by chance among so many bytes.
    secrets = [text.encode() for text in texts if len(text) >= 5]
    assert len(secrets) > 100
    assert not [text for text in secrets if text in written]
    image = max((image for image in stage.images), key=lambda image: np.unique(image).size)
    assert image[10:18].tobytes() not in written
    assert json.dumps("count rows")[1:-1].encode() not in written


def test_a_store_is_read_with_its_key_only(tmp_path, plan):
    run(plan(), store=PersonaStore(tmp_path, KEY))
    with pytest.raises(WrongKeyError):
        run(plan(), store=PersonaStore(tmp_path, Key.generate()))


def test_files_of_a_store_cannot_change_places(tmp_path, plan):
    store = PersonaStore(tmp_path, KEY)
    run(plan(), store=store)
    store.paths["prepared"].write_bytes(store.paths["records"].read_bytes())
    with pytest.raises((TamperedError, WrongKeyError)):
        run(plan(), store=store)


def test_the_truth_has_files_of_its_own_and_is_not_read_with_the_data(tmp_path, plan):
    store = PersonaStore(tmp_path, KEY)
    run(plan(), store=store)
    assert {"truth", "truth_errors"} <= set(store.paths)
    stage = run(plan(), store=store)
    assert stage.truth is None
    assert store.read_data(stage.stamp).truth is None
    truth = store.read_truth(stage.stamp)
    assert truth.errors.equals(_generator().generate().truth.errors)


# Tensors.


def test_p33_numbers_and_scales_are_public_constants():
    images = np.arange(3 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(3, 28, 28)
    table = pl.DataFrame(
        {
            "image": [2, 0, 1],
            "label": [9, 0, 4],
            "gender": ["male", None, "female"],
            "age": [18, 75, None],
            "location": ["Umea", "Sweden", "Atlantis"],
            "person": ["x", "y", "z"],
        }
    )
    dataset = encode(table, images, person="person", client="location")
    assert dataset.tensors[0].shape == (3, 1, 28, 28)
    expected = images[[2, 0, 1]].astype(np.float64) / 127.5 - 1
    assert np.allclose(dataset.tensors[0][:, 0], expected, atol=1e-6)
    assert dataset.labels.tolist() == [9, 0, 4]
    assert dataset.gender.tolist() == [1, 2, 0]
    assert dataset.age_band.tolist() == [0, 4, 5]
    assert dataset.location.tolist() == [5, 5, UNKNOWN_REGION]
    assert dataset.client.tolist() == ["Umea", "Sweden", "Atlantis"]
    assert dataset.person.tolist() == ["x", "y", "z"]
    # A row alone is encoded as among others.
    alone = encode(table[1:2], images, person=None, client=None)
    assert all((one == many[1:2]).all() for one, many in zip(alone.tensors, dataset.tensors, strict=True))


@pytest.mark.parametrize("column", ["age", "age_band"])
def test_bands_of_ages_are_read_by_their_names(column):
    table = pl.DataFrame({"image": [0] * 4, "label": [1] * 4, column: ["30-44", "75+", "<18", None]})
    assert encode(table, np.zeros((1, 28, 28), np.uint8), person=None, client=None).age_band.tolist() == [1, 4, 5, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": [3, 10]}, "'label' must hold a class from 0 to 9, got values such as 10"),
        ({"label": ["3", "x"]}, "'label' must hold a class from 0 to 9, got values such as 'x'"),
        ({"label": [1.5, 2.0]}, "'label' must hold a class from 0 to 9, got values such as 1.5"),
        ({"image": [0, 2]}, "'image' must hold a position among the 2 images, got values such as 2"),
        ({"label": [None, None]}, "no row of the prepared table has both an image and a label"),
    ],
    ids=["class", "text", "fraction", "image", "no label"],
)
def test_values_that_cannot_be_encoded_are_named(change, message):
    table = pl.DataFrame({"image": [0, 1], "label": [1, 2], **change})
    with pytest.raises(ConfigurationError, match=message):
        encode(table, np.zeros((2, 28, 28), np.uint8), person=None, client=None)


def test_a_column_that_is_missing_is_named():
    with pytest.raises(ConfigurationError, match="lacks label, and has image"):
        encode(pl.DataFrame({"image": [0]}), np.zeros((1, 28, 28), np.uint8), person=None, client=None)
    table = pl.DataFrame({"image": [0], "label": [0]})
    with pytest.raises(ConfigurationError, match="client must be a column of the prepared table, got 'town'"):
        encode(table, np.zeros((1, 28, 28), np.uint8), person=None, client="town")
