"""Strategies for ``Trainer(strategy=...)``."""

from __future__ import annotations

from lightning_privacy.strategies.federated import FederatedStrategy

__all__ = ["FederatedStrategy"]
