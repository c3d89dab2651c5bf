"""Everything that is made from the folder of a run: ``report.html``, ``report.json`` and ``model_card.md``.

Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = make_report(folder)
    ...     sorted(path.name for path in Path(folder).iterdir()), made.page.name
    (['model_card.md', 'report.html', 'report.json'], 'report.html')
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_privacy._text_file import write_text
from lightning_privacy.report.html_report import html_report
from lightning_privacy.report.model_card import ModelCard
from lightning_privacy.report.report_data import report_data
from lightning_privacy.report.run_record import RunRecord

__all__ = ["MadeReport", "make_report", "report_schema"]

_SCHEMA = Path(__file__).parent / "report.schema.json"


@dataclass(frozen=True)
class MadeReport:
    """What was made.

    Attributes:
        page: ``report.html``.
        values: ``report.json``.
        card: ``model_card.md``.
        status: Of the guarantee, such as ``"private"`` or ``"broken"``.
        missing: What the report lacks and why, one sentence each.
    """

    page: Path
    values: Path
    card: Path
    status: str
    missing: tuple[str, ...]


def make_report(folder: str | Path, *, into: str | Path | None = None) -> MadeReport:
    """Make the report of a run from the files in its folder, which are read and not changed.

    Args:
        folder: Of the run.
        into: Where to write; the folder itself by default.

    Raises:
        ConfigurationError: There is no such folder.
        OSError: A file can't be written.
    """
    target = Path(folder if into is None else into)
    data = report_data(RunRecord.read(Path(folder)))
    target.mkdir(parents=True, exist_ok=True)
    made = MadeReport(
        page=target / "report.html",
        values=target / "report.json",
        card=target / "model_card.md",
        status=data["guarantee"]["status"],
        missing=tuple(data["missing"]),
    )
    write_text(made.values, json.dumps(data, indent=1, allow_nan=False) + "\n")
    ModelCard(data).write(made.card)
    write_text(made.page, html_report(data))
    return made


def report_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of ``report.json``."""
    schema: dict[str, Any] = json.loads(_SCHEMA.read_text(encoding="utf-8"))
    return schema
