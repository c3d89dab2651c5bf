"""Federated algorithms: what clients do differently from plain local training, and what the server makes of it."""

from __future__ import annotations

from lightning_privacy.federated.algorithms.algorithm import Algorithm, LocalTraining
from lightning_privacy.federated.algorithms.ditto import Ditto
from lightning_privacy.federated.algorithms.fednova import FedNova
from lightning_privacy.federated.algorithms.fedprox import FedProx
from lightning_privacy.federated.algorithms.scaffold import Scaffold

__all__ = ["Algorithm", "Ditto", "FedNova", "FedProx", "LocalTraining", "Scaffold"]
