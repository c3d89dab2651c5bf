"""Callbacks for Lightning's trainer.

Example:
    >>> from lightning_privacy.callbacks import DifferentialPrivacy
    >>> DifferentialPrivacy(delta=1e-5, epsilon=3.0).ledger.epsilon()
    0.0
"""

from __future__ import annotations

from lightning_privacy.callbacks.adversarial_debiasing import AdversarialDebiasing
from lightning_privacy.callbacks.differential_privacy import DifferentialPrivacy
from lightning_privacy.callbacks.group_dro import GroupDRO
from lightning_privacy.callbacks.group_fairness import GroupFairness
from lightning_privacy.callbacks.membership_inference import MembershipInference
from lightning_privacy.callbacks.privacy_audit import PrivacyAudit
from lightning_privacy.callbacks.private_balance import PrivateBalance
from lightning_privacy.callbacks.progress import PrivacyProgressBar, ProgressLines, make_progress
from lightning_privacy.callbacks.reweighing import Reweighing
from lightning_privacy.callbacks.training_plan import TrainingPlan

__all__ = [
    "AdversarialDebiasing",
    "DifferentialPrivacy",
    "GroupDRO",
    "GroupFairness",
    "MembershipInference",
    "PrivacyAudit",
    "PrivacyProgressBar",
    "PrivateBalance",
    "ProgressLines",
    "Reweighing",
    "TrainingPlan",
    "make_progress",
]
