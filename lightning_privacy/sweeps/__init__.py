"""Runs of a sweep: each in a process of its own, none lost by the failure of another, all of them accounted for.

Example:
    >>> from lightning_privacy.sweeps import run_figures
    >>> run_figures(3.0, {"acc": 0.9})
    {'epsilon': 3.0, 'accuracy': 0.9}
"""

from __future__ import annotations

from lightning_privacy.sweeps.attempts import AttemptLog
from lightning_privacy.sweeps.result import RunResult, config_digest, run_figures
from lightning_privacy.sweeps.spending import Spending, account_for

__all__ = ["AttemptLog", "RunResult", "Spending", "account_for", "config_digest", "run_figures"]
