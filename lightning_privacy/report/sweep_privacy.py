"""What a sweep as a whole costs: all attempts together, or only the best where the number of runs was drawn in secret.

Example:
    >>> from lightning_privacy.accounting import PrivacyLedger, SampledGaussian
    >>> from lightning_privacy.report.sweep_record import SweepEntry
    >>> ledger = PrivacyLedger(delta=1e-5)
    >>> ledger.charge(SampledGaussian(1.5, 0.02), count=200)
    >>> runs = [SweepEntry("0", "finished", ledgers=(ledger,)), SweepEntry("1", "killed", ledgers=(ledger,))]
    >>> cost = sweep_privacy(runs)
    >>> cost.known, ledger.epsilon() < cost.epsilon < 2 * ledger.epsilon()
    (True, True)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.accounting.epsilon_text import epsilon_text
from lightning_privacy.accounting.sweep import SWEEP_CAVEAT, sweep_epsilon
from lightning_privacy.accounting.void import is_void
from lightning_privacy.errors import UnsupportedError
from lightning_privacy.report.sweep_record import SweepEntry
from lightning_privacy.sweeps.random_runs import Selection

__all__ = ["SweepPrivacy", "selection_privacy", "sweep_privacy"]


@dataclass(frozen=True)
class SweepPrivacy:
    """The guarantee of a sweep.

    Attributes:
        known: Whether ``epsilon`` is the sweep's; where it is not, the sweep's is at least that.
        epsilon: Of everything that was released; infinite where something of it is not private.
        delta: At which it holds; ``None`` where nothing private was released.
        unit: What is protected; ``None`` where that is not one thing.
        private_epsilon: Of the private runs alone, where others were not; ``None`` otherwise.
        rule: ``"composition"``, or ``"random stopping"``.
        sentences: What follows, and what is not covered.
    """

    known: bool
    epsilon: float
    delta: float | None
    unit: str | None
    private_epsilon: float | None = None
    rule: str = "composition"
    sentences: tuple[str, ...] = ()

    @property
    def figure(self) -> str:
        """Epsilon in words for a headline."""
        if self.known:
            return "not private" if math.isinf(self.epsilon) else epsilon_text(self.epsilon)
        nothing = self.epsilon == 0 or math.isinf(self.epsilon)
        return "unknown" if nothing else f"unknown, at least {epsilon_text(self.epsilon)}"


def sweep_privacy(
    entries: Sequence[SweepEntry], *, missing: Sequence[str] = (), delta: float | None = None, adaptive: bool = False
) -> SweepPrivacy:
    """Compose what all attempts released.

    Args:
        entries: Every attempt, those that failed included.
        missing: What is lacking in the record; then the figure is a lower bound.
        delta: At which epsilon is wanted; the smallest of the runs' by default.
        adaptive: Whether settings were chosen by the results of earlier runs.

    Returns:
        The guarantee. Where what an attempt spent is not known, ``known`` is False and the figure is of the others and
        of what is known of that one.

    Raises:
        ConfigurationError: ``delta`` is outside (0, 1).
    """
    sentences: list[str] = list(missing)
    unsure = [entry for entry in entries if entry.unknown]
    sentences += [f"What run {entry.run} has spent is not known: {entry.unknown}." for entry in unsure]
    public = [entry for entry in entries if not entry.private]
    charged = [ledger for entry in entries for ledger in entry.ledgers if ledger.groups]
    ledgers = [ledger for ledger in charged if not is_void(ledger)]
    units = sorted({ledger.unit for ledger in ledgers})
    known = bool(entries) and not unsure and not missing
    if len(units) > 1:
        sentences.append(
            f"The runs protect different units ({', '.join(units)}), whose epsilons don't add up: there is no epsilon "
            "of the sweep."
        )
        return SweepPrivacy(known=False, epsilon=0.0, delta=None, unit=None, sentences=tuple(sentences))
    deltas = sorted({ledger.delta for ledger in ledgers})
    at = delta if delta is not None else (deltas[0] if deltas else None)
    if delta is None and len(deltas) > 1:
        sentences.append(f"The runs have different deltas; the figure is at the smallest, {deltas[0]:g}.")
    try:
        together = sweep_epsilon(ledgers, delta=at) if ledgers else 0.0
    except UnsupportedError as error:
        sentences.append(f"The releases of the runs don't compose: {error}.")
        known, together = False, 0.0
    sentences += _about(entries, charged, adaptive=adaptive)
    if public:
        names = ", ".join(dict.fromkeys(entry.run for entry in public))
        sentences.insert(0, f"Runs without differential privacy: {names}. What is chosen by them is not private.")
        return SweepPrivacy(
            # It can't be more than infinite, whatever else is not known.
            known=True,
            epsilon=math.inf,
            delta=at,
            unit=units[0] if units else None,
            private_epsilon=together if ledgers and known else None,
            sentences=tuple(sentences),
        )
    return SweepPrivacy(known, together, at, units[0] if units else None, sentences=tuple(sentences))


def _about(entries: Sequence[SweepEntry], ledgers: Sequence[PrivacyLedger], *, adaptive: bool) -> list[str]:
    sentences = []
    lost = [entry for entry in entries if entry.status != "finished" and any(ledger.groups for ledger in entry.ledgers)]
    if lost:
        number = "One attempt that did not finish is" if len(lost) == 1 else f"{len(lost)} that did not finish are"
        sentences.append(f"{number} counted with what had been released until then.")
    if adaptive and len({ledger.groups for ledger in ledgers}) > 1:
        sentences.append(
            "Settings were chosen by the results of earlier runs, and what a run costs was among what changed: the "
            "figure holds where the noise, rate and number of steps of every run do not depend on those results."
        )
    caveats = dict.fromkeys(caveat for ledger in ledgers for caveat in ledger.caveats)
    # That a run is one of a sweep is what the figure is about.
    return sentences + [caveat for caveat in caveats if caveat != SWEEP_CAVEAT]


def selection_privacy(selection: Selection, entries: Sequence[SweepEntry]) -> SweepPrivacy:
    """The guarantee of a search whose number of runs was drawn in secret, and of which only the best is left.

    Args:
        selection: What the search left.
        entries: Attempts of other sweeps in the folder: there must be none.

    Returns:
        The guarantee; not known where the folder shows more than the best.
    """
    conditions = (
        f"The number of runs was drawn from {selection.number!r} and is kept secret, settings were drawn at random for "
        f"each run, and nothing but the best by '{selection.score}' was kept: random stopping (Papernot and Steinke, "
        "2022). It holds as long as nobody learns the number, or sees anything of the other runs, and as long as the "
        "examples the score was computed on are not among those that are protected."
    )
    if entries:
        return SweepPrivacy(
            known=False,
            epsilon=selection.epsilon(),
            delta=selection.ledger.delta,
            unit=selection.ledger.unit,
            sentences=("There are other runs in the folder, so that more is known than the best.", conditions),
        )
    return SweepPrivacy(
        known=True,
        epsilon=selection.epsilon(),
        delta=selection.ledger.delta,
        unit=selection.ledger.unit,
        rule="random stopping",
        sentences=(conditions, *(text for text in selection.ledger.caveats if text != SWEEP_CAVEAT)),
    )
