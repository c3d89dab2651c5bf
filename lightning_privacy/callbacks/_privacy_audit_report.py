"""Where the result of an audit goes: terminal, loggers, ledger, the folder of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from lightning_privacy._lightning import rank_zero_warn
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.accounting.epsilon_text import epsilon_text, lower_bound_text
from lightning_privacy.audit.audit_file import AuditResult
from lightning_privacy.audit.epsilon_bounds import EpsilonBounds

__all__ = ["log_bounds", "note_broken", "show_audit", "write_audit"]

_STYLES = {"broken": "bold red", "holds": "green", "measured": "yellow"}


def show_audit(result: AuditResult, console: Console | None = None, *, title: str = "Privacy audit") -> None:
    """Print what was measured; in red, where it is more than was promised.

    Args:
        result: Of the audit.
        console: Where to; the terminal by default.
        title: Above its sentence.
    """
    style = _STYLES[result.verdict]
    table = Table.grid(padding=(0, 2))
    for name, value in result.rows:
        table.add_row(name, value)
    console = Console() if console is None else console
    console.print(Panel(Text(result.sentence, style=style), title=title, border_style=style))
    console.print(table)


def note_broken(ledger: PrivacyLedger | None, bounds: EpsilonBounds) -> None:
    """Write a broken promise into the ledger that made it."""
    if ledger is not None and bounds.broken and bounds.claimed is not None:
        ledger.add_caveat(
            f"An audit of this run proved an epsilon of at least {lower_bound_text(bounds.lower)}, more than the "
            f"{epsilon_text(bounds.claimed)} that was charged: the guarantee does not hold. NOT PRIVATE."
        )


def log_bounds(trainer: Any, bounds: EpsilonBounds) -> None:
    """Give the bounds to the loggers."""
    figures = {"audit/epsilon_lower": bounds.lower, "audit/epsilon_one_run": bounds.one_run}
    if not trainer.barebones:
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=trainer.global_step)


def write_audit(trainer: Any, result: AuditResult, where: bool | str | Path) -> None:
    """Write the file of the audit.

    Args:
        trainer: Whose run it is.
        result: Of the audit.
        where: A folder; True for that of the run, which a trainer with ``barebones`` does not have; False for none.
    """
    if where is False or trainer.fast_dev_run or (where is True and trainer.barebones):
        return
    folder = (trainer.log_dir or trainer.default_root_dir) if where is True else str(where)
    if "://" in folder:
        rank_zero_warn(f"PrivacyAudit writes no file: the run folder {folder} is not a local one. Give one as write=")
        return
    result.write(folder)
