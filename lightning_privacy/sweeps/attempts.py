"""What was tried in a sweep: a line for the start and the end of every attempt at a run, in one file of its folder.

A run is one combination of settings and has a folder; an attempt is one time it was started. A run that was killed and
started again has two, and both have cost something. Lines are appended by whichever process knows, and survive its end.

Example:
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = AttemptLog(Path(folder))
    ...     log.write(Started("a1", run="0", config="c0", overrides=("callbacks.privacy.epsilon=1",)))
    ...     log.write(Ended("a1", "failed", "no such file"))
    ...     attempts, complete = log.read()
    >>> attempts[0].run, attempts[0].ended.how, complete
    ('0', 'failed', True)
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["LOG_NAME", "Account", "Accounts", "Attempt", "AttemptLog", "Ended", "Started"]

LOG_NAME = "attempts.jsonl"


@dataclass(frozen=True)
class Started:
    """An attempt is about to begin.

    Args:
        attempt: Names it.
        run: Folder of the run in the sweep's.
        config: Digest of its settings.
        overrides: What the run has in place of the defaults.
        time: When, in ISO format.
    """

    attempt: str
    run: str
    config: str
    overrides: tuple[str, ...] = ()
    time: str = ""


@dataclass(frozen=True)
class Account:
    """Where the charges of one ledger are written down before they happen.

    Args:
        journal: The file, in the run's folder.
        unit: What the ledger protects.
        delta: At which it reports.
    """

    journal: str
    unit: str
    delta: float


@dataclass(frozen=True)
class Accounts:
    """From here on, what an attempt releases is charged to these ledgers.

    Args:
        attempt: Names it.
        accounts: One for each ledger.
        covers: ``"all"`` where they have everything at any time; ``"end"`` where they have it at the end of the run
            only; ``"none"`` where the training is not private; otherwise why they don't have it.
    """

    attempt: str
    accounts: tuple[Account, ...]
    covers: str = "all"


@dataclass(frozen=True)
class Ended:
    """An attempt is over.

    Args:
        attempt: Names it.
        how: ``"finished"``, ``"failed"`` or ``"killed"``.
        why: The error, in one line.
        time: When, in ISO format.
    """

    attempt: str
    how: str
    why: str = ""
    time: str = ""


@dataclass
class Attempt:
    """All that is written of an attempt."""

    started: Started
    accounts: Accounts | None = None
    ended: Ended | None = None

    @property
    def name(self) -> str:
        """Names the attempt."""
        return self.started.attempt

    @property
    def run(self) -> str:
        """Folder of the run in the sweep's."""
        return self.started.run


_KINDS: dict[str, type[Started | Accounts | Ended]] = {"started": Started, "accounts": Accounts, "ended": Ended}
_NAMES = {kind: name for name, kind in _KINDS.items()}


class AttemptLog:
    """The file ``attempts.jsonl`` of a sweep.

    Args:
        folder: Of the sweep.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG_NAME

    def write(self, event: Started | Accounts | Ended) -> None:
        """Append an event.

        One write to a file opened for appending: processes that write at the same time don't mix their lines.

        Raises:
            OSError: The file can't be written to; the attempt must not begin.
        """
        line = json.dumps({"event": _NAMES[type(event)], **asdict(event)}).encode() + b"\n"
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            # A line that a full disk or a killed process has cut off must not swallow this one.
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line
            if os.write(descriptor, line) != len(line):
                raise OSError(f"{self.path} did not take a whole line; is the disk full?")
        finally:
            os.close(descriptor)

    def read(self) -> tuple[list[Attempt], bool]:
        """All attempts, in the order of their start, and whether every line could be read.

        Raises:
            OSError: The file is there and can't be read.
        """
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return [], True
        attempts: dict[str, Attempt] = {}
        complete = True
        for line in lines:
            if not line:
                continue
            event = _event(line)
            if isinstance(event, Started):
                attempts.setdefault(event.attempt, Attempt(event))
            elif event is not None and event.attempt in attempts:
                setattr(attempts[event.attempt], _NAMES[type(event)], event)
            else:
                complete = False
        return list(attempts.values()), complete


def _event(line: bytes) -> Started | Accounts | Ended | None:
    """The event of a line, or None where it is damaged."""
    try:
        values = json.loads(line)
        kind = _KINDS[values.pop("event")]
        if kind is Started:
            return Started(**{**values, "overrides": tuple(map(str, values["overrides"]))})
        if kind is Accounts:
            return Accounts(**{**values, "accounts": tuple(_account(entry) for entry in values["accounts"])})
        return kind(**values)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _account(values: Mapping[str, Any]) -> Account:
    account = Account(**values)
    if not isinstance(account.journal, str) or not isinstance(account.unit, str):
        raise TypeError(f"not an account: {values!r}")
    return Account(account.journal, account.unit, float(account.delta))
