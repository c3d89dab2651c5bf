"""What is shown of a run.

Example:
    >>> from lightning_privacy.report import Outcome, RunSummary
    >>> RunSummary(Outcome(steps=1, seconds=0.1, train={}, test={})).notes()
    ['This model was trained without differential privacy.']
"""

from __future__ import annotations

from lightning_privacy.report.federated_picture import federated_report
from lightning_privacy.report.ledger_file import write_ledger
from lightning_privacy.report.log_report import log_report
from lightning_privacy.report.make_report import MadeReport, make_report, report_schema
from lightning_privacy.report.model_card import ModelCard
from lightning_privacy.report.partition_picture import label_counts, partition_picture
from lightning_privacy.report.run_summary import Guarantee, Outcome, RunSummary

__all__ = [
    "Guarantee",
    "MadeReport",
    "ModelCard",
    "Outcome",
    "RunSummary",
    "federated_report",
    "label_counts",
    "log_report",
    "make_report",
    "partition_picture",
    "report_schema",
    "write_ledger",
]
