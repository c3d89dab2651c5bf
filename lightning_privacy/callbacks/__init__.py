"""Callbacks for Lightning's trainer.

Example:
    >>> from lightning_privacy.callbacks import DifferentialPrivacy
    >>> DifferentialPrivacy(delta=1e-5, epsilon=3.0).ledger.epsilon()
    0.0
"""

from __future__ import annotations

from lightning_privacy.callbacks.differential_privacy import DifferentialPrivacy

__all__ = ["DifferentialPrivacy"]
