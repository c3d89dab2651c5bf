"""Prepares tables of people: normalise, de-duplicate, denoise, fill, pseudonymise, within one privacy budget.

Needs polars: ``pip install 'lightning-privacy[persona]'``.

Example:
    >>> import polars as pl
    >>> from lightning_privacy.preparation import Deduplicate, NormaliseText, Preparation
    >>> table = pl.DataFrame({"name": [" Ada  Byron", "ada byron", "Carl Gauss"], "age": [36, 36, 77]})
    >>> Preparation([NormaliseText(), Deduplicate()]).fit_apply(table)[0]["person"].to_list()
    [0, 0, 1]
"""

from __future__ import annotations

from importlib.util import find_spec

from lightning_privacy.errors import ConfigurationError

if find_spec("polars") is None:
    raise ConfigurationError("lightning_privacy.preparation needs polars: pip install 'lightning-privacy[persona]'")

from lightning_privacy.preparation.anonymity import Anonymity, SuppressToK, anonymity
from lightning_privacy.preparation.contribution import BoundContributions, most_records
from lightning_privacy.preparation.csv_export import neutralise_formulas, restore_formulas, write_csv
from lightning_privacy.preparation.deduplicate import Deduplicate
from lightning_privacy.preparation.deduplicate_linkage import Linkage, equal_records, link_records
from lightning_privacy.preparation.fill_model import FillFromModel
from lightning_privacy.preparation.fill_person import FillFromPerson
from lightning_privacy.preparation.free_text import HideFreeText
from lightning_privacy.preparation.generalise import Bands, Prefix, Regions, TimeBuckets
from lightning_privacy.preparation.group_privacy import GroupGuarantee, group_guarantee, group_privacy
from lightning_privacy.preparation.label_errors import LabelErrors
from lightning_privacy.preparation.missing import FillConstant, FillMean, FillMedian, FillMode, MissingIndicator
from lightning_privacy.preparation.normalise import NormaliseCodes, NormaliseText
from lightning_privacy.preparation.normalise_dates import NormaliseDates
from lightning_privacy.preparation.outliers import DeclaredLimits, RobustLimits
from lightning_privacy.preparation.preparation import Preparation
from lightning_privacy.preparation.preparation_report import PreparationReport
from lightning_privacy.preparation.pseudonymise import Pseudonymise, pseudonym
from lightning_privacy.preparation.read import read_table
from lightning_privacy.preparation.roles import Roles
from lightning_privacy.preparation.schema import Column, TableSchema
from lightning_privacy.preparation.step import Context, Step, StepReport

__all__ = [
    "Anonymity",
    "Bands",
    "BoundContributions",
    "Column",
    "Context",
    "DeclaredLimits",
    "Deduplicate",
    "FillConstant",
    "FillFromModel",
    "FillFromPerson",
    "FillMean",
    "FillMedian",
    "FillMode",
    "GroupGuarantee",
    "HideFreeText",
    "LabelErrors",
    "Linkage",
    "MissingIndicator",
    "NormaliseCodes",
    "NormaliseDates",
    "NormaliseText",
    "Prefix",
    "Preparation",
    "PreparationReport",
    "Pseudonymise",
    "Regions",
    "RobustLimits",
    "Roles",
    "Step",
    "StepReport",
    "SuppressToK",
    "TableSchema",
    "TimeBuckets",
    "anonymity",
    "equal_records",
    "group_guarantee",
    "group_privacy",
    "link_records",
    "most_records",
    "neutralise_formulas",
    "pseudonym",
    "read_table",
    "restore_formulas",
    "write_csv",
]
