"""One step of the preparation of a table: it may learn something, changes rows, and says what it did.

A step says how it stands to privacy, and with a ledger it is held to that:

* ``"rowwise"``: each row becomes a pure function of itself and of public constants. Free.
* ``"released"``: what it learns from the rows leaves through the ledger, with noise.
* ``"compares"``: a row's fate depends on other rows, without noise. A guarantee for one row no longer holds as it is
  stated, so that the step is refused, or, with ``caveat=True``, says so in the ledger.

Example:
    >>> import polars as pl
    >>> class Upper(Step):
    ...     name = "upper"
    ...     def _apply(self, frame):
    ...         return frame.with_columns(pl.col("place").str.to_uppercase())
    >>> step = Upper()
    >>> step.run(pl.DataFrame({"place": ["Ulm", "BONN"]}))["place"].to_list(), step.report().changed
    (['ULM', 'BONN'], {'place': 1})
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import polars as pl

from lightning_privacy._validate import one_of
from lightning_privacy.accounting import PrivacyLedger, Release
from lightning_privacy.errors import ConfigurationError, PrivacyViolation
from lightning_privacy.mechanisms import NoiseSource
from lightning_privacy.preparation._columns import PIPELINE
from lightning_privacy.preparation.roles import Roles

__all__ = ["Context", "Step", "StepReport"]

Standing = Literal["rowwise", "released", "compares"]
_STANDINGS = ("rowwise", "released", "compares")


@dataclass(frozen=True)
class Context:
    """What a step is given besides the rows.

    Args:
        roles: what the columns are for.
        ledger: where releases are charged; one makes the preparation private.
        noise: what noise is drawn from; None for a new source of the operating system's randomness.
        key: the secret of keyed pseudonyms: 32 bytes or a key of ``security``.
        private: whether differential privacy is on. None: when there is a ledger.
        person: the column that says who a row is about, where that is another than the identifier of the roles.

    Raises:
        ConfigurationError: ``private`` and ``ledger`` contradict each other, or an argument has another type.
    """

    roles: Roles = field(default_factory=Roles)
    ledger: PrivacyLedger | None = None
    noise: NoiseSource | None = None
    key: Any = field(default=None, repr=False)
    private: bool | None = None
    person: str | None = None

    def __post_init__(self) -> None:
        if self.person is not None and (not isinstance(self.person, str) or not self.person):
            raise ConfigurationError(f"person must be the name of a column or None, got {self.person!r}")
        for name, kind in (("roles", Roles), ("ledger", PrivacyLedger), ("noise", NoiseSource)):
            value = getattr(self, name)
            if not isinstance(value, kind) and (name == "roles" or value is not None):
                raise ConfigurationError(f"{name} must be a {kind.__name__}, got {value!r}")
        if self.private is None:
            object.__setattr__(self, "private", self.ledger is not None)
        elif self.private and self.ledger is None:
            raise ConfigurationError("private=True needs a ledger to charge: pass ledger=PrivacyLedger(delta=…)")
        elif not self.private and self.ledger is not None:
            raise ConfigurationError(
                "private=False with a ledger would leave releases out of it: leave the ledger out too, or private=None"
            )

    @property
    def who(self) -> str | None:
        """The column that says who a row is about, for steps that are not told one; None where none does."""
        return self.roles.identifier if self.person is None else self.person


@dataclass(frozen=True)
class StepReport:
    """What a step did at its last run.

    The counts are exact: they are for whoever holds the table, and no part of what a private run releases.

    Args:
        name: the step's name.
        rows_before: rows that came in.
        rows_after: rows that went out.
        changed: column to number of cells that are another value than before; a new column counts its cells that
            are not missing.
        learned: what the step learned or counted, as plain values.
        caveats: what limits the guarantee because of it.
        private: how the step stands to privacy.
    """

    name: str
    rows_before: int = 0
    rows_after: int = 0
    changed: dict[str, int] = field(default_factory=dict)
    learned: dict[str, Any] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()
    private: Standing = "rowwise"

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "name": self.name,
            "private": self.private,
            "rows_before": self.rows_before,
            "rows_after": self.rows_after,
            "changed": dict(self.changed),
            "learned": dict(self.learned),
            "caveats": list(self.caveats),
        }


class Step(ABC):
    """A step of a preparation. Subclasses override :meth:`_apply`, and :meth:`_fit` when they learn something.

    Args:
        caveat: for a step that compares rows: run under differential privacy all the same, and say in the ledger
            what that does to the guarantee.

    Class attributes:
        name: short and lower case; shown in reports and errors.
        private: how the step stands to privacy; an attribute of the instance where it depends on the settings.
        learns: whether rows can only be transformed after :meth:`fit`.
        whole: whether it must see all rows at once, those of one person say, and no batches of them.
        by_types: for a step that compares rows: whether it does so only by going by the types of columns, which may
            have been found by looking at all rows. Batches have one type, so that they may be given to it.
        by_columns: whether :meth:`apply` only adds to the lazy plan, so that a table without rows shows before
            :meth:`fit` what is wrong with the columns and what they become.
    """

    name: ClassVar[str] = ""
    private: Standing = "rowwise"
    learns: ClassVar[bool] = False
    whole: ClassVar[bool] = False
    by_types: ClassVar[bool] = False
    by_columns: ClassVar[bool] = False

    def __init__(self, *, caveat: bool = False) -> None:
        if not isinstance(caveat, bool):
            raise ConfigurationError(f"caveat must be True or False, got {caveat!r}")
        self._caveat = caveat
        self._reset()

    def _reset(self) -> None:
        self._fitted = False
        self._stands: Standing | None = None
        self._caveats: tuple[str, ...] = ()
        # Subclasses write what they learned here, and add what they count while rows are changed.
        self._learned: dict[str, Any] = {}
        self._rows = (0, 0)
        self._changed: dict[str, int] = {}

    @property
    def person_columns(self) -> tuple[str, ...]:
        """Columns that say who a row is about, for this step: what it does to a row depends on the person's others."""
        return ()

    def standing(self, context: Context) -> Standing:
        """How the step stands to privacy here; a step that it depends on the context for overrides this.

        Args:
            context: what :meth:`fit` will be given.
        """
        return self.private

    def planned(self, schema: pl.Schema, context: Context) -> Sequence[tuple[Release, int]] | None:
        """The releases that :meth:`fit` will charge, so that a budget is checked before the step begins.

        Args:
            schema: the columns of the rows that come.
            context: what :meth:`fit` will be given.

        Returns:
            (release, count) pairs; () for a step that releases nothing; None when it can't be said beforehand.
        """
        return () if self.private != "released" or not context.private else None

    def check(self, schema: pl.Schema | None, context: Context) -> pl.Schema | None:
        """Raise what can be told of settings, roles, key and columns without rows, before anything is charged.

        A preparation asks all its steps before it begins: a mistake in the last costs no budget for the first. A step
        that needs something overrides this, and begins with ``super().check(schema, context)``.

        Args:
            schema: the columns of the rows that will come; None where a step before makes it impossible to tell.
            context: what :meth:`fit` will be given.

        Returns:
            The columns that the step leaves; None where it can't be told.

        Raises:
            ConfigurationError: something is missing or does not fit.
            PrivacyViolation: the step compares rows, the context is private, and ``caveat=True`` was not said.
        """
        one_of(_STANDINGS, private=self.private)
        if context.private and self.standing(context) == "compares" and not self._caveat:
            raise PrivacyViolation(
                f"step {self.name!r} compares rows without noise: {self.caveat_sentence()} Leave it out, run it before "
                f"the data are collected, or pass caveat=True to run it and have that sentence in the ledger"
            )
        if schema is None or not self.by_columns:
            return None
        return self._apply(pl.LazyFrame(schema=schema)).collect_schema()

    def fit(self, frame: pl.LazyFrame, context: Context) -> None:
        """Learn from the rows. What is learned is charged to the ledger of the context before it is read.

        Args:
            frame: the rows.
            context: roles, ledger, noise, key.

        Raises:
            ConfigurationError: as :meth:`check`, or the rows have nothing to learn from.
            PrivacyViolation: as :meth:`check`.
            PrivacyBudgetExceeded: the ledger can't pay for what is learned.
        """
        self.check(frame.collect_schema(), context)
        self._reset()
        self._stands = self.standing(context)
        if context.private and self._stands == "compares":
            sentence = self.caveat_sentence()
            self._caveats = (sentence,)
            if context.ledger is not None:
                context.ledger.add_caveat(sentence)
        self._fit(frame, context)
        self._fitted = True

    def apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """Transform rows, lazily.

        Args:
            frame: rows with the columns the step was fitted on.

        Raises:
            ConfigurationError: the step learns and was not fitted.
        """
        if self.learns and not self._fitted:
            raise ConfigurationError(f"step {self.name!r} must be fitted before it is applied: call fit first")
        return self._apply(frame)

    def run(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Transform rows now, and add them to the counts of :meth:`report`.

        Args:
            frame: as in :meth:`apply`.
        """
        after = self.apply(frame.lazy()).collect()
        self._count(frame, after)
        return after

    def report(self) -> StepReport:
        """What the step did since it was fitted."""
        before, after = self._rows
        return StepReport(
            name=self.name,
            rows_before=before,
            rows_after=after,
            changed=dict(self._changed),
            learned=dict(self._learned),
            caveats=self._caveats,
            private=self._stands or self.private,
        )

    def caveat_sentence(self) -> str:
        """For a step that compares rows: what that does to the guarantee, in one sentence."""
        return (
            f"The step {self.name!r} of the preparation decides about a row by looking at others: one person more or "
            f"less may change the rows of other people, and epsilon does not count that."
        )

    def _fit(self, frame: pl.LazyFrame, context: Context) -> None:  # noqa: B027 - a step need not learn
        """Learn from the rows; a step that only transforms leaves this as it is."""

    @abstractmethod
    def _apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """Transform the rows."""

    def _count(self, before: pl.DataFrame, after: pl.DataFrame) -> None:
        """Add to the counts. Where rows are as many as before, they are taken to be in the same order."""
        self._rows = (self._rows[0] + before.height, self._rows[1] + after.height)
        if before.height != after.height:
            return
        for name in after.columns:
            if name.startswith(PIPELINE):
                continue
            if name not in before.columns:
                number = after.height - after[name].null_count()
            elif before[name].dtype == after[name].dtype:
                number = int(before[name].ne_missing(after[name]).sum())
            else:
                was, now = before[name].cast(pl.String, strict=False), after[name].cast(pl.String, strict=False)
                number = int(was.ne_missing(now).sum())
            if number or name in self._changed:
                self._changed[name] = self._changed.get(name, 0) + number

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, private={self.private!r})"
