"""At most m records for each person, so that a guarantee for a record says something about a person.

A ledger protects one record. A person who is in fifty is not protected by it at all (pitfall P34): leaving them out
changes fifty records. With one record for each person the two are the same; with m, what the ledger's epsilon means for
a person is group privacy, see :mod:`~lightning_privacy.preparation.group_privacy`.

Which records stay is drawn by a keyed pseudo-random function (AES-256) of what each of them holds, and neither of its
place in the table nor of the number that de-duplication gave its person: both change when somebody else comes or goes.
So what is kept of one person does not depend on who else is in the table, and nobody without the key can arrange for a
record to be kept. Afterwards neighbouring tables are those that differ in all records of one person.

The records of one person must be known as such: de-duplicate and pseudonymise before, and release statistics after.

Example:
    >>> import polars as pl
    >>> table = pl.DataFrame({"who": ["a", "a", "b", "a"], "digit": [1, 2, 3, 4]})
    >>> step = BoundContributions(2, person="who")
    >>> step.fit(table.lazy(), Context(key=bytes(32)))
    >>> step.run(table)["who"].sort().to_list(), most_records(table, "who")
    (['a', 'a', 'b'], 3)
"""

from __future__ import annotations

import os
from typing import ClassVar

import numpy as np
import polars as pl
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from typing_extensions import override

from lightning_privacy._validate import one_of, positive_int
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.errors import ConfigurationError, PrivacyViolation
from lightning_privacy.preparation._columns import PIPELINE, ROW, known_person, require_columns
from lightning_privacy.preparation._key_material import SECRET_BYTES, derived_key
from lightning_privacy.preparation.group_privacy import GroupGuarantee, group_privacy
from lightning_privacy.preparation.step import Context, Step

__all__ = ["BoundContributions", "most_records"]

_MISSING = ("error", "drop")
_PERSON, _A, _B = "person", "a", "b"
# All other units are people, by whatever name: "person", "patient", "client".
_RECORD_UNITS = ("example", "record")


def most_records(frame: pl.DataFrame | pl.LazyFrame, person: str) -> int:
    """The most records that one person can have; those without a person could all be of one.

    Args:
        frame: the table; a lazy one is streamed.
        person: the column that says who a row is about.

    Returns:
        A number of records; 0 when there is none.

    Raises:
        ConfigurationError: the column is unknown.
    """
    schema = frame.lazy().collect_schema()
    require_columns("person", [person], schema)
    persons = known_person(schema, person).alias(_PERSON)
    counts = frame.lazy().group_by(persons).agg(pl.len().alias("\x00records"))
    return int(counts.select(pl.col("\x00records").max()).collect(engine="streaming").item() or 0)


class BoundContributions(Step):
    """Keeps at most ``max_records`` records of each person, drawn at random by a key; the order of rows stays.

    With the key of the context, or a seeded noise source, the draw is the same again; without, it is new each time.

    What a record holds is all columns but ``person``, which counts only where it is the identifier of the roles: a
    column that another step made may number people in the order in which they appear. Leave out any other column of
    such numbers before. Records that hold the same are drawn alike: two people with the same two records keep the same
    one of them. In the pipeline of :class:`~lightning_privacy.data.PersonaDataModule` it is what they held in the raw
    table.

    Args:
        max_records: m, the most records of one person.
        person: the column that says who a row is about; None for that of the context, or else the identifier of the
            roles.
        missing: rows that don't say who they are about, by a null or blank text: ``"error"`` refuses them, as they
            could all be of one person; ``"drop"`` leaves them out.
        caveat: accept releases that were charged, in a ledger of persons, before records were bounded. A ledger of
            records has a caveat then in any case.

    Raises:
        ConfigurationError: an argument is out of range, or there is no column of persons.
        PrivacyViolation: at :meth:`fit`, the ledger's unit is the person and what it was or would be charged is not.
    """

    name: ClassVar[str] = "bound contributions"
    learns: ClassVar[bool] = True  # the key and the roles; a person's rows change by themselves
    whole: ClassVar[bool] = True

    def __init__(
        self, max_records: int = 1, *, person: str | None = None, missing: str = "error", caveat: bool = False
    ) -> None:
        super().__init__(caveat=caveat)
        self._max_records = positive_int(max_records=max_records)
        one_of(_MISSING, missing=missing)
        if person is not None and (not isinstance(person, str) or not person):
            raise ConfigurationError(f"person must be the name of a column or None, got {person!r}")
        self._person, self._missing = person, missing
        self._column = ""
        self._identifier: str | None = None
        self._secret: bytes | None = None
        self._charged_before = 0  # the most records of a person when something had been charged already

    @property
    def max_records(self) -> int:
        """The most records of one person, afterwards."""
        return self._max_records

    def guarantee(self, ledger: PrivacyLedger, *, delta: float | None = None) -> GroupGuarantee:
        """What all that a ledger was charged, on rows bounded by this step, means for a person.

        Where something was charged before, while a person had more records, it is told for as many.

        Args:
            ledger: as in :func:`group_privacy`.
            delta: as in :func:`group_privacy`.
        """
        return group_privacy(ledger, records=max(self._max_records, self._charged_before), delta=delta)

    @property
    @override
    def person_columns(self) -> tuple[str, ...]:
        return () if self._person is None else (self._person,)

    @override
    def check(self, schema: pl.Schema | None, context: Context) -> pl.Schema | None:
        super().check(schema, context)
        column = self._column_of(context)
        if schema is not None:
            require_columns("person", [column], schema)
        if context.ledger is not None:
            self._refuse_unit(context.ledger)
        if context.key is not None:
            derived_key(context.key, "choice of records")
        return schema

    def _column_of(self, context: Context) -> str:
        column = self._person if self._person is not None else context.who
        if column is None:
            raise ConfigurationError(
                "bound contributions must know whose a record is: give person, or a column the role identifier"
            )
        return column

    @override
    def _fit(self, frame: pl.LazyFrame, context: Context) -> None:
        column = self._column = self._column_of(context)
        self._identifier = context.roles.identifier
        if self._missing == "error":
            unknown = known_person(frame.collect_schema(), column).null_count()
            _refuse_missing(frame.select(unknown).collect(engine="streaming").item(), column)
        most = most_records(frame, column)
        self._charged_before = 0
        if context.ledger is not None:
            self._check_unit(context.ledger, most)
        if context.key is not None:
            self._secret = derived_key(context.key, "choice of records")
        elif context.noise is not None and context.noise.seeded:
            seed = context.noise.bernoulli_seed(f"choice of records {context.noise.next_value()}")
            self._secret = seed.to_bytes(SECRET_BYTES, "big")
        else:
            self._secret = os.urandom(SECRET_BYTES)
        self._learned = {"most records before": most, "most records after": min(most, self._max_records)}

    def _refuse_unit(self, ledger: PrivacyLedger) -> None:
        m = self._max_records
        if ledger.unit not in _RECORD_UNITS and m > 1:
            raise PrivacyViolation(
                f"the ledger protects a {ledger.unit}, and with max_records={m} each release protects one of their {m} "
                f"records: take max_records=1, or a ledger with unit='example' and group_privacy(ledger, records={m})"
            )

    def _check_unit(self, ledger: PrivacyLedger, most: int) -> None:
        m = self._max_records
        if ledger.groups and most > m:
            self._charged_before = most
            self._tell_before(ledger, most)
        elif m > 1:
            self._say(
                ledger,
                f"A person may be in up to {m} records, and epsilon is for one {ledger.unit}: for a person it is what "
                f"group_privacy(ledger, records={m}) gives.",
            )

    def _tell_before(self, ledger: PrivacyLedger, most: int) -> None:
        """Say that something was charged while a person had more records than the step leaves, or refuse it."""
        if ledger.unit in _RECORD_UNITS:
            self._say(
                ledger,
                f"Something was charged before the records of a person were cut to {self._max_records}. Where it was "
                f"of these records, one person had up to {most} of them, and epsilon is for one {ledger.unit}: for a "
                f"person it is what group_privacy(ledger, records={most}) gives.",
            )
            return
        sentence = (
            f"What was released before the contributions were bounded protects a record, and one {ledger.unit} had "
            f"up to {most} of them."
        )
        if not self._caveat:
            raise PrivacyViolation(
                f"{sentence} The ledger's unit is the {ledger.unit}: put this step before those that release "
                f"something, or pass caveat=True to have that sentence in the ledger"
            )
        self._say(ledger, sentence)

    def _say(self, ledger: PrivacyLedger, sentence: str) -> None:
        self._caveats = (*self._caveats, sentence)
        ledger.add_caveat(sentence)

    @override
    def _apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        schema = frame.collect_schema()
        require_columns("person", [self._column], schema)
        secret = self._fitted_secret()
        content, first, second = self._content(schema), secret[:8], secret[8:16]
        # Two words, so that a record of 10 million shares its content's hash with no other but an equal one.
        words = (content.hash(int.from_bytes(seed, "little")).alias(name) for name, seed in ((_A, first), (_B, second)))
        drawn = pl.struct(known_person(schema, self._column).alias(_PERSON), *words)
        return frame.filter(drawn.map_batches(self._keep, return_dtype=pl.Boolean))

    def _fitted_secret(self) -> bytes:
        if self._secret is None:
            raise ConfigurationError("bound contributions must be fitted before it is applied")
        return self._secret

    def _content(self, schema: pl.Schema) -> pl.Expr:
        """What a record holds, as far as it is its own."""
        names = [ROW] if ROW in schema else [name for name in schema if not name.startswith(PIPELINE)]
        if self._column != self._identifier and len(names) > 1:
            names = [name for name in names if name != self._column]
        # The number of a category is its place among those that came before.
        coded = (pl.Categorical, pl.Enum)
        return pl.struct(pl.col(name).cast(pl.String) if schema[name] in coded else pl.col(name) for name in names)

    def _keep(self, records: pl.Series) -> pl.Series:
        """Which rows stay."""
        persons = records.struct.field(_PERSON)
        if self._missing == "error":
            _refuse_missing(persons.null_count(), self._column)
        known = persons.is_not_null().to_numpy()
        # One of 10 million people shares a number with another with a probability of 5e-13; they are bounded together.
        numbers = persons.hash(int.from_bytes(self._fitted_secret()[:8], "little")).to_numpy()
        drawn = self._draw(records.struct.field(_A).to_numpy(), records.struct.field(_B).to_numpy())
        rows = np.lexsort((drawn, numbers))
        keep = np.zeros(len(persons), dtype=np.bool_)
        keep[rows] = _place_in_run(numbers[rows]) < self._max_records
        return pl.Series(self._column, keep & known)

    def _draw(self, first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """64 pseudo-random bits for each record, of the two words of its content."""
        blocks = np.stack([first, second], axis=1).astype("<u8").tobytes()
        # Equal blocks are records that hold the same. Each is taken for its pseudo-random number: no message.
        cipher = Cipher(algorithms.AES(self._fitted_secret()), modes.ECB())  # noqa: S305
        words = np.frombuffer(cipher.encryptor().update(blocks), "<u8")
        return words[::2].astype(np.uint64)

    def __getstate__(self) -> dict[str, object]:
        # The key must not travel with the step, into a checkpoint, say.
        return self.__dict__ | {"_secret": None, "_fitted": False}


def _place_in_run(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """0, 1, 2, ... within each run of equal numbers."""
    index = np.arange(len(numbers), dtype=np.uint64)
    starts = np.concatenate([[True], numbers[1:] != numbers[:-1]]) if len(numbers) else np.zeros(0, np.bool_)
    return index - np.maximum.accumulate(np.where(starts, index, np.uint64(0)))


def _refuse_missing(number: int, column: str) -> None:
    if number:
        raise ConfigurationError(
            f"{number} rows don't say who they are about, in column {column!r}, and could all be of one person: fill "
            f"it, de-duplicate to a column of persons, or pass missing='drop' to leave them out"
        )
