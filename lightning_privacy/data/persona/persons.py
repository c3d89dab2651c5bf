"""What a guarantee for a record is worth for a person: said in the ledger, or refused where it would pass for one.

Example:
    >>> from lightning_privacy.accounting import PrivacyLedger
    >>> ledger = PrivacyLedger(delta=1e-5)
    >>> check_persons(ledger, 3)
    >>> ledger.caveats[0]
    'Up to 3 records of one person are trained on: ... group_privacy(ledger, records=3) gives, unless something was ...'
    >>> check_persons(PrivacyLedger(delta=1e-5, unit="person"), 3)
    Traceback (most recent call last):
        ...
    lightning_privacy.errors.PrivacyViolation: the ledger protects a person, and up to 3 records of one ...
"""

from __future__ import annotations

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.errors import PrivacyViolation

__all__ = ["CLIENT", "RECORD_UNITS", "check_persons"]

#: The unit of federated runs, whose guarantee is for all records of a client, of however many people.
CLIENT = "client"

#: Units that are one record; all others are people, by whatever name.
RECORD_UNITS = ("example", "record")


def check_persons(ledger: PrivacyLedger, most: int | None) -> None:
    """Say in the ledger what it does not cover of people in several records, or refuse one that is of people.

    Args:
        ledger: What training on the records, and their preparation, is charged to.
        most: The most records of a person; None where nobody knows who a record is about.

    Raises:
        PrivacyViolation: The ledger's unit is a person, and a person may be in several records.
    """
    if most == 1:
        return
    if ledger.unit not in RECORD_UNITS:
        if most is None:
            cause, remedy = "nobody knows who a record is about", "give the role identifier, or a step Deduplicate"
        else:
            cause = f"up to {most} records of one are trained on, each charged by itself"
            remedy = f"take max_records_per_person=1, or unit='example' and group_privacy(ledger, records={most})"
        raise PrivacyViolation(f"the ledger protects a {ledger.unit}, and {cause}: {remedy}")
    if most is None:
        ledger.add_caveat(
            "The table does not say who a record is about: the guarantee is for one record, and a person in several "
            "has less."
        )
    else:
        ledger.add_caveat(
            f"Up to {most} records of one person are trained on: the guarantee is for one record, and for a person it "
            f"is that of a group of as many, which group_privacy(ledger, records={most}) gives, unless something was "
            "released of more records of theirs."
        )
