"""Audits: what an attacker can really measure of a run, against what was promised.

An audit never proves that a run is private; that is what the ledger is for. It can show that a run is *not* as private
as it says.

Example:
    >>> from lightning_privacy.audit import AuditResult
    >>> AuditResult(kind="canaries", title="Canaries", verdict="measured", sentence="Nothing was promised.").verdict
    'measured'
"""

from __future__ import annotations

from lightning_privacy.audit.audit_file import AuditCurve, AuditImage, AuditResult

__all__ = ["AuditCurve", "AuditImage", "AuditResult"]
