"""Federated algorithms: what clients do differently from plain local training, and what the server makes of it."""

from __future__ import annotations

from lightning_privacy.federated.algorithms.algorithm import Algorithm, LocalTraining

__all__ = ["Algorithm", "LocalTraining"]
