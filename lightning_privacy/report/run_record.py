"""What the folder of a run holds, read with tolerance: what is missing or can't be read is said, and the rest is there.

Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     record = RunRecord.read(Path(folder))
    >>> record.ledger is None, record.missing[0]
    (True, 'config.yaml is missing: the report does not say what was configured.')
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from lightning_privacy.audit.audit_file import AuditResult
from lightning_privacy.callbacks.classification_tally import CLASSIFICATION_FILE
from lightning_privacy.errors import ConfigurationError, LightningPrivacyError
from lightning_privacy.report._fairness_record import FairnessRecord, read_fairness
from lightning_privacy.report._run_tree import walk_run
from lightning_privacy.report.environment import ENVIRONMENT_FILE
from lightning_privacy.report.ledger_file import LEDGER_FILE

__all__ = ["PREPARATION_FILE", "RunRecord", "audit_files"]

PREPARATION_FILE = "preparation.json"
_METRICS = Path("metrics") / "metrics.csv"
_LARGEST_FILE = 64 * 2**20
_LONGEST_FIELD = 2**20
# File, what the report lacks without it, and whether it is worth a word: not every run has one.
_FILES = (
    ("summary.json", "accuracy and times", True),
    (LEDGER_FILE, "what was charged, release by release", True),
    (ENVIRONMENT_FILE, "versions and hardware", True),
    (CLASSIFICATION_FILE, "confusion and calibration", True),
    (PREPARATION_FILE, "the preparation of the data", False),
)
_VERSIONED = (LEDGER_FILE, ENVIRONMENT_FILE, CLASSIFICATION_FILE)
_VERSION = 1


@dataclass(frozen=True)
class RunRecord:
    """The files of a run.

    Attributes:
        folder: Where they are.
        config: The config's text; None where it is missing.
        settings: The config's values; empty where it is missing or no YAML.
        summary: Of ``summary.json``; None where it is missing, and so are those below.
        ledger: Of ``ledger.json``.
        environment: Of ``environment.json``.
        classification: Of ``classification.json``.
        preparation: Of ``preparation.json``.
        metrics: Of ``metrics.csv``: what was logged, by name, as pairs of step and value.
        fairness: The last table of each kind.
        audits: By the name of the file.
        unread_audits: Names of the files of audits that can't be read.
        missing: What is not there or can't be read, and what the report lacks for it; one sentence each.
    """

    folder: Path
    config: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] | None = None
    ledger: Mapping[str, Any] | None = None
    environment: Mapping[str, Any] | None = None
    classification: Mapping[str, Any] | None = None
    preparation: Mapping[str, Any] | None = None
    metrics: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    fairness: tuple[FairnessRecord, ...] = ()
    audits: Mapping[str, AuditResult] = field(default_factory=dict)
    unread_audits: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """Read a folder; nothing in it is needed, and nothing is changed.

        Args:
            folder: Of a run, wherever it was moved to.

        Raises:
            ConfigurationError: There is no such folder.
        """
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise ConfigurationError(f"folder must be the folder of a run, and {folder} {what}")
        missing: list[str] = []
        config, settings = _config(folder / "config.yaml", missing)
        found: dict[str, Mapping[str, Any] | None] = {}
        for name, lacks, wanted in _FILES:
            # A run without privacy has charged nothing.
            needed = wanted and not (name == LEDGER_FILE and _without_ledger(found["summary.json"]))
            found[name] = _json(folder / name, lacks, missing, wanted=needed)
        audits, unread = _audits(folder, missing)
        places = [folder / _METRICS, folder / _METRICS.name]
        metrics = _metrics(next((place for place in places if place.is_file()), places[0]), missing)
        return cls(
            folder=folder,
            config=config,
            settings=settings,
            summary=found["summary.json"],
            ledger=found[LEDGER_FILE],
            environment=found[ENVIRONMENT_FILE],
            classification=found[CLASSIFICATION_FILE],
            preparation=found[PREPARATION_FILE],
            metrics=metrics,
            fairness=read_fairness(folder, missing),
            audits=audits,
            unread_audits=unread,
            missing=tuple(missing),
        )

    @property
    def empty(self) -> bool:
        """Whether nothing in the folder is a run's, so that it may be another folder than was meant."""
        read = (self.config, self.summary, self.ledger, self.environment, self.classification, self.preparation)
        found = [*self.metrics, *self.fairness, *self.audits, *self.unread_audits]
        return not found and all(part is None for part in read) and not any(self.folder.glob("*.json"))


def _without_ledger(summary: Mapping[str, Any] | None) -> bool:
    return summary is not None and summary.get("guarantee", ...) is None and summary.get("data_releases") is None


def _text(path: Path, lacks: str, missing: list[str], *, wanted: bool = True) -> str | None:
    """The text of a file that may be missing, too large, not readable or not text."""
    try:
        if not path.is_file():
            if wanted:
                missing.append(f"{path.name} is missing: the report does not say {lacks}.")
            return None
        if path.stat().st_size > _LARGEST_FILE:
            missing.append(f"{path.name} is larger than {_LARGEST_FILE >> 20} MiB and was left out: {lacks}.")
            return None
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        missing.append(f"{path.name} can't be read ({_words(error)}): the report does not say {lacks}.")
        return None


def _config(path: Path, missing: list[str]) -> tuple[str | None, Mapping[str, Any]]:
    text = _text(path, "what was configured", missing)
    if text is None:
        return None, {}
    try:
        settings = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        # The error's own words hold lines of the file, which may hold secrets.
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" from line {mark.line + 1} on"
        missing.append(f"{path.name} is no YAML{where}: it is shown as it is.")
        return text, {}
    return text, settings if isinstance(settings, Mapping) else {}


def _json(path: Path, lacks: str, missing: list[str], *, wanted: bool) -> Mapping[str, Any] | None:
    text = _text(path, lacks, missing, wanted=wanted)
    if text is None:
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        missing.append(f"{path.name} is no JSON ({_words(error)}), maybe cut off: the report does not say {lacks}.")
        return None
    if not isinstance(values, Mapping):
        missing.append(f"{path.name} holds a {type(values).__name__} and no record: the report does not say {lacks}.")
        return None
    if path.name in _VERSIONED and values.get("version") != _VERSION:
        missing.append(
            f"{path.name} is of version {values.get('version')!r}, and this version of lightning_privacy reads "
            f"{_VERSION}: the report does not say {lacks}."
        )
        return None
    return values


def _metrics(path: Path, missing: list[str]) -> dict[str, tuple[tuple[float, float], ...]]:
    """What was logged, by name; a line that was cut off is left out."""
    lacks = "how training went"
    if not path.is_file():
        missing.append(f"{_METRICS} is missing (logger=csv writes it): the report does not say {lacks}.")
        return {}
    found: dict[str, list[tuple[float, float]]] = {}
    csv.field_size_limit(_LONGEST_FIELD)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                step = _number(row.get("step"))
                for name, text in row.items():
                    value = _number(text)
                    if step is not None and value is not None and isinstance(name, str) and name != "step":
                        found.setdefault(name, []).append((step, value))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        missing.append(f"{_METRICS} can't be read to its end ({_words(error)}): the curves may be cut short.")
    if found.keys() <= {"epoch"}:
        missing.append(f"{_METRICS} holds no figures: the report does not say {lacks}.")
    return {name: tuple(pairs) for name, pairs in sorted(found.items())}


def _number(text: object) -> float | None:
    if not isinstance(text, str) or not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def audit_files(folder: Path) -> list[Path]:
    """The results of the audits of a run.

    Args:
        folder: Of the run.
    """
    # A callback of a trainer without this package's command writes to the folder of its logger, wherever that is.
    return sorted(
        here / name
        for here, _, files in walk_run(folder, links=True)
        for name in files
        if fnmatchcase(name, "audit_*.json")
    )


def _audits(folder: Path, missing: list[str]) -> tuple[dict[str, AuditResult], tuple[str, ...]]:
    found: dict[str, AuditResult] = {}
    unread = []
    for path in audit_files(folder):
        name = str(path.relative_to(folder))
        try:
            if path.stat().st_size > _LARGEST_FILE:
                raise ConfigurationError(f"it is larger than {_LARGEST_FILE >> 20} MiB")
            found[name] = AuditResult.read(path)
        except (LightningPrivacyError, OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            unread.append(name)
            missing.append(f"{name} can't be read ({_words(error)}): this audit is left out.")
    return found, tuple(unread)


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__
