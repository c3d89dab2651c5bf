"""What the folder of a sweep holds: every attempt at every run, how it ended, what it reached and what it spent.

Attempts that failed, were killed or are still running count like those that finished: what they released was released.
Where it can't be known what one has spent, the record says so and gives what it is at least.

Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     SweepRecord.read(Path(folder)).entries
    ()
"""

from __future__ import annotations

import fcntl
import json
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lightning_privacy.accounting import LedgerJournal, PrivacyLedger
from lightning_privacy.accounting.void import is_void
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.report.ledger_file import LEDGER_FILE, ledger_of
from lightning_privacy.sweeps.attempts import LOG_NAME, Account, Attempt, AttemptLog
from lightning_privacy.sweeps.random_runs import SELECTION_NAME, Selection
from lightning_privacy.sweeps.result import RESULT_NAME, RunResult, run_figures
from lightning_privacy.sweeps.spending import FOLDER

__all__ = ["SweepEntry", "SweepRecord"]

_LOCK = ".lock"
_OF_ATTEMPT = "attempt_"
_AT_END = "it trained in copies of its process, which tell what they spent when they end"


@dataclass(frozen=True)
class SweepEntry:
    """One attempt at a run.

    Attributes:
        run: Folder of the run in the sweep's.
        status: ``"finished"``, ``"failed"``, ``"killed"``, ``"running"`` or ``"unknown"``.
        why: What went wrong, in one line.
        overrides: What the run has in place of the defaults.
        figures: What it reached, by name.
        ledgers: What it spent, or where ``unknown`` is set what it spent at least.
        unknown: Why it is not known what the attempt has spent; empty where it is.
        private: Whether the training was.
    """

    run: str
    status: str
    why: str = ""
    overrides: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    ledgers: tuple[PrivacyLedger, ...] = ()
    unknown: str = ""
    private: bool = True

    def __post_init__(self) -> None:
        # A figure that a caveat voids is passed on by nobody.
        if any(map(is_void, self.ledgers)):
            object.__setattr__(self, "private", False)
        if not self.private and "epsilon" in self.figures:
            object.__setattr__(self, "figures", {**self.figures, "epsilon": math.inf})


@dataclass(frozen=True)
class SweepRecord:
    """A sweep.

    Attributes:
        folder: Of the sweep.
        entries: Every attempt, in the order of their start; those of which only the folder is known come last.
        missing: What is lacking in the record, one sentence each; then what the sweep spent is not known.
        sweeper: Class that chose the settings, or ``""``.
    """

    folder: Path
    entries: tuple[SweepEntry, ...] = ()
    missing: tuple[str, ...] = ()
    sweeper: str = ""

    @classmethod
    def read(cls, folder: Path) -> SweepRecord:
        """Read a folder; nothing in it is changed.

        Args:
            folder: Of a sweep, or one with folders of single runs in it.

        Raises:
            ConfigurationError: There is no such folder.
        """
        if not folder.is_dir():
            raise ConfigurationError(f"folder must be the folder of a sweep, and {folder} is none")
        attempts, complete = AttemptLog(folder).read()
        missing = [] if complete else [f"A line of {LOG_NAME} is damaged."]
        entries = [_entry(attempt, folder) for attempt in attempts]
        known = {attempt.run for attempt in attempts}
        alone, inner = _places(folder, known)
        for path in alone:
            entry = _lone(path, path.relative_to(folder).as_posix())
            entries.append(entry)
            if (path / RESULT_NAME).is_file() and Selection.read(folder) is None:
                missing.append(f"Run {entry.run} is one of a sweep, and {LOG_NAME} does not tell of it.")
        for path in inner:
            name = path.relative_to(folder).as_posix()
            if (path / SELECTION_NAME).is_file():
                missing.append(f"{name} is a search with a secret number of runs, which costs more than its best run.")
                continue
            record = cls.read(path)
            entries += [replace(entry, run=f"{name}/{entry.run}") for entry in record.entries]
            missing += [f"{name}: {sentence}" for sentence in record.missing]
        if Selection.read(folder) is None:
            missing += _left_over(folder, attempts, alone, inner)
            if not entries and not missing:
                missing.append("There is no record of any run in the folder.")
        return cls(folder, tuple(entries), tuple(missing), _sweeper(folder))

    @property
    def finished(self) -> tuple[SweepEntry, ...]:
        """The runs that came to their end."""
        return tuple(entry for entry in self.entries if entry.status == "finished")


def _places(folder: Path, known: Set[str]) -> tuple[list[Path], list[Path]]:
    """Runs at any depth that the record of the sweep does not know, and folders of other sweeps."""
    alone, inner, ours = [], [], {folder / run for run in known}
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        if place in ours:
            continue
        if place != folder:
            if (place / LOG_NAME).is_file() or (place / SELECTION_NAME).is_file():
                inner.append(place)
                continue
            if _is_run(place):
                alone.append(place)
                continue
        waiting += [path for path in place.iterdir() if path.is_dir() and not path.is_symlink()]
    return sorted(alone, key=_order), sorted(inner, key=_order)


def _order(path: Path) -> tuple[int, str]:
    return len(path.name), str(path)


def _left_over(folder: Path, attempts: Sequence[Attempt], alone: Sequence[Path], inner: Sequence[Path]) -> list[str]:
    """What shows that there were more attempts than are counted."""
    counted = {folder / attempt.run: 0 for attempt in attempts} | dict.fromkeys(alone, 1)
    told: set[Path] = set()
    for attempt in attempts:
        run = folder / attempt.run
        counted[run] += 1
        if attempt.accounts is not None:
            told |= {run / account.journal for account in attempt.accounts.accounts}
        if _result_of(run) == attempt.name:
            told |= set((run / FOLDER).glob(f"{_OF_ATTEMPT}{attempt.name}_*.jsonl"))
    for run in alone:
        name = _result_of(run)
        if name is not None:
            told |= set((run / FOLDER).glob(f"{_OF_ATTEMPT}{name}_*.jsonl"))
    others: dict[Path, int] = {}
    sentences = []
    for path in sorted(folder.rglob(f"{FOLDER}/*.jsonl")):
        if path in told or any(path.is_relative_to(place) for place in inner):
            continue
        owner = next((place for place in path.parents if place in counted), None)
        # A training keeps a journal of its own, which says again what the attempt's says or ledger.json does.
        if owner is not None and not path.name.startswith(_OF_ATTEMPT):
            others[owner] = others.get(owner, 0) + 1
            if others[owner] <= counted[owner]:
                continue
        sentences.append(f"No attempt that is counted accounts for {path.relative_to(folder).as_posix()}.")
    for run, number in counted.items():
        earlier = list(run.glob("earlier_*")) if run.is_dir() else []
        if len(earlier) >= number and earlier:
            sentences.append(f"Run {run.relative_to(folder).as_posix()} had more attempts than are counted.")
    return sentences


def _result_of(run: Path) -> str | None:
    """The attempt whose result is in the folder of a run."""
    try:
        result = RunResult.read(run)
    except (CheckpointError, OSError):
        return None
    return None if result is None else result.attempt


def _entry(attempt: Attempt, sweep: Path) -> SweepEntry:
    folder = sweep / attempt.run
    about: dict[str, Any] = {"run": attempt.run, "overrides": attempt.started.overrides}
    try:
        result = RunResult.read(folder)
    except (CheckpointError, OSError) as error:
        return SweepEntry(**about, status="unknown", why=str(error), unknown=f"{RESULT_NAME} can't be read")
    if result is not None and result.attempt == attempt.name:
        return SweepEntry(**about, status="finished", figures=result.figures, **_spent(result.spent))
    if attempt.ended is None:
        running = _is_locked(folder)
        status, why = ("running", "") if running else ("killed", "the sweep itself was ended before it")
    elif attempt.ended.how == "finished":
        # The folder has been moved, emptied or used again: what was spent is in it and nowhere else.
        return SweepEntry(**about, status="unknown", why=f"its {RESULT_NAME} is gone", unknown=f"{RESULT_NAME} is gone")
    else:
        status, why = attempt.ended.how, attempt.ended.why
    spent = _written_down(attempt, folder)
    if status == "running" and not spent["unknown"]:
        spent["unknown"] = "it is still running"
    return SweepEntry(**about, status=status, why=why, **spent)


def _spent(spent: Mapping[str, Any]) -> dict[str, Any]:
    """What a finished run says it spent."""
    covers = spent.get("covers")
    try:
        ledgers = tuple(_restored(state) for state in spent.get("ledgers", ()))
    except (CheckpointError, ConfigurationError, TypeError, KeyError) as error:
        return {"unknown": f"its ledger can't be read: {error}"}
    if covers == "none":
        return {"ledgers": ledgers, "private": False}
    return {"ledgers": ledgers, "unknown": "" if covers in ("all", "end") else covers or "it kept no account"}


def _restored(state: Mapping[str, Any]) -> PrivacyLedger:
    ledger = PrivacyLedger(delta=state["delta"], unit=state["unit"])
    ledger.load_state_dict(state)
    return ledger


def _written_down(attempt: Attempt, folder: Path) -> dict[str, Any]:
    """What an attempt that did not finish wrote down before it released it."""
    if attempt.accounts is None:
        # It ended before it had opened its accounts, which comes before everything that releases something.
        return {"unknown": ""}
    ledgers, unknown = [], ""
    for account in attempt.accounts.accounts:
        ledger, lacks = _from_journal(account, folder, attempt.name)
        ledgers.append(ledger)
        unknown = unknown or lacks
    covers = attempt.accounts.covers
    if covers == "none":
        return {"ledgers": tuple(ledgers), "private": False, "unknown": unknown}
    if covers != "all":
        unknown = unknown or (_AT_END if covers == "end" else covers)
    return {"ledgers": tuple(ledgers), "unknown": unknown}


def _from_journal(account: Account, folder: Path, attempt: str) -> tuple[PrivacyLedger, str]:
    ledger = PrivacyLedger(delta=account.delta, unit=account.unit)
    path = folder / account.journal
    if not path.is_file():
        return ledger, f"{account.journal} is gone"
    try:
        for release, count in LedgerJournal.read(path, attempt):
            ledger.charge(release, count)
        for caveat in LedgerJournal.caveats(path, attempt):
            ledger.add_caveat(caveat)
    except (CheckpointError, OSError) as error:
        return ledger, str(error)
    return ledger, ""


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in ("config.yaml", RESULT_NAME, "summary.json", LEDGER_FILE))


def _lone(folder: Path, name: str) -> SweepEntry:
    """A run that the sweep's record does not know: one of another command, or the record is gone."""
    about: dict[str, Any] = {"run": name, "overrides": _overrides(folder)}
    try:
        result = RunResult.read(folder)
        summary = _json(folder / "summary.json")
        kept = _json(folder / LEDGER_FILE)
        if result is not None:
            return SweepEntry(**about, status="finished", figures=result.figures, **_spent(result.spent))
        if summary is None:
            return SweepEntry(**about, status="unknown", why="it has no summary.json", unknown="no account was found")
        guarantee, outcome = summary["guarantee"], summary["outcome"]
        figures = run_figures(None if guarantee is None else guarantee["epsilon"], outcome["test"], folder=folder)
        about |= {"status": "finished", "figures": figures}
        if kept is None:
            lacks = {"private": False} if guarantee is None else {"unknown": f"{LEDGER_FILE} is missing"}
            return SweepEntry(**about, **lacks)
        covers, complete = kept.get("covers"), kept.get("complete") is True
        return SweepEntry(
            **about,
            ledgers=(ledger_of(kept),),
            private=covers == "training",
            unknown="" if complete else f"{LEDGER_FILE} was written before the end of the run",
        )
    except (CheckpointError, ConfigurationError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        about.setdefault("status", "unknown")
        return SweepEntry(**about, why=str(error), unknown=f"what is in its folder can't be read: {error}")


def _json(path: Path) -> Mapping[str, Any] | None:
    if not path.is_file():
        return None
    values = json.loads(path.read_bytes())
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{path.name} holds no record")
    return values


def _overrides(folder: Path) -> tuple[str, ...]:
    path = folder / ".hydra" / "overrides.yaml"
    return tuple(map(str, OmegaConf.load(path))) if path.is_file() else ()


def _is_locked(folder: Path) -> bool:
    """Whether a process is at work on a run."""
    path = folder / _LOCK
    if not path.is_file():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _sweeper(folder: Path) -> str:
    path = folder / "multirun.yaml"
    if not path.is_file():
        return ""
    found = OmegaConf.select(OmegaConf.load(path), "hydra.sweeper._target_")
    return found if isinstance(found, str) else ""
