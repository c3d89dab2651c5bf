"""One attempt at a run of a sweep, as its record and its report have it.

Example:
    >>> SweepEntry("0", "finished", figures={"epsilon": 1.0}, private=False).figures["epsilon"]
    inf
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.accounting.void import is_void

__all__ = ["SweepEntry"]


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
