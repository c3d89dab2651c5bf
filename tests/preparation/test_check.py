"""What can be told without rows is told before anything is charged, whichever step it is about."""

from __future__ import annotations

from datetime import date

import polars as pl
import pytest

import lightning_privacy.preparation as preparation_module
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.data.persona.forget import Forget
from lightning_privacy.errors import ConfigurationError, PrivacyViolation
from lightning_privacy.preparation import (
    Bands,
    BoundContributions,
    Context,
    DeclaredLimits,
    Deduplicate,
    FillConstant,
    FillFromModel,
    FillFromPerson,
    FillMean,
    FillMedian,
    FillMode,
    HideFreeText,
    LabelErrors,
    MissingIndicator,
    NormaliseCodes,
    NormaliseDates,
    NormaliseText,
    Prefix,
    Preparation,
    Pseudonymise,
    Regions,
    RobustLimits,
    Step,
    SuppressToK,
    TimeBuckets,
)

KEY = bytes(range(32))
TABLE = pl.DataFrame(
    {
        "who": ["a", "b", "c", "d"],
        "age": [30, 40, None, 60],
        "born": [date(1990, 1, 1), date(1980, 1, 1), None, date(1960, 1, 1)],
        "sex": ["f", "m", "f", None],
        "note": ["x", "y", "z", "x"],
        "tags": [["x"], ["y"], [], None],
        "size": [1.5, 2.5, 3.5, 4.5],
    }
)
AGES = {"age": [0, 120]}
SEXES = {"sex": ["f", "m"]}
NO_KEY = "needs a key"
# (step, message, what the context has besides a ledger of persons)
FAULTS = {
    "bands-unknown": (lambda: Bands("agee", edges=[18]), "did you mean 'age'", {}),
    "bands-text": (lambda: Bands("sex", edges=[18]), "bands are of numbers", {}),
    "bound-nobody": (lambda: BoundContributions(1), "must know whose a record is", {}),
    "bound-unknown": (lambda: BoundContributions(1, person="whoo"), "did you mean 'who'", {}),
    "bound-unit": (lambda: BoundContributions(3, person="who"), "take max_records=1", {}),
    "bound-key": (lambda: BoundContributions(1, person="who"), "key must be 32 bytes", {"key": b"short"}),
    "limits-unknown": (lambda: DeclaredLimits({"agee": [0, 1]}), "did you mean 'age'", {}),
    "limits-text": (lambda: DeclaredLimits({"sex": [0, 1]}), "only numbers, dates and moments", {}),
    "deduplicate-compares": (lambda: Deduplicate(columns=["who"]), "compares rows", {}),
    "deduplicate-unknown": (lambda: Deduplicate(columns=["whoo"], caveat=True), "did you mean 'who'", {}),
    "deduplicate-list": (lambda: Deduplicate(columns=["tags"], caveat=True), "can't be compared", {}),
    "deduplicate-kinds": (lambda: Deduplicate(kinds={"whoo": "code"}, caveat=True), "did you mean 'who'", {}),
    "deduplicate-kind": (lambda: Deduplicate(kinds={"who": "name"}, caveat=True), "kind of column 'who'", {}),
    "deduplicate-person": (lambda: Deduplicate(person="who", caveat=True), "column of the table already", {}),
    "constant-unknown": (lambda: FillConstant({"sexx": "f"}), "did you mean 'sex'", {}),
    "constant-type": (lambda: FillConstant({"age": "none"}), "can't hold 'none'", {}),
    "model-unknown": (lambda: FillFromModel("sexx", ["age"], epsilon=1.0), "did you mean 'sex'", {}),
    "model-predictor": (lambda: FillFromModel("sex", ["agee"], epsilon=1.0), "did you mean 'age'", {}),
    "model-epsilon": (lambda: FillFromModel("sex", ["age"], categories=SEXES, bounds=AGES), "needs epsilon", {}),
    "model-bounds": (lambda: FillFromModel("sex", ["age"], categories=SEXES, epsilon=1.0), "needs public bounds", {}),
    "model-categories": (lambda: FillFromModel("sex", ["age"], bounds=AGES, epsilon=1.0), "public categories", {}),
    "model-type": (
        lambda: FillFromModel("sex", ["age"], categories=SEXES | {"age": ["old"]}, epsilon=1.0),
        "not of its type",
        {},
    ),
    "model-one-value": (
        lambda: FillFromModel("sex", ["age"], categories={"sex": ["f"]}, bounds=AGES, epsilon=1.0),
        "has one value only",
        {},
    ),
    "model-cells": (
        lambda: FillFromModel("sex", ["age"], categories=SEXES, bounds=AGES, bins=2_000_000, epsilon=1.0),
        "fewer categories or bins",
        {},
    ),
    "person-nobody": (lambda: FillFromPerson("sex"), "must know whose a record is", {}),
    "person-itself": (lambda: FillFromPerson("who", person="who"), "take it out", {}),
    "person-unknown": (lambda: FillFromPerson("sex", person="whoo"), "did you mean 'who'", {}),
    "person-column": (lambda: FillFromPerson("sexx", person="who"), "did you mean 'sex'", {}),
    "person-compares": (lambda: FillFromPerson("sex", person="who"), "compares rows", {"unit": "example"}),
    "mean-unknown": (lambda: FillMean("agee", bounds={"agee": [0, 1]}, epsilon=0.1), "did you mean 'age'", {}),
    "mean-text": (lambda: FillMean("sex", bounds={"sex": [0, 1]}, epsilon=0.1), "only numbers, dates and moments", {}),
    "mean-epsilon": (lambda: FillMean("age", bounds=AGES), "needs epsilon", {}),
    "median-epsilon": (lambda: FillMedian("age", bounds=AGES), "needs epsilon", {}),
    "median-bounds": (lambda: FillMedian("age", epsilon=0.1), "needs public bounds", {}),
    "mode-unknown": (lambda: FillMode("sexx", categories={"sexx": ["f"]}, epsilon=0.1), "did you mean 'sex'", {}),
    "mode-epsilon": (lambda: FillMode("sex", categories=SEXES), "needs epsilon", {}),
    "mode-categories": (lambda: FillMode("sex", epsilon=0.1), "needs public categories", {}),
    "mode-type": (lambda: FillMode("age", categories={"age": ["old"]}, epsilon=0.1), "not of its type", {}),
    "forget-unknown": (lambda: Forget(["whoo"]), "the table does not have", {}),
    "text-nothing": (lambda: HideFreeText(), "has no columns", {}),
    "text-unknown": (lambda: HideFreeText(["notes"]), "did you mean 'note'", {}),
    "text-number": (lambda: HideFreeText(["age"]), "and not text", {}),
    "text-names": (lambda: HideFreeText(["note"], names_from=["whoo"]), "did you mean 'who'", {}),
    "text-entity": (lambda: HideFreeText(["note"], entities=["TELEPATHY"]), "entities has 'TELEPATHY'|presidio", {}),
    "text-model": (lambda: HideFreeText(["note"], model="no_model"), "is not installed|presidio", {}),
    "labels-compares": (lambda: LabelErrors(features=["size"], label="sex"), "compares rows", {}),
    "labels-none": (lambda: LabelErrors(features=["size"], caveat=True), "has no label", {}),
    "labels-features": (lambda: LabelErrors(label="sex", caveat=True), "needs features", {}),
    "labels-unknown": (lambda: LabelErrors(features=["sizes"], label="sex", caveat=True), "did you mean 'size'", {}),
    "labels-label": (lambda: LabelErrors(features=["size"], label="sexx", caveat=True), "did you mean 'sex'", {}),
    "labels-text": (lambda: LabelErrors(features=["note"], label="sex", caveat=True), "a model needs numbers", {}),
    "labels-list": (lambda: LabelErrors(features=["tags"], label="sex", caveat=True), "a model needs numbers", {}),
    "labels-folds": (
        lambda: LabelErrors(features=["size"], label="sex", folds=1, caveat=True),
        "folds must be at least 2",
        {},
    ),
    "missing-unknown": (lambda: MissingIndicator("agee"), "did you mean 'age'", {}),
    "missing-there": (lambda: MissingIndicator("age", suffix="_known"), "column 'age_known' already", {}),
    "codes-unknown": (lambda: NormaliseCodes("sexx", {"f": ["w"]}), "did you mean 'sex'", {}),
    "codes-number": (lambda: NormaliseCodes("age", {"f": ["w"]}), "codes are replaced in text", {}),
    "dates-unknown": (lambda: NormaliseDates(["borne"]), "did you mean 'born'", {}),
    "dates-number": (lambda: NormaliseDates(["age"]), "dates are read from text", {}),
    "normalise-unknown": (lambda: NormaliseText(["whoo"]), "did you mean 'who'", {}),
    "normalise-number": (lambda: NormaliseText(["age"]), "and not text", {}),
    "prefix-unknown": (lambda: Prefix("whoo"), "did you mean 'who'", {}),
    "prefix-number": (lambda: Prefix("age"), "and not text", {}),
    "pseudonym-key": (lambda: Pseudonymise(["who"]), NO_KEY, {}),
    "pseudonym-bad-key": (lambda: Pseudonymise(["who"]), "key must be 32 bytes", {"key": b"short"}),
    "pseudonym-column": (lambda: Pseudonymise(), "pseudonymise has no column", {"key": KEY}),
    "pseudonym-unknown": (lambda: Pseudonymise(["whoo"]), "did you mean 'who'", {"key": KEY}),
    "pseudonym-float": (lambda: Pseudonymise(["size"]), "no one way of being written", {"key": KEY}),
    "regions-unknown": (lambda: Regions("sexx", {"x": ["f"]}), "did you mean 'sex'", {}),
    "regions-number": (lambda: Regions("age", {"x": ["f"]}), "and not text", {}),
    "robust-unknown": (lambda: RobustLimits("agee", bounds={"agee": [0, 1]}, epsilon=0.1), "did you mean 'age'", {}),
    "robust-text": (lambda: RobustLimits("sex", bounds={"sex": [0, 1]}, epsilon=0.1), "only numbers, dates", {}),
    "robust-epsilon": (lambda: RobustLimits("age", bounds=AGES), "needs epsilon", {}),
    "robust-bounds": (lambda: RobustLimits("age", epsilon=0.1), "needs public bounds", {}),
    "suppress-compares": (lambda: SuppressToK(2, columns=["age"]), "compares rows", {}),
    "suppress-nothing": (lambda: SuppressToK(2, caveat=True), "has no columns", {}),
    "suppress-unknown": (lambda: SuppressToK(2, columns=["agee"], caveat=True), "did you mean 'age'", {}),
    "suppress-person": (lambda: SuppressToK(2, columns=["age"], person="whoo", caveat=True), "did you mean 'who'", {}),
    "suppress-sensitive": (lambda: SuppressToK(2, columns=["age"], diversity=2, caveat=True), "needs a sensitive", {}),
    "suppress-hidden": (
        lambda: SuppressToK(2, columns=["age"], diversity=2, sensitive=["sexx"], caveat=True),
        "did you mean 'sex'",
        {},
    ),
    "buckets-unknown": (lambda: TimeBuckets("borne"), "did you mean 'born'", {}),
    "buckets-number": (lambda: TimeBuckets("age"), "buckets are of dates", {}),
}


class Charging(FillMedian):
    """A median, so that there is something to lose."""

    def __init__(self):
        super().__init__("age", bounds=AGES, epsilon=0.5)


class Known(Step):
    """Adds a column, and can't say so."""

    name = "known"

    def _apply(self, frame):
        return frame.with_columns(age_known=pl.col("age").is_not_null())


@pytest.mark.parametrize("fault", FAULTS)
def test_p33_a_mistake_in_a_later_step_costs_nothing(fault):
    make, message, settings = FAULTS[fault]
    settings = dict(settings)
    ledger = PrivacyLedger(delta=1e-5, unit=settings.pop("unit", "person"))
    table = TABLE.with_columns(age_known=pl.lit(value=True)) if fault == "missing-there" else TABLE
    with pytest.raises((ConfigurationError, PrivacyViolation), match=message):
        Preparation([Charging(), make()]).fit_apply(table, Context(ledger=ledger, **settings))
    assert ledger.groups == ()
    assert ledger.history == []
    assert ledger.caveats == ()


def test_every_step_has_its_faults_here():
    steps = {
        value for value in vars(preparation_module).values() if isinstance(value, type) and issubclass(value, Step)
    }
    assert {type(make()) for make, _, _ in FAULTS.values()} == (steps - {Step}) | {Forget}


@pytest.mark.parametrize(
    "step",
    [
        lambda: Forget(["note"]),
        lambda: Deduplicate(columns=["who", "note"], person="note_missing", caveat=True),
        lambda: MissingIndicator("note"),
        lambda: Bands("size", edges=[2]),
        lambda: NormaliseText(["note"]),
        lambda: RobustLimits("size", action="flag", bounds={"size": [0, 9]}, epsilon=1.0),
        lambda: LabelErrors(features=["size"], label="note", action="flag", folds=2, caveat=True),
        lambda: Pseudonymise(["who"]),
        lambda: Pseudonymise(["age"]),
        lambda: BoundContributions(1, person="who"),
        lambda: FillFromPerson("sex", person="who"),
        lambda: FillMode("sex", categories=SEXES, epsilon=0.1),
        lambda: FillFromModel("sex", ["size"], categories=SEXES, bounds={"size": [0, 9]}, epsilon=1.0),
        lambda: SuppressToK(1, columns=["note"], caveat=True),
    ],
)
def test_columns_after_a_step_are_those_it_says(step):
    table = pl.concat([TABLE.with_columns(note=pl.Series(["x", "y", "x", "y"]))] * 4)
    made = step()
    context = Context(ledger=PrivacyLedger(delta=1e-5, unit="person"), key=KEY)
    said = made.check(table.schema, context)
    made.fit(table.lazy(), context)
    assert said == made.run(table).schema


def test_columns_that_a_step_makes_or_takes_are_known_to_later_ones():
    context = Context(key=KEY)
    steps = [Bands("age", edges=[50]), MissingIndicator("sex"), Deduplicate(columns=["who"]), Charging()]
    with pytest.raises(ConfigurationError, match="'age', which holds String"):
        Preparation(steps).fit_apply(TABLE, context)
    steps = [MissingIndicator("sex"), Deduplicate(columns=["who", "note"]), BoundContributions(1, person="person")]
    made = Preparation([*steps, Forget(["sex_missing", "person"])]).fit_apply(TABLE, context)[0]
    assert made.columns == TABLE.columns
    ledger = PrivacyLedger(delta=1e-5, unit="person")
    with pytest.raises(ConfigurationError, match="columns has 'note', which the table does not have"):
        Preparation([Forget(["note"]), Charging(), Forget(["note"])]).fit_apply(TABLE, Context(ledger=ledger))
    assert ledger.groups == ()


def test_columns_are_not_guessed_after_a_step_that_does_not_tell():
    later = [MissingIndicator("age_known"), Forget(["age_known"])]
    made, _ = Preparation([Known(), *later]).fit_apply(TABLE)
    assert "age_known_missing" in made.columns
    # Neither where something besides the steps may make columns; what needs no columns is asked for all the same.
    marked = [NormaliseText(), *later[:1]]
    added = Preparation(marked).fit_apply(
        TABLE, between=lambda table: table.with_columns(age_known=pl.lit(value=True))
    )[0]
    assert "age_known_missing" in added.columns
    ledger = PrivacyLedger(delta=1e-5, unit="person")
    for steps in (
        [Known(), Charging(), Pseudonymise(["who"])],
        [Known(), Charging(), FillMean("age_known", epsilon=0.1)],
        [Known(), Charging(), FillFromModel("age", ["age_known"], bounds=AGES, epsilon=0.1)],
        [Known(), Charging(), FillMode("age_known", categories={"age_known": [True]})],
    ):
        with pytest.raises(ConfigurationError, match="needs"):
            Preparation(steps).fit_apply(TABLE, Context(ledger=ledger))
    assert ledger.groups == ()
