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
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from lightning_privacy.accounting import LedgerJournal, PrivacyLedger
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.report._run_tree import earlier_folders, walk_run
from lightning_privacy.report.environment import ENVIRONMENT_FILE
from lightning_privacy.report.ledger_file import LEDGER_FILE
from lightning_privacy.report.lone_run import charge_later, lone_run, spent_by
from lightning_privacy.report.run_journals import JOURNALS_FILE
from lightning_privacy.report.sweep_entry import SweepEntry
from lightning_privacy.sweeps.attempts import LOG_NAME, Account, Attempt, AttemptLog
from lightning_privacy.sweeps.optuna_search import SEARCH_NAME
from lightning_privacy.sweeps.random_runs import SELECTION_NAME, Selection
from lightning_privacy.sweeps.result import RESULT_NAME, RunResult
from lightning_privacy.sweeps.spending import FOLDER

__all__ = ["SweepEntry", "SweepRecord"]

_LOCK = ".lock"
_BASIC = "BasicSweeper"
_OF_ATTEMPT = "attempt_"
_CONFIG = "config.yaml"
_UNKNOWN = "unknown"
_HYDRA = ".hydra"  # Beside the config of each run of the command.
_OF_SEARCH = ".runs"
_OWN = (ENVIRONMENT_FILE, RESULT_NAME, "summary.json", LEDGER_FILE)
_AT_END = "it trained in copies of its process, which tell what they spent when they end"


@dataclass(frozen=True)
class SweepRecord:
    """A sweep.

    Attributes:
        folder: Of the sweep.
        entries: Every attempt, in the order of their start; those of which only the folder is known come last.
        missing: What is lacking in the record, one sentence each; then what the sweep spent is not known.
        sweeper: Class that chose the settings last, or ``""``; ``"unknown"``, where its record is damaged.
        searched: Whether there is the record of a search that went by results, in the folder or one of a sweep in it.
    """

    folder: Path
    entries: tuple[SweepEntry, ...] = ()
    missing: tuple[str, ...] = ()
    sweeper: str = ""
    searched: bool = False

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
        last = {attempt.run: attempt.name for attempt in attempts}
        entries = [_entry(attempt, folder, last=last[attempt.run] == attempt.name) for attempt in attempts]
        known = {attempt.run for attempt in attempts}
        alone, inner = _places(folder, known)
        searched = (folder / SEARCH_NAME).is_file()
        for path in alone:
            entry = lone_run(path, path.relative_to(folder).as_posix())
            entries.append(entry)
            if (path / RESULT_NAME).is_file() and Selection.read(folder) is None:
                missing.append(f"Run {entry.run} is one of a sweep, and {LOG_NAME} does not tell of it.")
        for path in inner:
            name = path.relative_to(folder).as_posix()
            if (path / SELECTION_NAME).is_file():
                missing.append(f"{name} is a search with a secret number of runs, which costs more than its best run.")
                continue
            record = cls.read(path)
            searched = searched or record.adaptive
            entries += [replace(entry, run=f"{name}/{entry.run}") for entry in record.entries]
            missing += [f"{name}: {sentence}" for sentence in record.missing]
        if Selection.read(folder) is None:
            missing += _left_over(folder, attempts, alone, inner)
            if not entries and not missing:
                missing.append("There is no record of any run in the folder.")
        return cls(folder, tuple(entries), tuple(missing), _sweeper(folder), searched)

    @property
    def adaptive(self) -> bool:
        """Whether settings were chosen by the results of earlier runs, as far as can be seen."""
        return self.searched or (bool(self.sweeper) and not self.sweeper.endswith(_BASIC))

    @property
    def finished(self) -> tuple[SweepEntry, ...]:
        """The runs that came to their end."""
        return tuple(entry for entry in self.entries if entry.status == "finished")


def _places(folder: Path, known: Set[str]) -> tuple[list[Path], list[Path]]:
    """Runs at any depth that the record of the sweep does not know, and folders of other sweeps."""
    alone, inner, ours = [], [], {folder / run for run in known}
    waiting = [(folder, False)]
    while waiting:
        place, within = waiting.pop()
        aside = set[Path]()
        if place in ours:
            within, aside = True, set(earlier_folders(place))
        elif place != folder:
            if (place / LOG_NAME).is_file() or (place / SELECTION_NAME).is_file():
                inner.append(place)
                continue
            # In the folder of a run, what has this file is what the account of that run leaves to another.
            own = (place / ENVIRONMENT_FILE).is_file()
            if own if within else _is_run(place, hidden=_is_hidden(place.relative_to(folder))):
                alone.append(place)
                within, aside = True, set(earlier_folders(place))
        for path in place.iterdir():
            if path.is_dir() and not path.is_symlink() and path not in aside:
                waiting.append((path, within))
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
        earlier = [path for path in earlier_folders(run) if run in alone or not _lists_journals(path)]
        if len(earlier) >= number and earlier:
            sentences.append(f"Run {run.relative_to(folder).as_posix()} had more attempts than are counted.")
    return sentences


def _lists_journals(earlier: Path) -> bool:
    """Whether a folder holds nothing but the list of journals, which an attempt makes beside what the sweep moved."""
    return [path.name for path in earlier.iterdir() if not path.name.startswith(".")] == [JOURNALS_FILE]


def _result_of(run: Path) -> str | None:
    """The attempt whose result is in the folder of a run."""
    try:
        result = RunResult.read(run)
    except (CheckpointError, OSError):
        return None
    return None if result is None else result.attempt


def _entry(attempt: Attempt, sweep: Path, *, last: bool) -> SweepEntry:
    folder = sweep / attempt.run
    about: dict[str, Any] = {"run": attempt.run, "overrides": attempt.started.overrides}
    try:
        result = RunResult.read(folder)
    except (CheckpointError, OSError) as error:
        return SweepEntry(**about, status="unknown", why=str(error), unknown=f"{RESULT_NAME} can't be read")
    if result is not None and result.attempt == attempt.name:
        return SweepEntry(**about, status="finished", **spent_by(result, folder))
    if attempt.ended is None:
        running = _is_locked(folder)
        status, why = ("running", "") if running else ("killed", "the sweep itself was ended before it")
    elif attempt.ended.how == "finished":
        # The folder has been moved, emptied or used again: what was spent is in it and nowhere else.
        return SweepEntry(**about, status="unknown", why=f"its {RESULT_NAME} is gone", unknown=f"{RESULT_NAME} is gone")
    else:
        status, why = attempt.ended.how, attempt.ended.why
    spent = _written_down(attempt, folder, last=last)
    if status == "running" and not spent["unknown"]:
        spent["unknown"] = "it is still running"
    return SweepEntry(**about, status=status, why=why, **spent)


def _written_down(attempt: Attempt, folder: Path, *, last: bool) -> dict[str, Any]:
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
    if last:
        # Journals of steps that are in the folder now are those of this attempt, or of who went on from its checkpoint.
        try:
            charge_later(ledgers, folder)
        except (CheckpointError, OSError) as error:
            unknown = unknown or str(error)
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


def _is_hidden(path: Path) -> bool:
    """Whether it is in a hidden folder that is not the one in which a search has its runs."""
    return any(part.startswith(".") and part != _OF_SEARCH for part in path.parts)


def _is_run(path: Path, *, hidden: bool) -> bool:
    """Whether a folder is that of a run.

    A config alone may be any program's. A run has written down what it runs on before it makes anything that can spend.
    """
    own = any((path / name).is_file() for name in _OWN)
    if not (path / _CONFIG).is_file():
        return own and not hidden
    return own or (not hidden and (path / _HYDRA).is_dir()) or _has_journal(path)


def _has_journal(path: Path) -> bool:
    """Whether a training has charged something there: one that another command started has no file of its own else."""
    return any(
        here.name == FOLDER and any(name.endswith(".jsonl") for name in files) for here, _, files in walk_run(path)
    )


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
    try:
        found = OmegaConf.select(OmegaConf.load(path), "hydra.sweeper._target_")
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError):
        return _UNKNOWN
    return found if isinstance(found, str) else _UNKNOWN
