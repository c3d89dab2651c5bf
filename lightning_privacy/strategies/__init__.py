"""Strategies for ``Trainer(strategy=...)``.

Importing this room registers ``Trainer(strategy="federated")``: :class:`FederatedStrategy` as it is without arguments,
in which each process is a client with its own loader. ``import lightning_privacy`` is enough where Lightning was
imported before it; where it was not, Lightning is not loaded for the sake of a name: import it first, or import
:class:`FederatedStrategy`, or this room.

Example:
    >>> from lightning_privacy._lightning import Trainer
    >>> trainer = Trainer(strategy="federated", accelerator="cpu", devices=1, logger=False)
    >>> type(trainer.strategy).__name__
    'FederatedStrategy'
"""

from __future__ import annotations

from lightning_privacy._lightning import StrategyRegistry
from lightning_privacy.strategies.federated import FederatedStrategy

__all__ = ["FederatedStrategy"]

StrategyRegistry.register(
    "federated", FederatedStrategy, description="Federated training: each process is a client", override=True
)
