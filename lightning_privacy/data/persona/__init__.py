"""People that don't exist: a table of personal data with an image each, damaged in known ways, made ready for training.

The modules that hold tables need polars and mimesis: ``pip install 'lightning-privacy[persona]'``.
"""

from __future__ import annotations

from lightning_privacy.data.persona.batch import PersonaBatch, PersonaDataset
from lightning_privacy.data.persona.damage import Damage
from lightning_privacy.data.persona.datamodule import PersonaDataModule

__all__ = ["Damage", "PersonaBatch", "PersonaDataModule", "PersonaDataset"]
