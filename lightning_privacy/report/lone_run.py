"""What a single run has spent, as its folder tells: what was written at its end, and what its journals know of since.

Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lone_run(Path(folder), "0").unknown
    'no account was found'
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.report.ledger_file import LEDGER_FILE, ledger_of
from lightning_privacy.report.run_journals import charge_journals
from lightning_privacy.report.sweep_entry import SweepEntry
from lightning_privacy.sweeps.result import RunResult, run_figures

__all__ = ["charge_later", "lone_run", "spent_by"]


def lone_run(folder: Path, name: str) -> SweepEntry:
    """A run that no record of a sweep knows: one of another command, or the record is gone.

    Args:
        folder: Of the run.
        name: What it is called in the report.

    Returns:
        The run, whose ledger has what its journals know of more than :data:`~.ledger_file.LEDGER_FILE`.
    """
    about: dict[str, Any] = {"run": name, "overrides": _overrides(folder)}
    try:
        result = RunResult.read(folder)
        summary = _json(folder / "summary.json")
        kept = _json(folder / LEDGER_FILE)
        if result is not None:
            return SweepEntry(**about, status="finished", **spent_by(result, folder))
        if summary is None:
            return SweepEntry(**about, status="unknown", why="it has no summary.json", unknown="no account was found")
        guarantee, outcome = summary["guarantee"], summary["outcome"]
        epsilon = None if guarantee is None else guarantee["epsilon"]
        ledger = None if kept is None else ledger_of(kept)
        if (
            ledger is not None
            and kept is not None
            and kept.get("covers") == "training"
            and charge_journals(ledger, folder)
        ):
            epsilon = ledger.epsilon(exact=True)
        about |= {"status": "finished", "figures": run_figures(epsilon, outcome["test"], folder=folder)}
        if ledger is None or kept is None:
            lacks = {"private": False} if guarantee is None else {"unknown": f"{LEDGER_FILE} is missing"}
            return SweepEntry(**about, **lacks)
        return SweepEntry(
            **about,
            ledgers=(ledger,),
            private=kept.get("covers") == "training",
            unknown="" if kept.get("complete") is True else f"{LEDGER_FILE} was written before the end of the run",
        )
    except (CheckpointError, ConfigurationError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        about.setdefault("status", "unknown")
        return SweepEntry(**about, why=str(error), unknown=f"what is in its folder can't be read: {error}")


def spent_by(result: RunResult, folder: Path) -> dict[str, Any]:
    """What a finished run of a sweep says it spent, and what its journals know of since.

    Args:
        result: Of the run.
        folder: Of the run.

    Returns:
        Figures and ledgers, as arguments of a :class:`~lightning_privacy.report.sweep_entry.SweepEntry`.
    """
    covers, figures = result.spent.get("covers"), dict(result.figures)
    try:
        ledgers = tuple(_restored(state) for state in result.spent.get("ledgers", ()))
        if covers != "none" and charge_later(ledgers, folder):
            figures["epsilon"] = max(figures.get("epsilon", 0.0), ledgers[0].epsilon(exact=True))
    except (CheckpointError, ConfigurationError, OSError, TypeError, KeyError) as error:
        return {"figures": figures, "unknown": f"its ledger can't be read: {error}"}
    found = {"figures": figures, "ledgers": ledgers}
    if covers == "none":
        return {**found, "private": False}
    return {**found, "unknown": "" if covers in ("all", "end") else covers or "it kept no account"}


def charge_later(ledgers: Sequence[PrivacyLedger], folder: Path) -> bool:
    """Charge what the journals of a private run know of more than the account of its attempt: it went on after that.

    Args:
        ledgers: Of the attempt, that of the training first.
        folder: Of the run.

    Returns:
        Whether there was any.

    Raises:
        CheckpointError: A journal is damaged.
        OSError: A journal can't be read.
    """
    return bool(ledgers) and bool(charge_journals(ledgers[0], folder))


def _restored(state: Mapping[str, Any]) -> PrivacyLedger:
    ledger = PrivacyLedger(delta=state["delta"], unit=state["unit"])
    ledger.load_state_dict(state)
    return ledger


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
