"""Plugins for Lightning's trainer."""

from __future__ import annotations

from lightning_privacy.plugins.atomic_checkpoint_io import AtomicCheckpointIO

__all__ = ["AtomicCheckpointIO"]
