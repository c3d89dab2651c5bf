"""Caveats that say that there is no privacy at all, whatever was charged.

Example:
    >>> from lightning_privacy.accounting.ledger import PrivacyLedger
    >>> ledger = PrivacyLedger(delta=1e-5)
    >>> ledger.add_caveat("The noise was drawn from a fixed seed: whoever knows the seed can remove it. NOT PRIVATE.")
    >>> is_void(ledger)
    True
"""

from __future__ import annotations

from lightning_privacy.accounting.ledger import PrivacyLedger

__all__ = ["is_void", "voids"]

_VOID = "NOT PRIVATE"


def voids(caveat: str) -> bool:
    """Whether a caveat says that there is no privacy, such as that the noise can be recomputed from a seed."""
    return _VOID in caveat


def is_void(ledger: PrivacyLedger) -> bool:
    """Whether no epsilon of a ledger holds, for a caveat that says so."""
    return any(map(voids, ledger.caveats))
