r"""A model card in Markdown, with the header that the Hugging Face hub reads, from the report of a run.

A card is made to be published. So it has nothing in it that was computed on the training data without noise: no
training curves, no training accuracy, no counts of the preparation, no network trained for comparison, and no audits,
except for those that contradict the guarantee. Figures of a test set are exact, which the card says.

Example:
    >>> from lightning_privacy.report.report_data import report_data
    >>> from lightning_privacy.report.run_record import RunRecord
    >>> card = ModelCard(report_data(RunRecord(Path("runs/one"))))
    >>> print("\n".join(card.text().splitlines()[:3]))
    ---
    library_name: "pytorch-lightning"
    tags: ["lightning-privacy"]
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_privacy._text_file import write_text
from lightning_privacy.report._scale import number_text
from lightning_privacy.report.report_data import report_data
from lightning_privacy.report.run_record import RunRecord
from lightning_privacy.report.sentences import epsilon_text

__all__ = ["ModelCard"]

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~$])")
_TITLES = {
    "private": "Trained with differential privacy.",
    "data": "Trained without differential privacy, on data that were prepared with it.",
    "none": "Trained without differential privacy.",
    "empty": "Nothing was released.",
    "unknown": "Not known to be private.",
    "not private": "NOT PRIVATE.",
    "broken": "NOT PRIVATE: an audit contradicts the guarantee.",
}


@dataclass(frozen=True)
class ModelCard:
    """The card of one model.

    Args:
        data: As :func:`~lightning_privacy.report.report_data.report_data` gives it.
    """

    data: Mapping[str, Any]

    @classmethod
    def of(cls, folder: str | Path) -> ModelCard:
        """The card of the run in a folder.

        Args:
            folder: Of the run.

        Raises:
            ConfigurationError: There is no such folder.
        """
        return cls(report_data(RunRecord.read(Path(folder))))

    def text(self) -> str:
        """The card; it ends with what its publisher must fill in."""
        run = self.data["run"]
        parts = [
            self._header(),
            f"# {_md(run['model'] or run['name'])}",
            *self._privacy(),
            *self._results(),
            *self._groups(),
            *self._audits(),
            "## Use and limits",
            (
                "To be written by whoever publishes the model: what it is meant for, what not, whose data it was "
                "trained on and under which licence it is given."
            ),
            f"Made by lightning_privacy {_md(self.data['made_by'])} from the folder of the run.",
        ]
        return "\n\n".join(parts) + "\n"

    def write(self, path: str | Path) -> None:
        """Write the card.

        Args:
            path: Of the file; on the hub it is called ``README.md``.

        Raises:
            OSError: It can't be written.
        """
        write_text(Path(path), self.text())

    def _header(self) -> str:
        """What the hub reads. JSON is YAML, which quotes whatever a run may be called."""
        run, results, guarantee = self.data["run"], self.data["results"], self.data["guarantee"]
        private = guarantee["status"] == "private"
        tags = ["lightning-privacy", *(["differential-privacy"] if private else [])]
        lines = ["---", f"library_name: {json.dumps('pytorch-lightning')}", f"tags: {json.dumps(tags)}"]
        accuracy = None if results is None else results["test"].get("acc")
        if accuracy is not None:
            dataset = run["data"] or "unknown"
            index = {
                "name": run["model"] or run["name"],
                "results": [
                    {
                        "task": {"type": "classification"},
                        "dataset": {"name": dataset, "type": dataset},
                        "metrics": [{"type": "accuracy", "value": round(accuracy, 6)}],
                    }
                ],
            }
            lines.append(f"model-index: {json.dumps([index])}")
        return "\n".join([*lines, "---"])

    def _privacy(self) -> list[str]:
        guarantee = self.data["guarantee"]
        parts = ["## Privacy", f"**{_TITLES[guarantee['status']]}**"]
        if guarantee["status"] in ("private", "data", "broken"):
            rows = [
                ("epsilon", epsilon_text(guarantee["epsilon"])),
                ("delta", f"{guarantee['delta']:g}"),
                ("unit", guarantee["unit"]),
                ("neighbours", "one record replaced by a null record (zero-out)"),
                ("epsilon, one record replaced by any other", _epsilon(guarantee["replace_one_epsilon"])),
            ]
            parts += [_md(guarantee["precise"]), _table(("", ""), rows)]
        parts += [_md(sentence) for sentence in guarantee["plain"]]
        for title, entries in (
            ("What this covers", guarantee["covered"]),
            ("What it does not cover", guarantee["not_covered"]),
            ("Caveats of this training", [caveat["text"] for caveat in guarantee["caveats"]]),
        ):
            if entries:
                parts += [f"### {title}", "\n".join(f"- {_md(entry)}" for entry in entries)]
        if guarantee["releases"]:
            rows = [(each["name"], str(each["count"] or "-")) for each in guarantee["releases"]]
            parts += ["### What was charged", _table(("Release", "Times"), rows)]
        return parts

    def _results(self) -> list[str]:
        results = self.data["results"]
        if results is None or not results["test"]:
            return []
        rows = [(name, number_text(value)) for name, value in results["test"].items() if "/" not in name]
        return ["## Results", _table(("Test", "Value"), rows), "Exact figures of the people in the test set."]

    def _groups(self) -> list[str]:
        parts = []
        for table in self.data["fairness"]:
            if table["stage"] != "test":  # people of a validation set had a say in what was chosen
                continue
            rows = []
            for group in table["groups"]:
                accuracy = group["figures"].get("accuracy", {}).get("value")
                few = " (too few to judge)" if group["too_small"] else ""
                rows.append((group["name"] + few, "-" if accuracy is None else f"{accuracy:.1%}"))
            parts += [f"### Accuracy by {_md(table['attribute'])}", _table(("Group", "Accuracy"), rows)]
        return parts

    def _audits(self) -> list[str]:
        # What an audit measured is no private figure; that the promise is broken has to be known all the same.
        shown = [audit for audit in self.data["audits"] if audit["verdict"] == "broken"]
        lines = [f"- {_md(audit['title'])} ({audit['verdict']}): {_md(audit['sentence'])}" for audit in shown]
        return ["## Audits", "\n".join(lines)] if lines else []


def _epsilon(value: float | None) -> str:
    return "not stated" if value is None else epsilon_text(value)


def _table(headings: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [f"| {headings[0]} | {headings[1]} |", "|---|---|"]
    return "\n".join([*lines, *(f"| {_md(name)} | {_md(value)} |" for name, value in rows)])


def _md(text: str) -> str:
    """A text of one line that stands in Markdown as it is, HTML and tables included."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("&", "&amp;").replace("\\<", "&lt;")
