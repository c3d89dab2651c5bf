"""What a preparation of records charges: the same for a data module and for each data set it gave.

A data set may be trained on without its data module. What was learned to prepare it is then as much a part of the model
as with it.

Example:
    >>> charging = Charging(learns=True)
    >>> charging.ledger = PrivacyLedger(delta=1e-5)
    >>> charging.ledger.unit
    'example'
"""

from __future__ import annotations

from dataclasses import dataclass

from lightning_privacy.accounting import PrivacyLedger

__all__ = ["Charging"]


@dataclass(eq=False)
class Charging:
    """What is known of a preparation wherever its data are trained on.

    Attributes:
        learns: Whether it does more than change each record by itself; then it needs the ledger of training.
        ledger: What it charges. It may be set later, or be another one then, for all who share this.
        limits: Caveats that belong into the ledger of training, whether or not it is that one.
    """

    learns: bool = False
    ledger: PrivacyLedger | None = None
    limits: tuple[str, ...] = ()
