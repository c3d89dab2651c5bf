"""Audits: what an attacker can really measure of a run, against what was promised.

An audit never proves that a run is private; that is what the ledger is for. It can show that a run is *not* as private
as it says.

Example:
    >>> from lightning_privacy.audit import AuditResult
    >>> AuditResult(kind="canaries", title="Canaries", verdict="measured", sentence="Nothing was promised.").verdict
    'measured'
"""

from __future__ import annotations

from lightning_privacy.audit.attribute_inference import (
    AttributeFigures,
    attribute_figures,
    candidate_attack,
    learned_attack,
)
from lightning_privacy.audit.audit_file import AuditCurve, AuditImage, AuditResult
from lightning_privacy.audit.canaries import (
    BlankCanaries,
    CanaryMaker,
    MislabelledCanaries,
    NoiseCanaries,
    TokenCanaries,
)
from lightning_privacy.audit.coins import draw_coins, guess_coins
from lightning_privacy.audit.epsilon_bounds import EpsilonBounds, bounds_of_scores
from lightning_privacy.audit.exceedances import detectable_ratio, exceedance_p_value
from lightning_privacy.audit.f_dp_bound import gaussian_lower_bound
from lightning_privacy.audit.gaussian_fit import GaussianFit, gaussian_fit
from lightning_privacy.audit.gradient_inversion import (
    Inversion,
    Likeness,
    infer_labels,
    invert_dense_layer,
    invert_update,
    likeness,
)
from lightning_privacy.audit.halves import random_halves
from lightning_privacy.audit.lira import lira_scores
from lightning_privacy.audit.membership import MembershipReport, measure_membership
from lightning_privacy.audit.membership_scores import confidence_logits, loss_scores, margin_logits
from lightning_privacy.audit.one_run_bound import epsilon_lower_bound
from lightning_privacy.audit.rmia import rmia_scores
from lightning_privacy.audit.roc import AttackFigures, Estimate, Roc, attack_figures, attack_roc
from lightning_privacy.audit.trade_off import GaussianCurve, PrivacyProfile, TradeOffCurve, gaussian_epsilon

__all__ = [
    "AttackFigures",
    "AttributeFigures",
    "AuditCurve",
    "AuditImage",
    "AuditResult",
    "BlankCanaries",
    "CanaryMaker",
    "EpsilonBounds",
    "Estimate",
    "GaussianCurve",
    "GaussianFit",
    "Inversion",
    "Likeness",
    "MembershipReport",
    "MislabelledCanaries",
    "NoiseCanaries",
    "PrivacyProfile",
    "Roc",
    "TokenCanaries",
    "TradeOffCurve",
    "attack_figures",
    "attack_roc",
    "attribute_figures",
    "bounds_of_scores",
    "candidate_attack",
    "confidence_logits",
    "detectable_ratio",
    "draw_coins",
    "epsilon_lower_bound",
    "exceedance_p_value",
    "gaussian_epsilon",
    "gaussian_fit",
    "gaussian_lower_bound",
    "guess_coins",
    "infer_labels",
    "invert_dense_layer",
    "invert_update",
    "learned_attack",
    "likeness",
    "lira_scores",
    "loss_scores",
    "margin_logits",
    "measure_membership",
    "random_halves",
    "rmia_scores",
]
