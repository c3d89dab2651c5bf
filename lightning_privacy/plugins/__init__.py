"""Plugins for Lightning's trainer."""

from __future__ import annotations

from lightning_privacy.plugins.atomic_checkpoint_io import AtomicCheckpointIO
from lightning_privacy.plugins.encrypted_checkpoint_io import EncryptedCheckpointIO

__all__ = ["AtomicCheckpointIO", "EncryptedCheckpointIO"]
