"""Runs the steps of a preparation in turn, within one budget, and tells what each did.

The tables are polars frames: a lazy plan that streams over more rows than fit in memory, one column type for a whole
column, missing values that are no numbers, no index that could keep an order or a row number by accident, and Arrow
memory that goes to torch without a copy. pandas has none of the first two.

Example:
    >>> import polars as pl
    >>> from lightning_privacy.preparation.normalise import NormaliseText
    >>> table = pl.DataFrame({"name": [" Ada  Byron ", "ada byron"], "age": [36, 36]})
    >>> prepared, report = Preparation([NormaliseText(columns=["name"], case="lower")]).fit_apply(table)
    >>> prepared["name"].to_list(), report.steps[0].changed
    (['ada byron', 'ada byron'], {'name': 1})
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import polars as pl

from lightning_privacy._validate import positive_int
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.errors import ConfigurationError, PrivacyBudgetExceeded, PrivacyViolation
from lightning_privacy.preparation.preparation_report import PreparationReport, peak_memory
from lightning_privacy.preparation.schema import check_filled
from lightning_privacy.preparation.step import Context, Step

__all__ = ["Preparation"]

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


class Preparation:
    """Steps that are fitted and applied one after the other.

    Args:
        steps: the steps, or a mapping of names to steps, as a config has it. None in place of one leaves it out, so
            that ``preparation.steps.deduplicate=null`` on the command line turns a step off.

    Raises:
        ConfigurationError: something else than a step is among them, or one step is there twice.
    """

    def __init__(self, steps: Iterable[Step | None] | Mapping[str, Step | None] = ()) -> None:
        values = steps.values() if isinstance(steps, Mapping) else steps
        self._steps = [step for step in values if step is not None]
        for step in self._steps:
            if not isinstance(step, Step):
                raise ConfigurationError(f"steps must be steps of a preparation, got {step!r} among them")
        if len({id(step) for step in self._steps}) < len(self._steps):
            raise ConfigurationError("steps has the same object twice: make a step for each place")

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps, in order."""
        return tuple(self._steps)

    def fit_apply(
        self,
        frame: pl.DataFrame | pl.LazyFrame,
        context: Context | None = None,
        *,
        between: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
    ) -> tuple[pl.DataFrame, PreparationReport]:
        """Fit each step on what the steps before it made of the rows, and transform the rows.

        What can be told without rows is looked at first, of all steps: a column that is not there, a key that was not
        given. Nothing was charged then.

        Args:
            frame: the table; a lazy one is read once, at the first step.
            context: roles, ledger, noise and key; None for none of them.
            between: what is done to the table before the first step and after each, besides.

        Returns:
            The prepared table, and what each step did.

        Raises:
            ConfigurationError: the table is empty, holds no value at all, or lacks a column that a role names; or what
                :meth:`Step.check` of a step says.
            PrivacyBudgetExceeded: a step would break the budget. It has not begun, and the message names it.
            PrivacyViolation: a step that compares rows was not told ``caveat=True``, or one charged the ledger
                with something else than it planned.
        """
        context = Context() if context is None else context
        table = frame.collect(engine="streaming") if isinstance(frame, pl.LazyFrame) else frame
        check_filled(table)
        context.roles.check(table.columns)
        if between is not None:
            table = between(table)
        self.check(table.schema, context, others=between is not None)
        for number, step in enumerate(self._steps, start=1):
            self._fit_step(number, step, table.lazy(), context)
            table = step.run(table)
            if table.height == 0:
                raise ConfigurationError(
                    f"step {number} ({step.name}) left no row of the table: loosen its settings or leave it out"
                )
            if between is not None:
                table = between(table)
        return table, self.report()

    def check(self, schema: pl.Schema | None, context: Context, *, others: bool = False) -> pl.Schema | None:
        """Ask every step for what is wrong and shows without rows; nothing is charged.

        Args:
            schema: the columns of the table; None where they are not known.
            context: roles, ledger, noise and key.
            others: whether something besides the steps may make columns between them.

        Returns:
            The columns after the last step, as far as they are known.

        Raises:
            ConfigurationError: as :meth:`Step.check`.
            PrivacyViolation: as :meth:`Step.check`.
        """
        for step in self._steps:
            schema = step.check(schema, context)
            schema = None if others else schema
        return schema

    def apply(self, frame: Frame) -> Frame:
        """Transform new rows as the fitted steps say, without learning from them.

        Args:
            frame: a table, or a lazy one for a lazy result.

        Raises:
            ConfigurationError: a step that learns was not fitted.
        """
        lazy = frame.lazy()
        for step in self._steps:
            lazy = step.apply(lazy)
        return lazy.collect() if isinstance(frame, pl.DataFrame) else lazy

    def stream(self, frame: pl.DataFrame | pl.LazyFrame, *, rows: int = 100_000) -> Iterator[pl.DataFrame]:
        """Transform any number of rows in batches, in the memory of a few of them.

        :meth:`report` counts as the batches go. Only for steps that look at one row at a time, or were fitted.

        Args:
            frame: the table; ``pl.scan_parquet`` or ``pl.scan_csv`` give one that is larger than memory.
            rows: about how many rows a batch has.

        Yields:
            The prepared batches, in the order of the table.

        Raises:
            ConfigurationError: a step compares rows, or learns and was not fitted; or the table has no rows.
        """
        rows = positive_int(rows=rows)
        for step in self._steps:
            if (step.private == "compares" and not step.by_types) or step.whole:
                raise ConfigurationError(
                    f"step {step.name!r} compares rows, so that batches by themselves would not do: use fit_apply"
                )
        empty = True
        for batch in frame.lazy().collect_batches(chunk_size=rows, maintain_order=True):
            prepared = batch
            for step in self._steps:
                prepared = step.run(prepared)
            empty = False
            yield prepared
        if empty:
            raise ConfigurationError("the table has no rows")

    def report(self) -> PreparationReport:
        """What each step did since it was fitted, and the most memory the process had so far."""
        return PreparationReport(steps=tuple(step.report() for step in self._steps), peak_memory=peak_memory())

    def _fit_step(self, number: int, step: Step, frame: pl.LazyFrame, context: Context) -> None:
        ledger = context.ledger
        place = f"step {number} of the preparation ({step.name})"
        try:
            expected = _after(ledger, step, frame, context)
            step.fit(frame, context)
        except PrivacyBudgetExceeded as error:
            raise PrivacyBudgetExceeded(f"{place} was not begun: {error}") from error
        if ledger is not None and expected is not None and dict(ledger.groups) != dict(expected.groups):
            raise PrivacyViolation(
                f"{place} charged the ledger with something else than it planned; its method planned() must name "
                f"every release of fit()"
            )

    def __repr__(self) -> str:
        return f"Preparation([{', '.join(step.name for step in self._steps)}])"


def _after(ledger: PrivacyLedger | None, step: Step, frame: pl.LazyFrame, context: Context) -> PrivacyLedger | None:
    """What the ledger will be after the step, charged on a copy, so that a step is paid for whole or not begun."""
    if ledger is None:
        return None
    planned = step.planned(frame.collect_schema(), context)
    if planned is None:
        return None
    trial = PrivacyLedger(delta=ledger.delta, budget=ledger.budget, unit=ledger.unit)
    trial.load_state_dict(ledger.state_dict())
    for release, count in planned:
        trial.charge(release, count)
    return trial
