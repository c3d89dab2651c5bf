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
from lightning_privacy.data.persona.store import PersonaStore
from lightning_privacy.data.persona.truth import PersonaTruth
from lightning_privacy.errors import ConfigurationError
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
        most_charged: The most records of a person in a table of which something was charged before their records were
            cut; 0 when nothing was, and None when it was before all was known that says who is who.
        releases: What was charged, as ``(release, count, label)``.
        caveats: What limits the guarantee.
        limits: Those of them that hold whoever trains on it, and with whatever ledger.
        private: Whether this was charged to a ledger.
        stamp: Differs between two stages even of one plan, where something was learned with noise.
        truth: What is true, where it is known and was not read from a store.
    """

    table: pl.DataFrame
    images: npt.NDArray[np.uint8]
    report: PreparationReport
    counts: Mapping[str, int]
    person: str | None
    most_charged: int | None
    releases: tuple[tuple[Release, int, str | None], ...]
    caveats: tuple[str, ...]
    limits: tuple[str, ...]
    private: bool
    stamp: str
    truth: PersonaTruth | None = None

    def most_of_a_person(self, trained: int) -> int | None:
        """The most records of a person in anything that was charged, or is when this is trained on.

        Args:
            trained: Records of a person that are trained on.

        Returns:
            A number of records; None where nobody knows.
        """
        if self.person is None or self.most_charged is None:
            return None
        return max(trained, self.most_charged)

    def known_truth(self, store: PersonaStore | None) -> PersonaTruth:
        """What is true, here or in the store that has the data.

        Raises:
            ConfigurationError: It is not known.
        """
        if self.truth is not None:
            return self.truth
        if store is None or "truth" not in store.paths:
            raise ConfigurationError("the truth is known of generated people only, and the source has none")
        return store.read_truth(self.stamp)

    def charge(self, ledger: PrivacyLedger) -> None:
        """Charge what was released when this was made, to a ledger that does not know of it yet."""
        for release, count, label in self.releases:
            ledger.charge(release, count, label)
        for caveat in self.caveats:
            ledger.add_caveat(caveat)

    def hand_over(self, before: PrivacyLedger | None, ledger: PrivacyLedger | None) -> None:
        """Charge another ledger than the one this was made with.

        Raises:
            ConfigurationError: This was made without a ledger, or for another unit; or there is none to go on with.
        """
        if ledger is None or not self.private:
            raise ConfigurationError(
                "the data are prepared already, and a preparation is private or not from the start: set the ledger "
                "before setup, or make a new PersonaDataModule"
            )
        if before is not None and ledger.unit != before.unit:
            raise ConfigurationError(
                f"the data were prepared for a ledger that protects a {before.unit}, and this one protects a "
                f"{ledger.unit}: make a new PersonaDataModule"
            )
        self.charge(ledger)

    def settle(self, ledger: PrivacyLedger, wanted: Mapping[tuple[Release, str | None], int] | None = None) -> None:
        """Charge what a ledger should have of this and has not, and say what it should say, before it is trained on.

        Args:
            ledger: Whatever became of it: restored from some checkpoint, or left as it was.
            wanted: What it must have at least, as :meth:`discharge` gave it; None for the releases alone.
        """
        if wanted is None:
            wanted = {(release, label): count for release, count, label in self.releases}
        charged = {(release, label): count for release, count, label in ledger.history}
        for (release, label), count in wanted.items():
            if charged.get((release, label), 0) < count:
                ledger.charge(release, count - charged.get((release, label), 0), label)
        for caveat in self.caveats:
            ledger.add_caveat(caveat)

    def discharge(self, ledger: PrivacyLedger) -> dict[tuple[Release, str | None], int]:
        """Take back what :meth:`charge` charged, where a checkpoint's ledger that has it already is about to come.

        Call :meth:`settle` when it has come, or does not come after all.

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
