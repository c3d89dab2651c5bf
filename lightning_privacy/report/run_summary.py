"""What a training run ends with: the guarantee, what it cost and what the model can do, in one table.

Example:
    >>> from lightning_privacy.accounting import PrivacyLedger, SampledGaussian
    >>> from lightning_privacy.report.run_summary import Guarantee, Outcome, RunSummary
    >>> ledger = PrivacyLedger(delta=1e-5)
    >>> ledger.charge(SampledGaussian(noise_multiplier=2.0, sample_rate=0.1), count=10)
    >>> guarantee = Guarantee.of(ledger)
    >>> guarantee.steps, guarantee.noise_multiplier, guarantee.sample_rate
    (10, 2.0, 0.1)
    >>> summary = RunSummary(Outcome(steps=10, seconds=1.5, train={"acc": 0.9}, test={"acc": 0.85}), guarantee)
    >>> "test accuracy" in summary.text()
    True
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lightning_privacy._text_file import write_text
from lightning_privacy.accounting import PrivacyLedger, SampledGaussian, TruncatedSampledGaussian
from lightning_privacy.accounting.epsilon_text import epsilon_text
from lightning_privacy.callbacks._balance_cost import CellCost, costs_text

__all__ = ["Guarantee", "Outcome", "RunSummary"]

_TEXT_WIDTH = 100
_ABSENT = "-"
_GROUP_ACCURACY = re.compile(r"fairness/test/(?:(?P<attribute>[^/]+)/)?accuracy/(?P<group>.+)$")


@dataclass(frozen=True)
class Outcome:
    """One training run, with privacy or without.

    Attributes:
        steps: Optimizer steps.
        seconds: Time of the training alone.
        train: Metrics of the final weights on the training data, by name; ``"acc"`` is a share in 0 to 1.
        test: The same on the test data.
    """

    steps: int
    seconds: float
    train: Mapping[str, float]
    test: Mapping[str, float]


@dataclass(frozen=True)
class Guarantee:
    """What a ledger holds at the end of a run.

    Attributes:
        epsilon: Spent in all, at ``delta``; infinite when something was released without privacy.
        delta: Probability with which the guarantee may fail.
        unit: What is protected: ``"example"`` or ``"client"``.
        noise_multiplier: Of the last noisy steps; ``None`` when there were none.
        sample_rate: Of the last noisy steps; ``None`` when there were none.
        steps: Noisy steps charged, those before a resumed run's start included.
        caveats: What the guarantee does not cover.
        table: The ledger's own account of every release.
        classes: What the run costs examples of single classes, where batches were balanced by sampling.
        budget: What ``epsilon`` was not to pass; ``None`` without.
    """

    epsilon: float
    delta: float
    unit: str
    noise_multiplier: float | None
    sample_rate: float | None
    steps: int
    caveats: tuple[str, ...]
    table: str
    classes: tuple[CellCost, ...] = ()
    budget: float | None = None

    @classmethod
    def of(cls, ledger: PrivacyLedger, classes: Sequence[CellCost] = ()) -> Guarantee:
        """Read a ledger, with the exact epsilon.

        Args:
            ledger: The ledger.
            classes: As ``DifferentialPrivacy.cell_costs()`` gives them.
        """
        sampled = (SampledGaussian, TruncatedSampledGaussian)
        noisy = [(release, count) for release, count in ledger.groups if isinstance(release, sampled)]
        last = noisy[-1][0] if noisy else None
        return cls(
            epsilon=ledger.epsilon(exact=True),
            delta=ledger.delta,
            unit=ledger.unit,
            noise_multiplier=None if last is None else last.noise_multiplier,
            sample_rate=None if last is None else last.sample_rate,
            steps=sum(count for _, count in noisy),
            caveats=ledger.caveats,
            table=ledger.summary(),
            classes=tuple(classes),
            budget=ledger.budget,
        )


@dataclass(frozen=True)
class RunSummary:
    """The end of a run.

    Args:
        outcome: Of the run itself.
        guarantee: What its ledger holds; ``None`` for a run without privacy.
        without_privacy: The same network trained without privacy, for comparison; ``None`` if it was not.
        data_releases: Of a run without privacy, what its data were prepared with, such as labels drawn at random.
        artefacts: Where the run left what is not in its folder's usual places, by what it is.
    """

    outcome: Outcome
    guarantee: Guarantee | None = None
    without_privacy: Outcome | None = None
    data_releases: Guarantee | None = None
    artefacts: Mapping[str, str] = field(default_factory=dict)

    def table(self) -> Table:
        """As a table for the terminal."""
        table = Table(title="Result", title_justify="left", show_edge=False, pad_edge=False)
        table.add_column("")
        outcomes = [self.outcome] if self.without_privacy is None else [self.outcome, self.without_privacy]
        guarantees = [self.guarantee, None][: len(outcomes)]
        for guarantee in guarantees:
            table.add_column("without privacy" if guarantee is None else "private", justify="right")
        if self.guarantee is not None:
            for name, values in _guarantee_rows(self.guarantee).items():
                table.add_row(name, values, *[_ABSENT] * (len(outcomes) - 1))
        table.add_row("steps", *[str(outcome.steps) for outcome in outcomes])
        for part in ("train", "test"):
            metrics: list[Mapping[str, float]] = [getattr(outcome, part) for outcome in outcomes]
            # Where accuracy is known, it is what the table is for; all metrics are in summary.json.
            for name in ["acc"] if "acc" in metrics[0] else [name for name in metrics[0] if "/" not in name]:
                shown = [_metric(name, values[name]) if name in values else _ABSENT for values in metrics]
                table.add_row(f"{part} accuracy" if name == "acc" else f"{part} {name}", *shown)
        for name, label in _groups(self.outcome.test).items():
            rates = [o.test.get(name, math.nan) for o in outcomes]
            # A group that nobody in the test is in has no accuracy.
            table.add_row(f"  of {label}", *[_ABSENT if math.isnan(rate) else f"{rate:.1%}" for rate in rates])
        table.add_row("seconds of training", *[f"{outcome.seconds:.1f}" for outcome in outcomes])
        return table

    def notes(self) -> list[str]:
        """What a reader of the table must know, one sentence each."""
        if self.guarantee is None:
            return ["This model was trained without differential privacy.", *_notes_on_data(self.data_releases)]
        notes = [
            "Training figures are computed on the private data itself; epsilon covers the weights, not them.",
            *self.guarantee.caveats,
        ]
        if self.guarantee.classes:
            epsilon, budget = self.guarantee.epsilon, self.guarantee.budget
            told = costs_text(self.guarantee.classes, epsilon=epsilon, budget=budget)
            notes.append(f"Balance by sampling: {told}")
        if self.without_privacy is not None:
            notes.append("The network trained without privacy is for comparison only and was not saved.")
        return notes

    def text(self) -> str:
        """Table, notes and the ledger's account as plain text."""
        buffer = io.StringIO()
        console = Console(file=buffer, width=_TEXT_WIDTH, color_system=None)
        console.print(self.table())
        for note in self.notes():
            console.print(f"* {note}", markup=False, highlight=False)
        account = self.guarantee or self.data_releases
        ledger = "" if account is None else f"\n{account.table}\n"
        return buffer.getvalue() + ledger

    def as_dict(self) -> dict[str, Any]:
        """As plain Python values."""
        return asdict(self)

    def write(self, folder: Path) -> None:
        """Write ``summary.txt`` and ``summary.json`` into a folder that exists.

        Args:
            folder: Of the run.

        Raises:
            OSError: A file can't be written.
        """
        write_text(folder / "summary.txt", self.text())
        write_text(folder / "summary.json", json.dumps(self.as_dict(), indent=2) + "\n")


def _notes_on_data(releases: Guarantee | None) -> list[str]:
    if releases is None:
        return []
    cost = f"epsilon {epsilon_text(releases.epsilon, budget=releases.budget)} at delta {releases.delta:g}"
    told = (
        f"What was released while its data were prepared costs {cost}; the training that followed is not covered by it."
    )
    return [told, *releases.caveats]


def _guarantee_rows(guarantee: Guarantee) -> dict[str, str]:
    noise, rate = guarantee.noise_multiplier, guarantee.sample_rate
    return {
        "epsilon": epsilon_text(guarantee.epsilon, budget=guarantee.budget),
        "delta": f"{guarantee.delta:g}",
        "noise multiplier": _ABSENT if noise is None else f"{noise:.4g}",
        "sample rate": _ABSENT if rate is None else f"{rate:.4g}",
    }


def _groups(metrics: Mapping[str, float]) -> dict[str, str]:
    """Accuracies of groups among the metrics: the metric's name to the group's.

    The names are those of :class:`~lightning_privacy.callbacks.GroupFairness`.
    """
    found = {name: _GROUP_ACCURACY.match(name) for name in metrics}
    return {
        name: " ".join(part for part in (match["attribute"], match["group"]) if part)
        for name, match in found.items()
        if match
    }


def _metric(name: str, value: float) -> str:
    return f"{value:.1%}" if name == "acc" else f"{value:.4g}"
