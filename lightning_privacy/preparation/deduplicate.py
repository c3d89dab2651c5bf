"""Finds the records of one person, exactly or nearly equal, and numbers the persons.

**How.** Blocks of records that agree in two things give pairs (``deduplicate_blocking``); pairs are compared column by
column with rapidfuzz (``deduplicate_columns``), a mail address only beyond the names it repeats
(``deduplicate_repeats``); what each degree of likeness is worth is learned from the table itself, without labels
(``deduplicate_weights``); persons are groups whose records are alike on average, not chains of weak links
(``deduplicate_clusters``). Where many joined records differ in what should tell people apart, the step warns
(``deduplicate_doubts``).

**Why so.** Of the libraries there are, `dedupe` asks a person to label pairs; `recordlinkage` has the model, but
compares in pandas on one core and leaves groups to the user; `splink` has the same model and is fast, but wants the
comparisons, the blocking rules and the order of its training spelled out for each table, groups by transitive closure,
and keeps the pairs in DuckDB, which writes what outgrows memory to a folder in plain text. rapidfuzz compares millions
of strings a second, the rest is a few hundred lines on NumPy arrays that never leave memory; it needs no more than the
names of the columns. ``benchmarks/deduplication.py`` sets it beside splink.

Under differential privacy the step compares rows and is refused without ``caveat=True``. It is worth its caveat where
one person in many records would make a guarantee for a record meaningless for that person.

Example:
    >>> import polars as pl
    >>> rows = [("Ada Byron", 36, "London"), ("Byron, Ada", 36, "London"), ("Carl Gauss", 36, "Ulm")]
    >>> table = pl.DataFrame(rows, ["name", "age", "place"], orient="row")
    >>> Deduplicate(columns=["name", "age", "place"]).run(table)["person"].to_list()
    [0, 0, 1]
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from lightning_privacy._validate import non_negative_int, one_of, positive_int, within_open_unit
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation._columns import PIPELINE, column_names, require_columns
from lightning_privacy.preparation.deduplicate_columns import KINDS, kind_of
from lightning_privacy.preparation.deduplicate_doubts import doubts, other_identifiers
from lightning_privacy.preparation.deduplicate_linkage import Linkage, equal_records, link_records
from lightning_privacy.preparation.deduplicate_merge import RULES, merge
from lightning_privacy.preparation.step import Context, Standing, Step

__all__ = ["Deduplicate"]

# Roles whose columns say what a record holds, not who it is about.
_OTHER_ROLES = {"features", "free_text", "label", "time"}


class Deduplicate(Step):
    """Adds a column with the number of each record's person, and makes one record of them if asked to.

    Every table is looked at by itself: what :meth:`apply` does to new rows does not depend on rows seen before.

    Args:
        columns: the columns that tell people apart: names, dates, places. None: every column but those whose role is
            label, feature, free text or time, and numbers of which no two are equal.
        near: also find records that are not equal. False: only those equal in all columns, but for case and outer
            white space, and filled in more than half of them.
        threshold: the probability of one person from which groups of records are joined, in (0, 1). Higher for fewer
            wrong joins, lower for fewer people counted twice.
        merge: None keeps all records; ``"first"``, ``"complete"`` or ``"frequent"`` keep one a person, as
            ``deduplicate_merge`` says.
        person: name of the column with the person's number.
        kinds: column to ``"text"``, ``"code"``, ``"date"``, ``"number"`` or ``"category"``; None guesses.
        block_limit: records that agree in two things are compared if they are no more than this.
        pair_limit: the most pairs to compare; the block limit is lowered until it holds. A pair takes about 100 bytes.
        seed: of the random pairs on which chance agreement is counted.
        caveat: run under differential privacy, with a caveat in the ledger.

    Raises:
        ConfigurationError: an argument is out of range, or rapidfuzz is not installed.

    Warns:
        UserWarning: most records that were joined differ in the identifier of the roles, or one person's in a date by
            what was learned: they may be of people who share a name.
    """

    name: ClassVar[str] = "deduplicate"
    private: Standing = "compares"

    def __init__(
        self,
        columns: Iterable[str] | None = None,
        *,
        near: bool = True,
        threshold: float = 0.7,
        merge: str | None = None,
        person: str = "person",
        kinds: Mapping[str, str] | None = None,
        block_limit: int = 50,
        pair_limit: int = 50_000_000,
        seed: int = 0,
        caveat: bool = False,
    ) -> None:
        super().__init__(caveat=caveat)
        self._columns = None if columns is None else column_names("columns", columns, empty=False)
        self._near, self._seed = bool(near), non_negative_int(seed=seed)
        self._threshold = within_open_unit(threshold=threshold)
        one_of((None, *RULES), merge=merge)
        self._merge = merge
        (self._person,) = column_names("person", person, empty=False)
        self._kinds = dict(kinds or {})
        self._block_limit, self._pair_limit = positive_int(block_limit=block_limit), positive_int(pair_limit=pair_limit)
        if self._block_limit < 2:
            raise ConfigurationError(f"block_limit must be at least 2, got {block_limit!r}")
        self._other_roles: tuple[str, ...] = ()
        self._identifier: str | None = None
        self._warned = False
        try:
            import rapidfuzz  # noqa: F401 - asked for here, used where columns are compared
        except ImportError as error:
            raise ConfigurationError("Deduplicate needs rapidfuzz: pip install 'lightning-privacy[persona]'") from error

    @property
    def person_columns(self) -> tuple[str, ...]:
        """The column that the step makes."""
        return (self._person,)

    def caveat_sentence(self) -> str:
        """What the step does to the guarantee."""
        return (
            "Which records are one person's was decided by comparing all of them, without noise: a person more or less "
            "can change how the records of others are grouped or merged, and so which of them are trained on, and "
            "epsilon does not count that."
        )

    def check(self, schema: pl.Schema | None, context: Context) -> pl.Schema | None:
        """As of any step; what is named must be there and can be compared, and the new column may not."""
        super().check(schema, context)
        for name, kind in self._kinds.items():
            one_of(sorted(KINDS), **{f"kind of column {name!r}": kind})
        if schema is None:
            return None
        for name in self._columns or ():
            require_columns("columns", [name], schema)
            kind_of(pl.Series(name, dtype=schema[name]))
        require_columns("kinds", self._kinds, schema)
        return self._apply(pl.LazyFrame(schema=schema)).collect_schema()

    def _fit(self, frame: pl.LazyFrame, context: Context) -> None:
        roles = context.roles
        self._identifier, self._warned = roles.identifier, False
        self._other_roles = tuple(name for name in roles.columns if _OTHER_ROLES & set(roles.of(name)))

    def _apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        schema = frame.collect_schema()
        if self._person in schema:
            raise ConfigurationError(
                f"person={self._person!r} is a column of the table already: name the new one otherwise"
            )
        schema[self._person] = pl.Int64()
        return frame.map_batches(self._group, schema=schema)

    def run(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Group the records now; see :meth:`Step.run`."""
        self._apply(frame.lazy())  # its checks
        after = self._group(frame)
        self._count(frame, after)
        return after

    def _group(self, table: pl.DataFrame) -> pl.DataFrame:
        names = self._names(table)
        linkage = None
        if table.height == 0:
            persons = np.zeros(0, np.int64)
        elif not self._near:
            persons = equal_records(table, names)
        else:
            linkage = link_records(
                table,
                names,
                kinds=self._kinds,
                block_limit=self._block_limit,
                pair_limit=self._pair_limit,
                seed=self._seed,
            )
            persons = linkage.persons(self._threshold)
            self._learned["pairs compared"] = linkage.candidates
            self._learned["columns"] = ", ".join(linkage.columns)
            for name, reason in linkage.left_out.items():
                self._learned[f"{name} left out"] = reason
            for name, repeated in linkage.repeats.items():
                self._learned[f"{name} compared beyond"] = ", ".join(repeated)
            if linkage.block_limit < self._block_limit:
                self._learned["block limit lowered to"] = linkage.block_limit
        sizes = np.bincount(persons) if len(persons) else np.zeros(0, np.int64)
        found: dict[str, Any] = {
            "found": f"{table.height:,} records -> {len(sizes):,} persons",
            "persons": len(sizes),
            "records of persons with several": int(sizes[sizes > 1].sum()),
            "most records of a person": int(sizes.max(initial=0)),
        }
        self._learned = found | {key: value for key, value in self._learned.items() if key not in found}
        if found["records of persons with several"]:
            self._doubt(table, persons, linkage, found["found"])
        table = table.with_columns(pl.Series(self._person, persons, dtype=pl.Int64))
        return table if self._merge is None else merge(table, self._person, self._merge)

    def _doubt(self, table: pl.DataFrame, persons: npt.NDArray[np.int64], linkage: Linkage | None, counts: str) -> None:
        """Say, once and in the report, that people who share a name may have been taken for one."""
        other, joined, name = 0, 0, self._identifier or ""
        if name in table.columns:
            other, joined = other_identifiers(table[name], persons)
            if other:
                self._learned[f"joined with another {name}"] = f"{other:,} of {joined:,} records"
        found = doubts(linkage, identifier=name, other=other, joined=joined)
        if not found:
            return
        self._learned["doubts"] = "; ".join(found)
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"step {self.name!r} may have joined several people ({counts}): {'; '.join(found)}. Look at some of "
                f"them; name fewer columns in columns=, without those that repeat others, or raise threshold= above "
                f"{self._threshold:g}",
                UserWarning,
                stacklevel=2,
            )

    def _names(self, table: pl.DataFrame) -> tuple[str, ...]:
        if self._columns is not None:
            return self._columns
        names = tuple(
            name
            for name, kind in table.schema.items()
            if name not in self._other_roles
            and not name.startswith(PIPELINE)
            and not (kind.is_integer() and table[name].n_unique() == table.height)
        )
        if not names:
            raise ConfigurationError("no column is left to compare: name those that tell people apart in columns")
        return names
