"""Deployment: a trained model as a folder, answers with protection, and a small service.

Example:
    >>> from lightning_privacy.serving import Limits
    >>> Limits(budget=2.0, max_answers=100).budget
    2.0
"""

from __future__ import annotations

from lightning_privacy.serving.answers import Answers
from lightning_privacy.serving.api_keys import ApiKeys
from lightning_privacy.serving.command import serve_command
from lightning_privacy.serving.declared_data import DeclaredData
from lightning_privacy.serving.errors import ExportError, RequestError
from lightning_privacy.serving.export import export
from lightning_privacy.serving.exported_model import ExportedModel, load_exported
from lightning_privacy.serving.manifest import Manifest
from lightning_privacy.serving.predictor_ledger import Limits, Order, PredictorLedger
from lightning_privacy.serving.privacy_statement import PrivacyStatement
from lightning_privacy.serving.private_predictor import PrivatePredictor
from lightning_privacy.serving.service import ServiceLimits, create_app

__all__ = [
    "Answers",
    "ApiKeys",
    "DeclaredData",
    "ExportError",
    "ExportedModel",
    "Limits",
    "Manifest",
    "Order",
    "PredictorLedger",
    "PrivacyStatement",
    "PrivatePredictor",
    "RequestError",
    "ServiceLimits",
    "create_app",
    "export",
    "load_exported",
    "serve_command",
]
