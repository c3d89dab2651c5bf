"""The audit by canaries as a result for the report: what was planted, what it showed, what it cost.

Example:
    >>> import numpy as np
    >>> from lightning_privacy.audit.epsilon_bounds import bounds_of_scores
    >>> coins = np.arange(200) % 2 == 0
    >>> bounds = bounds_of_scores(1.0 * coins, coins, delta=1e-5, claimed=1.0)
    >>> planted = Planted(kind="mislabelled", unit="example", share=0.1, taken_out=200)
    >>> result = canary_result(bounds, 1.0 * coins, coins, planted)
    >>> result.verdict, result.sentence[:50]
    ('broken', 'NOT AS PRIVATE AS PROMISED. Of 200 canaries, 200 g')
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lightning_privacy.accounting.epsilon_text import epsilon_text, lower_bound_text
from lightning_privacy.audit.audit_file import AuditCurve, AuditResult
from lightning_privacy.audit.coins import write_coins
from lightning_privacy.audit.epsilon_bounds import EpsilonBounds

__all__ = ["Planted", "canary_result"]

_BINS = 30


@dataclass(frozen=True)
class Planted:
    """What was planted and what it cost.

    Attributes:
        kind: What the canaries are.
        unit: What one canary is: "example" or "client".
        share: Canaries as a share of the training set.
        taken_out: Examples or clients whose place they took.
        white_box: Whether the auditor saw every gradient, and not the final model alone.
    """

    kind: str
    unit: str
    share: float
    taken_out: int
    white_box: bool = False


def canary_result(bounds: EpsilonBounds, scores: ArrayLike, coins: ArrayLike, planted: Planted) -> AuditResult:
    """Put the audit in words, rows and curves.

    Args:
        bounds: What the scores say.
        scores: Shape ``(m,)``.
        coins: Shape ``(m,)``.
        planted: What was planted.
    """
    values, true = np.asarray(scores, dtype=np.float64), np.asarray(coins, dtype=np.bool_)
    verdict = "broken" if bounds.broken else "measured" if bounds.claimed is None else "holds"
    return AuditResult(
        kind="canaries",
        title="Planted canaries",
        verdict=verdict,
        sentence=_sentence(bounds, planted),
        rows=_rows(bounds, planted),
        curves=(*_roc(values, true), *_histograms(values, true)),
        extra={
            "bounds": {
                "lower": bounds.lower,
                "one_run": bounds.one_run,
                "f_dp": bounds.f_dp,
                "fitted": None if bounds.fitted_epsilon is None else list(bounds.fitted_epsilon),
                "claimed": bounds.claimed,
                "delta": bounds.delta,
                "confidence": bounds.confidence,
            },
            "guesses": [[guessing.made, guessing.correct] for guessing in bounds.guessings],
            "coins": write_coins(true),
            "scores": [float(value) for value in values],
            "private": False,  # the scores are functions of the canaries and of the model, with no noise of their own
        },
    )


def _sentence(bounds: EpsilonBounds, planted: Planted) -> str:
    best, seen = bounds.best, "every gradient" if planted.white_box else "the trained model"
    shown = "which chance may do as well"
    if bounds.lower:
        shown = f"which shows an epsilon of at least {lower_bound_text(bounds.lower)}"
    measured = (
        f"Of {bounds.num_canaries} canaries, {best.made} guesses from {seen} at which of them were trained on were "
        f"right {best.correct} times, {shown} ({bounds.confidence:.0%} confidence)"
    )
    if bounds.claimed is None:
        return f"{measured}. Nothing was promised of this run."
    if bounds.broken:
        return (
            f"NOT AS PRIVATE AS PROMISED. {measured}, and {epsilon_text(bounds.claimed)} was promised: something in "
            "this run breaks the guarantee."
        )
    return f"{measured}; {epsilon_text(bounds.claimed)} was promised. An audit that finds nothing proves nothing."


def _rows(bounds: EpsilonBounds, planted: Planted) -> list[tuple[str, str]]:
    confidence, plural = f"{bounds.confidence:.0%}", f"{planted.unit}s"
    rows = [
        ("Canaries", f"{bounds.num_canaries} ({planted.kind}), {bounds.num_in} of them in the training"),
        ("Auditor sees", "every private gradient" if planted.white_box else "the model before and after training"),
        ("Promised epsilon", "nothing" if bounds.claimed is None else epsilon_text(bounds.claimed)),
        (f"Lower bound of epsilon, any mechanism ({confidence})", lower_bound_text(bounds.one_run)),
        (f"Lower bound of epsilon, Gaussian trade-off ({confidence})", lower_bound_text(bounds.f_dp)),
    ]
    if bounds.fitted_epsilon is not None:
        middle, low, high = bounds.fitted_epsilon
        rows.append(("Gaussian fit (an estimate, no bound)", f"{middle:.3f} ({low:.3f} to {high:.3f})"))
    rows += [
        ("Delta", f"{bounds.delta:g}"),
        ("Right guesses", f"{bounds.best.correct} of {bounds.best.made}"),
        ("Cost: share of the training set", f"{planted.share:.1%}"),
        (f"Cost: {plural} taken out of the training", str(planted.taken_out)),
        ("This result", "not private itself, and charged to no ledger: keep it with the data"),
    ]
    return rows


def _roc(scores: np.ndarray, coins: np.ndarray) -> list[AuditCurve]:
    """True positives over false ones, for every threshold."""
    if coins.all() or not coins.any():
        return []
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # ties come in together
    inside, outside = np.cumsum(coins[order])[ends], np.cumsum(~coins[order])[ends]
    return [
        AuditCurve(
            "Canaries found",
            [0.0, *(outside / max(1, (~coins).sum()))],
            [0.0, *(inside / max(1, coins.sum()))],
            x_label="false positives",
            y_label="true positives",
        )
    ]


def _histograms(scores: np.ndarray, coins: np.ndarray) -> list[AuditCurve]:
    low, high = np.quantile(scores, [0.005, 0.995])
    if not high > low:
        return []
    edges = np.linspace(low, high, _BINS + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    return [
        AuditCurve(label, middles.tolist(), counts.tolist(), x_label="score", y_label="canaries")
        for label, chosen in (("in", coins), ("out", ~coins))
        if (counts := np.histogram(scores[chosen].clip(low, high), edges)[0]).any()
    ]
