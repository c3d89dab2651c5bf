"""Accounting: releases, the ledger they are charged to, and the noise a budget asks for.

Example:
    >>> from lightning_privacy.accounting import GaussianRelease, PrivacyLedger
    >>> ledger = PrivacyLedger(delta=1e-5, budget=5.0)
    >>> ledger.charge(GaussianRelease(noise_multiplier=1.0))
    >>> ledger.affords(GaussianRelease(noise_multiplier=1.0))
    False
"""

from __future__ import annotations

from lightning_privacy.accounting.calibration import calibrate_noise
from lightning_privacy.accounting.journal import LedgerJournal, missing_charges
from lightning_privacy.accounting.ledger import PrivacyLedger
from lightning_privacy.accounting.releases import (
    AdaptiveClippingRelease,
    GaussianRelease,
    LaplaceRelease,
    NonPrivate,
    PureRelease,
    RandomizedResponseRelease,
    Release,
    SampledGaussian,
    SelectionRelease,
    TruncatedSampledGaussian,
    release_from_dict,
)

__all__ = [
    "AdaptiveClippingRelease",
    "GaussianRelease",
    "LaplaceRelease",
    "LedgerJournal",
    "NonPrivate",
    "PrivacyLedger",
    "PureRelease",
    "RandomizedResponseRelease",
    "Release",
    "SampledGaussian",
    "SelectionRelease",
    "TruncatedSampledGaussian",
    "calibrate_noise",
    "missing_charges",
    "release_from_dict",
]
