"""Prepares tables of people: normalise, de-duplicate, denoise, fill, pseudonymise, within one privacy budget.

Needs polars: ``pip install 'lightning-privacy[persona]'``.

Example:
    >>> from lightning_privacy.preparation import Roles
    >>> Roles(identifier="name", groups=("gender",)).columns
    ('name', 'gender')
"""

from __future__ import annotations

from importlib.util import find_spec

from lightning_privacy.errors import ConfigurationError

if find_spec("polars") is None:
    raise ConfigurationError("lightning_privacy.preparation needs polars: pip install 'lightning-privacy[persona]'")

from lightning_privacy.preparation.preparation import Preparation
from lightning_privacy.preparation.preparation_report import PreparationReport
from lightning_privacy.preparation.roles import Roles
from lightning_privacy.preparation.step import Context, Step, StepReport

__all__ = ["Context", "Preparation", "PreparationReport", "Roles", "Step", "StepReport"]
