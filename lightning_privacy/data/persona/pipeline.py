"""From a source of people to tables ready for training: store, prepare, bound, divide, learn from the training part.

The stages are in this order for the sake of the guarantee. Who is who, and who is public, is found out on all records,
since one person's may be on both sides otherwise. Then people are divided, each person's records are cut to a number,
and only then do steps learn something, from people who count once.

Example:
    >>> from lightning_privacy.data.persona.generator import PersonaGenerator
    >>> from lightning_privacy.data.persona.plan import Plan
    >>> plan = Plan(source=PersonaGenerator(num_persons=60), held_out=0.2, val_share=0.5)
    >>> stage = run(plan, store=None)
    >>> sorted(stage.table["side"].unique().to_list()), stage.report.steps
    (['test', 'train', 'val'], ())
"""

from __future__ import annotations

import secrets
from typing import Any

import polars as pl

from lightning_privacy.accounting import PrivacyLedger, Release
from lightning_privacy.accounting.releases import release_from_dict
from lightning_privacy.data.persona.encoding import labelled
from lightning_privacy.data.persona.generator import PersonaData
from lightning_privacy.data.persona.image_labels import ImageLabelErrors
from lightning_privacy.data.persona.persons import CLIENT, RECORD_UNITS, check_persons
from lightning_privacy.data.persona.plan import Plan
from lightning_privacy.data.persona.publicness import PrivatePeople
from lightning_privacy.data.persona.same_person import SamePerson
from lightning_privacy.data.persona.split import at_most, split_by_person
from lightning_privacy.data.persona.stage import SIDES, Stage
from lightning_privacy.data.persona.store import PersonaStore
from lightning_privacy.errors import ConfigurationError, PrivacyViolation
from lightning_privacy.mechanisms import NoiseSource
from lightning_privacy.preparation import Context, PreparationReport, StepReport
from lightning_privacy.preparation.contribution import most_records

__all__ = ["run"]

_PREPARED, _NOTES = "prepared", "prepared_notes"
_OWN_ROW = "_own"


def run(
    plan: Plan,
    *,
    store: PersonaStore | None,
    ledger: PrivacyLedger | None = None,
    noise: NoiseSource | None = None,
    key: Any = None,
) -> Stage:
    """Make the prepared tables, or take them from the store if it has those of this very plan.

    Taken from the store, what was released when they were made is charged again, as it is a part of whatever is
    trained on them; nothing is learned anew.

    Args:
        plan: What is wanted.
        store: Where data lie; None for memory only.
        ledger: What is learned from records is charged to; None for a preparation without privacy.
        noise: What noise is drawn from.
        key: Of pseudonyms.

    Raises:
        PrivacyBudgetExceeded: A step would break the ledger's budget; the message names it.
        PrivacyViolation: The ledger protects people or clients, and what is done protects single records of theirs.
        ConfigurationError: The table does not fit the plan, or has rows that don't say who they are about.
        EncryptionError: The store can't be read with its key.
    """
    private = ledger is not None
    # What a step does, and what of it is a caveat, depends on whom the ledger protects.
    fingerprint = f"{plan.fingerprint}/{'plain' if ledger is None else f'private {ledger.unit}'}"
    if store is not None and (stage := _stored(store, fingerprint, private)) is not None:
        if ledger is not None:
            stage.charge(ledger)
        return stage
    data = _data(plan, store)
    context = Context(roles=plan.roles, ledger=ledger, noise=noise, key=key)
    before = _charged(ledger)
    table, report, counts, person = _prepared(plan, data, context)
    stage = Stage(
        table=table,
        images=data.images,
        report=report,
        counts=counts,
        person=person,
        releases=tuple(
            (release, count - before.get((release, label), 0), label)
            for (release, label), count in _charged(ledger).items()
            if count > before.get((release, label), 0)
        ),
        # Those from before too: a step does not say again what the ledger knows, and another ledger may not know it.
        caveats=() if ledger is None else ledger.caveats,
        private=private,
        stamp=secrets.token_hex(8),
        truth=data.truth,
    )
    if store is not None:
        _keep(store, stage, fingerprint)
    return stage


def _data(plan: Plan, store: PersonaStore | None) -> PersonaData:
    data = plan.source.generate()
    if store is not None:
        store.forget(_NOTES)
        store.write_data(data)
    return data


def _prepared(
    plan: Plan, data: PersonaData, context: Context
) -> tuple[pl.DataFrame, PreparationReport, dict[str, int], str | None]:
    for step in (*plan.preparation.steps, *plan.train_preparation.steps):
        if isinstance(step, ImageLabelErrors):
            step.look_at(data.images)
    counts = {"recorded": len(data.records)}
    charged = _charged(context.ledger)
    if context.ledger is not None:
        _check_clients(context.ledger, plan)
    steps = plan.preparation.steps
    named = (plan.person, plan.roles.identifier, *(key for step in steps for key in step.person_columns))
    keys = [key for key in named if key is not None]
    private_people, same = PrivatePeople(keys), SamePerson(keys)

    def look(table: pl.DataFrame) -> pl.DataFrame:
        same.look_at(table)
        return private_people(table)

    table, report = plan.preparation.fit_apply(data.records, context, between=look)
    counts["prepared"] = len(table)
    table = labelled(table)
    counts["with image and label"] = len(table)
    person = next((name for name in (plan.person, plan.roles.identifier) if name in table.columns), None)
    if person is not None:
        _refuse_nobodys(table, person)
        table = same.named(table, person)
    if context.ledger is not None:
        _add_caveats(context.ledger, plan, person)
        if person is not None and _charged(context.ledger) != charged:
            _check_bounded(context.ledger, most_records(table, person), plan.max_records)
    key = _OWN_ROW if person is None else person
    table = _of_nobody(table) if person is None else table
    sides = split_by_person(table, person=key, held_out=plan.held_out, val_share=plan.val_share, seed=plan.seed)
    counts["public records of private people"] = -len(sides["neither"])
    bounded = {side: at_most(sides[side], plan.max_records, person=key, seed=plan.seed) for side in SIDES}
    counts[f"at most {plan.max_records} per person"] = sum(map(len, bounded.values()))
    prepared = {side: rows for side, rows in bounded.items() if len(rows)}
    if plan.train_preparation.steps:
        prepared["train"], learned = plan.train_preparation.fit_apply(prepared["train"], context)
        for side in set(prepared) - {"train"}:
            prepared[side] = plan.train_preparation.apply(prepared[side])
        report = PreparationReport((*report.steps, *learned.steps), learned.peak_memory)
    counts |= {side: len(rows) for side, rows in prepared.items()}
    whole = pl.concat([rows.with_columns(side=pl.lit(side)) for side, rows in prepared.items()], how="diagonal_relaxed")
    return whole.drop(_OWN_ROW, strict=False), report, counts, person


def _check_bounded(ledger: PrivacyLedger, most: int, limit: int) -> None:
    """See to it that what was released of people with too many records is not told as what it cost a person.

    Raises:
        PrivacyViolation: The ledger protects people.
    """
    if most <= limit:
        return
    told = (
        f"Something was released of the records before those of a person were cut to {limit}: one person had up to "
        f"{most} of them, and the guarantee of these releases is for one."
    )
    if ledger.unit not in RECORD_UNITS:
        raise PrivacyViolation(
            f"{told} The ledger's unit is the {ledger.unit}: put BoundContributions before the steps that learn, or "
            "put those into train_preparation"
        )
    ledger.add_caveat(told)


def _check_clients(ledger: PrivacyLedger, plan: Plan) -> None:
    """Refuse to charge a ledger of clients with what protects one record of a client who has many.

    Raises:
        PrivacyViolation: A step learns from records, and clients are no persons.
    """
    steps = (*plan.preparation.steps, *plan.train_preparation.steps)
    learning = [step.name for step in steps if step.private == "released"]
    if ledger.unit == CLIENT and learning and plan.roles.client not in (None, plan.roles.identifier, plan.person):
        raise PrivacyViolation(
            f"the ledger protects a client, and the step {learning[0]!r} releases something that protects one record, "
            f"of which the client in column {plan.roles.client!r} may have many: leave the step out, or give the data "
            "a ledger of their own with unit='example'"
        )


def _refuse_nobodys(table: pl.DataFrame, person: str) -> None:
    """Refuse rows that don't say who they are about: taken for as many people, they would be bounded by nothing."""
    number = table[person].null_count()
    if number:
        raise ConfigurationError(
            f"{number} rows don't say who they are about, in column {person!r}, and could all be of one person: fill "
            f"it, let Deduplicate find out who is who, or leave them out with BoundContributions(person={person!r}, "
            "missing='drop')"
        )


def _of_nobody(table: pl.DataFrame) -> pl.DataFrame:
    """The table with a person for every row, where there is no column of them: each is a row's own."""
    return table.with_row_index(_OWN_ROW).with_columns(pl.format("row {}", _OWN_ROW).alias(_OWN_ROW))


def _add_caveats(ledger: PrivacyLedger, plan: Plan, person: str | None) -> None:
    if ledger.unit != CLIENT:  # whole clients are protected, however many records a person has
        check_persons(ledger, None if person is None else plan.max_records)
    if person is not None and person != plan.person:
        ledger.add_caveat(
            f"People are told apart by the column {person!r} alone: who is in the table under two values of it counts "
            "as two."
        )


def _charged(ledger: PrivacyLedger | None) -> dict[tuple[Release, str | None], int]:
    return {} if ledger is None else {(release, label): count for release, count, label in ledger.history}


def _keep(store: PersonaStore, stage: Stage, fingerprint: str) -> None:
    store.write_table(_PREPARED, stage.table)
    notes = {
        "fingerprint": fingerprint,
        "stamp": stage.stamp,
        "person": stage.person,
        "counts": dict(stage.counts),
        "report": stage.report.to_dict(),
        "releases": [[release.to_dict(), count, label] for release, count, label in stage.releases],
        "caveats": list(stage.caveats),
    }
    store.write_notes(_NOTES, notes)


def _stored(store: PersonaStore, fingerprint: str, private: bool) -> Stage | None:
    notes = store.read_notes(_NOTES)
    if notes is None or notes["fingerprint"] != fingerprint:
        return None
    steps = [StepReport(**{**step, "caveats": tuple(step["caveats"])}) for step in notes["report"]["steps"]]
    return Stage(
        table=store.read_table(_PREPARED),
        images=store.read_data().images,
        report=PreparationReport(tuple(steps), notes["report"]["peak_memory_bytes"]),
        counts=notes["counts"],
        person=notes["person"],
        releases=tuple((release_from_dict(entry), count, label) for entry, count, label in notes["releases"]),
        caveats=tuple(notes["caveats"]),
        private=private,
        stamp=notes["stamp"],
    )
