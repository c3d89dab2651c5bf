"""The summary of a ledger: what was released, how often, and what it costs, as text.

Example:
    >>> from lightning_privacy.accounting.ledger_table import LedgerTable
    >>> from lightning_privacy.accounting.releases import LaplaceRelease
    >>> table = LedgerTable(history=[(LaplaceRelease(1.0), 1, "counts")], delta=1e-6, budget=2.0, unit="example")
    >>> print(str(table).splitlines()[0])
    Privacy of each example: epsilon 1.000 at delta 1e-06 (budget 2)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

from dp_accounting.privacy_accountant import NeighboringRelation

from lightning_privacy.accounting.epsilon_text import epsilon_text, replacement_text
from lightning_privacy.accounting.pld import exact_epsilon
from lightning_privacy.accounting.releases import Release
from lightning_privacy.errors import UnsupportedError

__all__ = ["LedgerTable"]

# Kinds of release that don't compose under replacement of one record by any other.
_ZERO_OUT_ONLY = ("laplace", "pure", "selection")


class LedgerTable:
    """Figures and text of a summary; each figure is computed when first asked for.

    Args:
        history: releases with count and label, equal releases possibly under several labels.
        delta: the delta of all figures.
        budget: the epsilon not to be passed, or None.
        unit: what is protected.
        caveats: limits of the guarantee.
    """

    def __init__(
        self,
        *,
        history: Sequence[tuple[Release, int, str | None]],
        delta: float,
        budget: float | None,
        unit: str,
        caveats: Sequence[str] = (),
    ) -> None:
        self.history = tuple(history)
        self.delta = delta
        self.budget = budget
        self.unit = unit
        self.caveats = tuple(caveats)
        counts: dict[Release, int] = {}
        for release, count, _ in self.history:
            counts[release] = counts.get(release, 0) + count
        self.groups = tuple(counts.items())

    @cached_property
    def epsilon(self) -> float:
        """Exact epsilon of everything, one record replaced by a null record."""
        return exact_epsilon(self.groups, delta=self.delta)

    @cached_property
    def replace_one(self) -> float | None:
        """Exact epsilon of everything, one record replaced by any other; None where that does not compose."""
        try:
            return exact_epsilon(self.groups, delta=self.delta, relation=NeighboringRelation.REPLACE_ONE)
        except UnsupportedError:
            return None

    @cached_property
    def alone(self) -> tuple[float, ...]:
        """Exact epsilon of each entry of the history, as if nothing else had been released."""
        if len(self.groups) == len(self.history) == 1:
            return (self.epsilon,)
        return tuple(exact_epsilon([(release, count)], delta=self.delta) for release, count, _ in self.history)

    @cached_property
    def shares(self) -> tuple[float, ...]:
        """Each entry's epsilon alone, as a part of the sum of these; entries that are not private share it all."""
        infinite = sum(math.isinf(value) for value in self.alone)
        if infinite:
            return tuple(1.0 / infinite if math.isinf(value) else 0.0 for value in self.alone)
        total = sum(self.alone)
        return tuple(value / total if total else 0.0 for value in self.alone)

    def __str__(self) -> str:
        limit = "" if self.budget is None else f" (budget {self.budget:g})"
        whole = epsilon_text(self.epsilon, budget=self.budget)
        lines = [f"Privacy of each {self.unit}: epsilon {whole} at delta {self.delta:g}{limit}", ""]
        rows = [("release", "times", "for", "epsilon alone", "share")]
        for (release, count, label), alone, share in zip(self.history, self.alone, self.shares, strict=True):
            rows.append((release.label, f"{count:,}", label or "-", epsilon_text(alone), f"{share:.1%}"))
        if self.history:
            total = sum(count for _, count, _ in self.history)
            rows.append(("all together", f"{total:,}", "", whole, ""))
            widths = [max(len(row[column]) for row in rows) for column in range(5)]
            for position, row in enumerate(rows):
                cells = [
                    cell.rjust(width) if column in (1, 3, 4) else cell.ljust(width)
                    for column, (cell, width) in enumerate(zip(row, widths, strict=True))
                ]
                lines.append("  ".join(cells).rstrip())
                if position in (0, len(rows) - 2):
                    lines.append("  ".join("-" * width for width in widths))
            lines += [
                "",
                "share: epsilon of the entry if nothing else had been released, as a part of the sum of these.",
            ]
        else:
            lines.append("Nothing was released.")
        lines += [
            f"Neighbouring data sets: one {self.unit} is replaced by an empty one that contributes nothing (zero-out).",
            self._replace_one_line(),
        ]
        if self.caveats or math.isinf(self.epsilon):
            lines += ["", "NOT PRIVATE" if math.isinf(self.epsilon) else "Caveats"]
            lines += [f"  - {release.label}" for release, _ in self.groups if not release.private]
            lines += [f"  - {caveat}" for caveat in self.caveats]
        return "\n".join(lines)

    def _replace_one_line(self) -> str:
        if self.replace_one is not None:
            return f"If one {self.unit} is replaced by any other {self.unit}: epsilon {epsilon_text(self.replace_one)}."
        kinds = sorted({release.label for release, _ in self.groups if release.kind in _ZERO_OUT_ONLY})
        return (
            f"If one {self.unit} is replaced by any other {self.unit}: {replacement_text(self.epsilon, self.delta)}, "
            f"counted as two replacements, by an empty one and of it; the exact figure is not known for "
            f"{', '.join(kinds) or 'what was released'}."
        )
