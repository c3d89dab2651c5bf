"""What the preparation of people's records came to, and what it cost.

Example:
    >>> from lightning_privacy.data.persona.generator import PersonaGenerator
    >>> from lightning_privacy.data.persona.pipeline import run
    >>> from lightning_privacy.data.persona.plan import Plan
    >>> stage = run(Plan(source=PersonaGenerator(num_persons=60)), store=None)
    >>> stage.private, stage.releases
    (False, ())
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from lightning_privacy.accounting import PrivacyLedger, Release
from lightning_privacy.data.persona.truth import PersonaTruth
from lightning_privacy.preparation import PreparationReport

__all__ = ["SIDES", "Stage"]

#: The sides a record can be on.
SIDES = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Stage:
    """What the preparation came to.

    Attributes:
        table: The records that are used; a column ``side`` says where.
        images: What their column ``image`` points into.
        report: What each step did.
        counts: Records after each part of the work.
        person: The column that says who is who; None when every record is somebody else's.
        releases: What was charged, as ``(release, count, label)``.
        caveats: What limits the guarantee.
        private: Whether this was charged to a ledger.
        stamp: Differs between two stages even of one plan, where something was learned with noise.
        truth: What is true, where it is known and was not read from a store.
    """

    table: pl.DataFrame
    images: npt.NDArray[np.uint8]
    report: PreparationReport
    counts: Mapping[str, int]
    person: str | None
    releases: tuple[tuple[Release, int, str | None], ...]
    caveats: tuple[str, ...]
    private: bool
    stamp: str
    truth: PersonaTruth | None = None

    def charge(self, ledger: PrivacyLedger) -> None:
        """Charge what was released when this was made, to a ledger that does not know of it yet."""
        for release, count, label in self.releases:
            ledger.charge(release, count, label)
        for caveat in self.caveats:
            ledger.add_caveat(caveat)

    def discharge(self, ledger: PrivacyLedger) -> dict[tuple[Release, str | None], int]:
        """Take back what :meth:`charge` charged, where a checkpoint's ledger that has it already is about to come.

        Returns:
            What the ledger then must have at least, before it is trained on: (release, label) to count.
        """
        own = {(release, label): count for release, count, label in self.releases}
        rest = PrivacyLedger(delta=ledger.delta, unit=ledger.unit)
        for release, count, label in ledger.history:
            if count > own.get((release, label), 0):
                rest.charge(release, count - own.get((release, label), 0), label)
        for caveat in ledger.caveats:
            rest.add_caveat(caveat)
        wanted = {(release, label): count for release, count, label in ledger.history if (release, label) in own}
        ledger.load_state_dict(rest.state_dict())
        return wanted
