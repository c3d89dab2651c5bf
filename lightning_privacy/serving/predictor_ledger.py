"""What each client was answered, kept on the disk so that no budget is spent twice.

Every answer is written down before it is given. A process that is killed in between has charged an answer that nobody
saw, never the other way round. Several processes may share the file; the budget holds for all of them together. It is
a SQLite file under a seal (see ``_sealed_database.py``): an altered bit is found before the next answer.

**What a budget means.** The answers to one client, however it chooses its questions, are together as private as the
sum of their epsilons (basic composition). Clients that put their answers together have the sum of theirs:
``total_budget`` bounds what all of them have.

What it can't see is an older copy of the file put in its place, or its removal: keep it where only the service can
write. Names of clients are in it only as salted hashes.

Example:
    >>> import pathlib, tempfile
    >>> from lightning_privacy.accounting import LaplaceRelease
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ledger = PredictorLedger(pathlib.Path(folder, "answers.db"), key=bytes(32))
    ...     order = Order("clinic", LaplaceRelease(epsilon=0.5), count=2)
    ...     granted = [ledger.charge([order], Limits(budget=1.0)) for _ in range(2)]
    ...     granted, ledger.spent("clinic")
    ([[True], [False]], 1.0)
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lightning_privacy._validate import positive, positive_int
from lightning_privacy.accounting import PrivacyLedger, Release, release_from_dict
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.security.errors import TamperedError
from lightning_privacy.security.key_ring import KeyLike
from lightning_privacy.serving._composition import affordable, total, within
from lightning_privacy.serving._sealed_database import SealedDatabase

__all__ = ["Limits", "Order", "PredictorLedger"]

_SCHEMA = """CREATE TABLE layout (version INTEGER NOT NULL, salt BLOB NOT NULL);
INSERT INTO layout VALUES (1, randomblob(16));
CREATE TABLE answers (
    client BLOB NOT NULL, release TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (client, release)
) WITHOUT ROWID"""
_VERSION = 1
_LONGEST_NAME = 256

#: The release of answers that cost nothing: they are computed from weights that are private already.
_FREE = ""

Counts = dict["Release | None", int]


@dataclass(frozen=True)
class Limits:
    """How much may be answered; None for no limit.

    Args:
        budget: Epsilon for each client.
        total_budget: Epsilon for all clients together.
        max_answers: Number of answers for each client, whatever they cost.

    Raises:
        ConfigurationError: A number is out of range.
    """

    budget: float | None = None
    total_budget: float | None = None
    max_answers: int | None = None

    def __post_init__(self) -> None:
        if self.budget is not None:
            positive(budget=self.budget)
        if self.total_budget is not None:
            positive(total_budget=self.total_budget)
        if self.max_answers is not None:
            positive_int(max_answers=self.max_answers)


@dataclass(frozen=True)
class Order:
    """Answers that a client asks for, charged all or none.

    Args:
        client: Who asks: 1 to 256 characters.
        release: What one answer is; None where it costs nothing.
        count: How many.

    Raises:
        ConfigurationError: A value is not usable.
    """

    client: str
    release: Release | None
    count: int = 1

    def __post_init__(self) -> None:
        check_client(self.client)
        positive_int(count=self.count)


class PredictorLedger:
    """The durable account of a predictor's answers.

    Args:
        path: The file; its folder must exist.
        key: Authenticates the file: 32 bytes, a key or a ring of keys. Keep it apart from the file.
        create: Make a new file where there is none, with everybody's budget whole.

    Raises:
        ConfigurationError: The file is missing and may not be made.
        WrongKeyError: It was sealed with a key that is not here.
        TamperedError: It is not as it was sealed.
        OSError: It can't be read or written.
    """

    def __init__(self, path: str | Path, key: KeyLike, *, create: bool = True) -> None:
        self._database = SealedDatabase(path, key, schema=_SCHEMA, create=create)
        with self._database.transaction(write=False) as connection:
            version, self._salt = connection.execute("SELECT version, salt FROM layout").fetchone()
        if version != _VERSION:
            raise ConfigurationError(
                f"{path} has layout {version}; this version of lightning_privacy reads {_VERSION}: update the package"
            )

    @property
    def path(self) -> Path:
        """The file."""
        return self._database.path

    def charge(self, orders: Sequence[Order], limits: Limits) -> list[bool]:
        """Write down what is about to be answered, as far as the limits allow.

        One transaction, on the disk when this returns. The orders are looked at one after the other.

        Args:
            orders: Who asks for what.
            limits: Epsilon and number of answers allowed.

        Returns:
            For each order whether it was charged; the others must not be answered.

        Raises:
            TamperedError: The file was altered since it was sealed; nothing was charged.
            OSError: It can't be read or written; nothing was charged.
        """
        granted = []
        with self._database.transaction() as connection:
            everybody = _counts(connection, None) if limits.total_budget is not None else {}
            for order in orders:
                client = self._hash(order.client)
                allowed = _allows(order, limits, _counts(connection, client), everybody)
                if allowed:
                    connection.execute(
                        "INSERT INTO answers VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count",
                        (client, _text(order.release), order.count),
                    )
                    everybody[order.release] = everybody.get(order.release, 0) + order.count
                granted.append(allowed)
        return granted

    def remaining(self, client: str, release: Release | None, limits: Limits) -> int | None:
        """How many more answers of a kind a client can have, or None without a limit.

        Args:
            client: Who.
            release: What one answer is; None where it costs nothing.
            limits: What holds.
        """
        with self._database.transaction(write=False) as connection:
            own, everybody = _counts(connection, self._hash(check_client(client))), _counts(connection, None)
        numbers = []
        if release is not None and limits.budget is not None:
            numbers.append(affordable(_charged(own), release, budget=limits.budget))
        if release is not None and limits.total_budget is not None:
            numbers.append(affordable(_charged(everybody), release, budget=limits.total_budget))
        if limits.max_answers is not None:
            numbers.append(max(0, limits.max_answers - sum(own.values())))
        return min(numbers, default=None)

    def answers(self, client: str | None = None) -> int:
        """Number of answers to a client, or to all."""
        return sum(self._read(client).values())

    def spent(self, client: str | None = None) -> float:
        """Sum of the epsilons of the answers to a client, or to all; infinite after answers without protection."""
        return total(_charged(self._read(client)))

    def privacy_ledger(self, *, delta: float, client: str | None = None, unit: str = "example") -> PrivacyLedger:
        """The answers to a client, or to all, as a ledger that composes them exactly.

        Its epsilon at a delta above 0 is below the sum by which budgets are kept.

        Args:
            delta: The delta of the ledger, in (0, 1).
            client: Who; None for all.
            unit: What a record of training data is.

        Raises:
            ConfigurationError: ``delta`` is out of range.
        """
        ledger = PrivacyLedger(delta=delta, unit=unit)
        for release, count in _charged(self._read(client)).items():
            ledger.charge(release, count, label="answers of the predictor")
        return ledger

    def _read(self, client: str | None) -> Counts:
        with self._database.transaction(write=False) as connection:
            return _counts(connection, None if client is None else self._hash(check_client(client)))

    def _hash(self, client: str) -> bytes:
        return hashlib.blake2b(client.encode("utf-8", "surrogatepass"), digest_size=16, salt=self._salt).digest()


def check_client(client: object) -> str:
    """Return the name of a client, which must be usable as one.

    Raises:
        ConfigurationError: It is not a text of 1 to 256 characters.
    """
    if not isinstance(client, str) or not 0 < len(client) <= _LONGEST_NAME:
        raise ConfigurationError(f"client must be a text of 1 to {_LONGEST_NAME} characters, got {client!r:.80}")
    return client


def _allows(order: Order, limits: Limits, own: Counts, everybody: Counts) -> bool:
    if limits.max_answers is not None and sum(own.values()) + order.count > limits.max_answers:
        return False
    if order.release is None:
        return True
    for budget, counts in ((limits.budget, own), (limits.total_budget, everybody)):
        if budget is not None:
            after = {**counts, order.release: counts.get(order.release, 0) + order.count}
            if not within(_charged(after), budget=budget):
                return False
    return True


def _charged(counts: Mapping[Release | None, int]) -> dict[Release, int]:
    return {release: count for release, count in counts.items() if release is not None}


def _counts(connection: sqlite3.Connection, client: bytes | None) -> Counts:
    rows: Iterable[tuple[str, int]]
    if client is None:
        rows = connection.execute("SELECT release, SUM(count) FROM answers GROUP BY release")
    else:
        rows = connection.execute("SELECT release, count FROM answers WHERE client = ?", (client,))
    return {_release(text): count for text, count in rows}


def _text(release: Release | None) -> str:
    return _FREE if release is None else json.dumps(release.to_dict(), sort_keys=True)


@lru_cache(maxsize=64)
def _release(text: str) -> Release | None:
    if text == _FREE:
        return None
    try:
        return release_from_dict(json.loads(text))
    except ValueError as error:  # ConfigurationError is one: of a kind that only a newer version knows
        raise TamperedError(f"the ledger of answers holds a release that can't be read: {text[:80]!r}") from error
