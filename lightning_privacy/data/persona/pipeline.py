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
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import polars as pl
from polars import selectors

from lightning_privacy.accounting import PrivacyLedger, Release
from lightning_privacy.accounting.releases import release_from_dict
from lightning_privacy.data.persona.charged_records import ChargedRecords
from lightning_privacy.data.persona.encoding import labelled
from lightning_privacy.data.persona.generator import PersonaData
from lightning_privacy.data.persona.image_labels import ImageLabelErrors
from lightning_privacy.data.persona.off_lists import tell_codes
from lightning_privacy.data.persona.own_records import FIRST_ROW, OwnRecords
from lightning_privacy.data.persona.persons import CLIENT, RECORD_UNITS, check_persons
from lightning_privacy.data.persona.plan import Plan
from lightning_privacy.data.persona.publicness import PrivatePeople
from lightning_privacy.data.persona.same_person import SamePerson, present
from lightning_privacy.data.persona.split import at_most, split_by_person
from lightning_privacy.data.persona.stage import SIDES, Stage
from lightning_privacy.data.persona.store import PersonaStore
from lightning_privacy.errors import ConfigurationError, PrivacyViolation
from lightning_privacy.mechanisms import NoiseSource
from lightning_privacy.preparation import Context, PreparationReport, StepReport
from lightning_privacy.preparation._columns import PIPELINE, ROW
from lightning_privacy.preparation.contribution import BoundContributions, most_records

__all__ = ["run"]

_PREPARED, _NOTES = "prepared", "prepared_notes"
_OWN_ROW = f"{PIPELINE}own"
# Needed no more when people are divided and their records cut, and never to be seen by anybody.
_OWN = selectors.by_name(ROW, FIRST_ROW, _OWN_ROW, require_all=False)


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
    trained on them; nothing is learned anew. Of several processes with one store, whatever their plans, each waits for
    the one before.

    Args:
        plan: What is wanted.
        store: Where data lie; None for memory only.
        ledger: What is learned from records is charged to; None for a preparation without privacy.
        noise: What noise is drawn from.
        key: Of pseudonyms.

    Raises:
        PrivacyBudgetExceeded: A step would break the ledger's budget; the message names it.
        PrivacyViolation: The ledger protects people or clients, and what is done protects single records of theirs.
        ConfigurationError: The table does not fit the plan, or has rows that don't say who they are about, or the store
            lacks a file.
        EncryptionError: The store can't be read with its key, or has files of several preparations.
    """
    if store is None:
        return _run(plan, None, ledger, noise, key)
    with store.locked():
        return _run(plan, store, ledger, noise, key)


def _run(
    plan: Plan, store: PersonaStore | None, ledger: PrivacyLedger | None, noise: NoiseSource | None, key: Any
) -> Stage:
    private = ledger is not None
    # What a step does, and what of it is a caveat, depends on whom the ledger protects.
    fingerprint = f"{plan.fingerprint}/{'plain' if ledger is None else f'private {ledger.unit}'}"
    if store is not None and (stage := _stored(store, fingerprint, private)) is not None:
        if ledger is not None:
            stage.charge(ledger)
        return stage
    # Now: whatever is stored of this preparation is bound to it.
    stamp = secrets.token_hex(8)
    data = _data(plan, store, stamp)
    context = Context(roles=plan.roles, ledger=ledger, noise=noise, key=key)
    before = _charged(ledger)
    table, report, counts, person, most_charged, limits = _prepared(plan, data, context)
    tell_codes(report, table)
    stage = Stage(
        table=table,
        images=data.images,
        report=report,
        counts=counts,
        person=person,
        most_charged=most_charged,
        releases=tuple(
            (release, count - before.get((release, label), 0), label)
            for (release, label), count in _charged(ledger).items()
            if count > before.get((release, label), 0)
        ),
        # Those from before too: a step does not say again what the ledger knows, and another ledger may not know it.
        caveats=() if ledger is None else ledger.caveats,
        limits=limits,
        private=private,
        stamp=stamp,
        truth=data.truth,
    )
    if store is not None:
        _keep(store, stage, fingerprint)
    return stage


def _data(plan: Plan, store: PersonaStore | None, stamp: str) -> PersonaData:
    data = plan.source.generate()
    if store is not None:
        store.forget(_NOTES)
        store.write_data(data, stamp)
    return data


def _prepared(
    plan: Plan, data: PersonaData, context: Context
) -> tuple[pl.DataFrame, PreparationReport, dict[str, int], str | None, int | None, tuple[str, ...]]:
    for step in (*plan.preparation.steps, *plan.train_preparation.steps):
        if isinstance(step, ImageLabelErrors):
            step.look_at(data.images, label=plan.label)
    counts = {"recorded": len(data.records)}
    if context.ledger is not None:
        _check_clients(context.ledger, plan)
    _check_all(plan, data.records.schema, context)
    steps = plan.preparation.steps
    named = (plan.person, plan.roles.identifier, *(key for step in steps for key in step.person_columns))
    keys = [key for key in named if key is not None]
    private_people, same, own = PrivatePeople(keys), SamePerson(keys), OwnRecords(keys)
    charged = ChargedRecords(keys, same, context.ledger)

    def look(table: pl.DataFrame) -> pl.DataFrame:
        table = own(table)
        same.look_at(table)
        charged.look_at(table)
        return private_people(table)

    table, report = plan.preparation.fit_apply(data.records, context, between=look)
    counts["prepared"] = len(table)
    table = labelled(table, plan.label)
    counts["with image and label"] = len(table)
    person = next((name for name in (plan.person, plan.roles.identifier) if name in table.columns), None)
    if person is not None:
        _refuse_nobodys(table, person)
        table = same.named(table, person)
    # The column of a step may number people in the order in which they appear; what their records held is their own.
    by = FIRST_ROW if person is not None and own.made(person) else None
    if by is not None:
        table = table.with_columns(pl.col(by).min().over(person))
    most_charged = charged.most(person)
    limits = _limits(plan, person, made=person is not None and own.made(person))
    if context.ledger is not None:
        _add_caveats(context.ledger, plan, person, limits)
        if person is not None:
            _check_charged(context.ledger, most_charged, plan)
    key = _OWN_ROW if person is None else person
    table = _of_nobody(table) if person is None else table
    sides = split_by_person(table, person=key, held_out=plan.held_out, val_share=plan.val_share, seed=plan.seed, by=by)
    counts["public records of private people"] = -len(sides["neither"])
    bounded = {side: at_most(sides[side], plan.max_records, person=key, seed=plan.seed) for side in SIDES}
    counts[f"at most {plan.max_records} per person"] = sum(map(len, bounded.values()))
    prepared = {side: rows.drop(_OWN) for side, rows in bounded.items() if len(rows)}
    if plan.train_preparation.steps:
        prepared["train"], learned = plan.train_preparation.fit_apply(
            prepared["train"],
            replace(context, person=person),
            between=lambda table: _still_bounded(table, person, plan.max_records),
        )
        for side in set(prepared) - {"train"}:
            prepared[side] = plan.train_preparation.apply(prepared[side])
        report = PreparationReport((*report.steps, *learned.steps), learned.peak_memory)
    counts |= {side: len(rows) for side, rows in prepared.items()}
    whole = pl.concat([rows.with_columns(side=pl.lit(side)) for side, rows in prepared.items()], how="diagonal_relaxed")
    return whole, report, counts, person, most_charged, limits


def _check_all(plan: Plan, schema: pl.Schema, context: Context) -> None:
    """Let each step, those for the training part too, say what is wrong before the first one charges anything."""
    # What is done between the steps makes columns of the pipeline's alone, and leaves out rows.
    known = plan.preparation.check(schema, context)
    named = (plan.person, plan.roles.identifier)
    if known is None:
        plan.train_preparation.check(None, replace(context, person=plan.person))
        return
    person = next((name for name in named if name in known), None)
    if person is not None:
        known = pl.Schema({**known, person: pl.String()})
    plan.train_preparation.check(known, replace(context, person=person))


def _check_charged(ledger: PrivacyLedger, most: int | None, plan: Plan) -> None:
    """See to it that what was released of people with too many records is not told as what it cost a person.

    Raises:
        PrivacyViolation: The ledger protects people, and no step was told to have that as a caveat.
    """
    if most is not None and most <= plan.max_records:
        return
    if most is None:
        told = (
            "Something was released of the records before all was known that says who is who in them: the guarantee of "
            "these releases is for one record, and what it is for a person is not known."
        )
    else:
        told = (
            f"Something was released of the records before those of a person were cut to {plan.max_records}: one "
            f"person had up to {most} of them, and the guarantee of these releases is for one. For a person, all is "
            f"what group_privacy(ledger, records={most}) gives."
        )
    steps = plan.preparation.steps
    accepted = any(isinstance(step, BoundContributions) and step.report().caveats for step in steps)
    if ledger.unit not in RECORD_UNITS and not accepted:
        raise PrivacyViolation(
            f"{told} The ledger's unit is the {ledger.unit}: put Deduplicate and BoundContributions before the steps "
            "that learn, or put those into train_preparation"
        )
    ledger.add_caveat(told)


def _still_bounded(table: pl.DataFrame, person: str | None, limit: int) -> pl.DataFrame:
    """The table, in which a step must not have made more records of a person.

    Raises:
        ConfigurationError: One has more than the limit.
    """
    most = most_records(table, person) if person is not None and person in table.columns else 0
    if most > limit:
        raise ConfigurationError(
            f"a step of train_preparation made up to {most} records of one person, in column {person!r}, and "
            f"max_records_per_person={limit}: what is learned and trained on would be of more records than it says. "
            "Put the step into preparation, after which the records of a person are cut"
        )
    return table


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
    number = table.select(present(table, person)).to_series().null_count()
    if number:
        raise ConfigurationError(
            f"{number} rows don't say who they are about, in column {person!r}, and could all be of one person: fill "
            f"it, let Deduplicate find out who is who, or leave them out with BoundContributions(person={person!r}, "
            "missing='drop')"
        )


def _of_nobody(table: pl.DataFrame) -> pl.DataFrame:
    """The table with a person for every record, where there is no column of them: each is a record's own.

    Two rows that held the same in every column are taken for one person. That is safe: at worst one of two people is
    left out.
    """
    return table.with_columns(pl.col(ROW).bin.encode("hex").alias(_OWN_ROW))


def _limits(plan: Plan, person: str | None, *, made: bool) -> tuple[str, ...]:
    """What limits the guarantee of whoever trains on the table, in sentences for their ledger.

    Args:
        plan: Of the preparation.
        person: The column that says who is who.
        made: Whether a step found that out, and wrote the column.
    """
    limits = tuple(getattr(plan.source, "caveats", ()))
    if person is None or made:
        return limits
    alone = (
        f"People are told apart by the column {person!r} alone: who is in the table under two values of it counts as "
        "two."
    )
    return (*limits, alone)


def _add_caveats(ledger: PrivacyLedger, plan: Plan, person: str | None, limits: Iterable[str]) -> None:
    for caveat in limits:
        ledger.add_caveat(caveat)
    if ledger.unit != CLIENT:  # whole clients are protected, however many records a person has
        check_persons(ledger, None if person is None else plan.max_records)


def _charged(ledger: PrivacyLedger | None) -> dict[tuple[Release, str | None], int]:
    return {} if ledger is None else {(release, label): count for release, count, label in ledger.history}


def _keep(store: PersonaStore, stage: Stage, fingerprint: str) -> None:
    store.write_table(_PREPARED, stage.table, stage.stamp)
    notes = {
        "fingerprint": fingerprint,
        "stamp": stage.stamp,
        "person": stage.person,
        "most_charged": stage.most_charged,
        "counts": dict(stage.counts),
        "report": stage.report.to_dict(),
        "releases": [[release.to_dict(), count, label] for release, count, label in stage.releases],
        "caveats": list(stage.caveats),
        "limits": list(stage.limits),
    }
    store.write_notes(_NOTES, notes)


def _stored(store: PersonaStore, fingerprint: str, private: bool) -> Stage | None:
    notes = store.read_notes(_NOTES)
    if notes is None or notes["fingerprint"] != fingerprint:
        return None
    steps = [StepReport(**{**step, "caveats": tuple(step["caveats"])}) for step in notes["report"]["steps"]]
    return Stage(
        table=store.read_table(_PREPARED, notes["stamp"]),
        images=store.read_data(notes["stamp"]).images,
        report=PreparationReport(tuple(steps), notes["report"]["peak_memory_bytes"]),
        counts=notes["counts"],
        person=notes["person"],
        most_charged=notes["most_charged"],
        releases=tuple((release_from_dict(entry), count, label) for entry, count, label in notes["releases"]),
        caveats=tuple(notes["caveats"]),
        limits=tuple(notes["limits"]),
        private=private,
        stamp=notes["stamp"],
    )
