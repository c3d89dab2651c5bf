"""Membership inference in one call: from losses of models to what an attacker can tell, in all and for each part.

Nothing is trained here. The losses are those of the models under attack and of reference models, on examples each of
which was in the training of some of them and not of others; ``callbacks/membership_inference.py`` makes them.

Example:
    >>> import numpy as np
    >>> from lightning_privacy.audit import random_halves
    >>> rng = np.random.default_rng(0)
    >>> member, references = rng.random(400) < 0.5, random_halves(8, 400, seed=0)
    >>> hard = rng.exponential(size=400)  # some examples are harder than others
    >>> losses = lambda inside: hard * np.exp(rng.normal(size=inside.shape) / 4 - inside)
    >>> report = measure_membership(losses(member), member, losses(references), references)
    >>> report.attacks["lira"].auc > report.attacks["loss"].auc > 0.6
    True
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lightning_privacy._validate import finite, non_negative
from lightning_privacy.audit.audit_file import AuditCurve, AuditResult
from lightning_privacy.audit.exceedances import exceedance_p_value
from lightning_privacy.audit.lira import lira_scores
from lightning_privacy.audit.membership_scores import check_losses, loss_scores
from lightning_privacy.audit.rmia import rmia_scores
from lightning_privacy.audit.roc import FPRS, AttackFigures, Roc, attack_figures, attack_roc
from lightning_privacy.errors import ConfigurationError

__all__ = ["NOT_PRIVATE", "MembershipReport", "measure_membership"]

NAMES = {"loss": "loss threshold", "lira": "LiRA", "rmia": "RMIA"}
NOT_PRIVATE = "These figures were measured on the private examples and are not private themselves."
# A part with fewer of either kind says nothing.
_LEAST_ROWS = 5
_CURVE_POINTS = 200


@dataclass(frozen=True)
class MembershipReport:
    """What each attack can tell.

    Attributes:
        attacks: Figures over all examples, by the name of the attack: ``"loss"``, ``"lira"``, ``"rmia"``.
        rocs: The curves behind them.
        parts: Name of a division (``"class"``), name of a part, name of an attack: figures within that part alone.
            Parts with fewer than five members or non-members are left out.
        p_values: Attack, then false-positive rate: probability that scores which know nothing find as many members.
        scores: Of each attack, in the shape of the losses; higher for a likelier member.
        models: Number of models under attack.
        references: Number of reference models.
    """

    attacks: Mapping[str, AttackFigures]
    rocs: Mapping[str, Roc]
    parts: Mapping[str, Mapping[str, Mapping[str, AttackFigures]]]
    p_values: Mapping[str, Mapping[float, float]]
    scores: Mapping[str, npt.NDArray[np.float64]] = field(repr=False)
    models: int
    references: int

    @property
    def strongest(self) -> str:
        """The attack with the highest TPR at the lowest FPR that the non-members can tell."""
        fpr = self._fpr
        return max(self.attacks, key=lambda name: (self.attacks[name].tpr[fpr].value, self.attacks[name].auc))

    @property
    def _fpr(self) -> float:
        figures = next(iter(self.attacks.values()))
        told = [fpr for fpr in figures.tpr if fpr * figures.non_members >= 1]
        return min(told) if told else max(figures.tpr)

    def exposed(self, division: str) -> str | None:
        """The part whose members the strongest attack finds most often; None without parts."""
        parts = self.parts.get(division, {})
        name = self.strongest
        return max(parts, key=lambda part: parts[part][name].auc, default=None)

    def result(
        self,
        *,
        epsilon: float | None = None,
        delta: float = 0.0,
        title: str | None = None,
        random_split: bool = True,
    ) -> AuditResult:
        """These figures as an audit file, set against what was promised.

        With (epsilon, delta) differential privacy every attack has TPR <= exp(epsilon) FPR + delta where chance decides
        who is a member. The audit is ``"broken"`` where the lower end of an interval is above that.

        Args:
            epsilon: What was promised for the model; None where nothing was.
            delta: Likewise.
            title: Headline.
            random_split: Whether chance decided who was a member. Where it did not, members may be told by what kind of
                examples they are, and what is found is ``"measured"`` and breaks nothing.
        """
        if epsilon is not None and epsilon != math.inf:
            finite(epsilon=epsilon)
        non_negative(delta=delta)
        fpr, name = self._fpr, self.strongest
        best = self.attacks[name]
        estimate, guess = best.tpr[fpr], f"{fpr:.3g}"
        promised = epsilon is not None and epsilon != math.inf
        verdict = "measured"
        if epsilon is not None and promised:
            broken = [
                (attack, rate)
                for attack, figures in self.attacks.items()
                for rate, found in figures.tpr.items()
                if found.low > _ceiling(rate, epsilon, delta)
            ]
            verdict = "holds" if not broken else "broken" if random_split else "measured"
        sentence = (
            f"Asked who was in the training data, the strongest of {len(self.attacks)} attacks finds "
            f"{estimate.value:.1%} of the records that were while it wrongly names {fpr:.1%} of those that were not; "
            f"guessing would find {fpr:.1%}."
        )
        if verdict == "broken":
            sentence += " That is more than the promised privacy allows: the promise does not hold."
        elif verdict == "measured" and promised:
            sentence += (
                " That is more than the promised privacy allows where chance decides who is trained on: those that "
                "were held out may be of another kind, or the promise does not hold."
            )
        rows = [
            ("Models attacked", str(self.models)),
            ("Reference models", str(self.references)),
            ("Members / non-members", f"{best.members:,} / {best.non_members:,}"),
            ("Confidence of the intervals", f"{best.confidence:.0%}"),
        ]
        for attack, figures in self.attacks.items():
            for rate, found in figures.tpr.items():
                rows.append((f"{NAMES[attack]}: TPR at {rate:.1%} FPR", found.text()))
            low, high = figures.auc_interval
            rows.append((f"{NAMES[attack]}: AUC", f"{figures.auc:.3f} ({low:.3f} to {high:.3f})"))
            low, high = figures.advantage_interval
            rows.append((f"{NAMES[attack]}: advantage", f"{figures.advantage:.3f} ({low:.3f} to {high:.3f})"))
            p_value = self.p_values[attack][fpr]
            rows.append((f"{NAMES[attack]}: chance of this at {guess} FPR if nothing leaks", f"{p_value:.2g}"))
        if epsilon is not None and promised:
            for rate in best.tpr:
                text = f"{_ceiling(rate, epsilon, delta):.1%}"
                rows.append((f"Highest TPR at {rate:.1%} FPR that epsilon {epsilon:.3g} allows", text))
        for division, parts in self.parts.items():
            for part, attacks in parts.items():
                row = f"{attacks[name].auc:.3f}; {attacks[name].tpr[max(best.tpr)].text()}"
                rows.append((f"{division} {part}: {NAMES[name]} AUC; TPR at {max(best.tpr):.1%} FPR", row))
        rows.append(("Note", NOT_PRIVATE))
        return AuditResult(
            kind="membership",
            title="Membership inference" if title is None else title,
            verdict=verdict,
            sentence=sentence,
            rows=rows,
            curves=self._curves(),
            extra={
                "attacks": {attack: figures.to_dict() for attack, figures in self.attacks.items()},
                "parts": {
                    division: {
                        part: {attack: figures.to_dict() for attack, figures in attacks.items()}
                        for part, attacks in parts.items()
                    }
                    for division, parts in self.parts.items()
                },
                "p_values": {a: {f"{f:g}": p for f, p in values.items()} for a, values in self.p_values.items()},
            },
        )

    def _curves(self) -> list[AuditCurve]:
        non_members = next(iter(self.attacks.values())).non_members
        # Log axes have no zero; below one false positive there is nothing to see.
        grid = np.geomspace(min(0.5, 1 / non_members), 1.0, _CURVE_POINTS)
        curves = []
        for attack, roc in self.rocs.items():
            at = np.searchsorted(roc.fpr, grid * (1 + 1e-9), side="right") - 1
            seen = roc.tpr[at] > 0
            curves.append(_curve(NAMES[attack], grid[seen], roc.tpr[at][seen]))
        curves.append(_curve("guessing", grid, grid))
        return curves


def _curve(label: str, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> AuditCurve:
    return AuditCurve(
        label, x.tolist(), y.tolist(), x_label="false-positive rate", y_label="true-positive rate", log=True
    )


def _ceiling(fpr: float, epsilon: float, delta: float) -> float:
    """The highest TPR that differential privacy allows (Kairouz, Oh and Viswanath 2015, theorem 2.1)."""
    steep = math.exp(min(epsilon, 700.0)) * fpr + delta
    return min(1.0, steep, 1 - math.exp(-epsilon) * (1 - delta - fpr))


def measure_membership(
    losses: npt.ArrayLike,
    member: npt.ArrayLike,
    reference_losses: npt.ArrayLike | None = None,
    reference_member: npt.ArrayLike | None = None,
    *,
    population_losses: npt.ArrayLike | None = None,
    reference_population_losses: npt.ArrayLike | None = None,
    parts: Mapping[str, npt.ArrayLike] | None = None,
    fprs: Sequence[float] = FPRS,
    confidence: float = 0.95,
    statistic: str = "logit",
    online: bool = False,
) -> MembershipReport:
    """Attack models by the loss threshold and, where there are reference models, by LiRA and RMIA.

    Args:
        losses: Of the models under attack on the examples, shape ``(N,)`` or ``(T, N)``.
        member: True where a model was trained on an example, of the shape of ``losses``.
        reference_losses: Of reference models, shape ``(R, N)``; None leaves the calibrated attacks out.
        reference_member: True where a reference model was trained on an example, shape ``(R, N)``.
        population_losses: For RMIA, see :func:`~lightning_privacy.audit.rmia.rmia_scores`.
        reference_population_losses: Likewise.
        parts: What to look at part by part: a name, such as ``"class"`` or ``"gender"``, and the value of each example,
            shape ``(N,)``. Thresholds are chosen within each part.
        fprs: False-positive rates at which the true-positive rate is read.
        confidence: Of each interval.
        statistic: ``"logit"`` for cross-entropies, ``"loss"`` for other losses; of LiRA.
        online: Let LiRA also use the reference models that were trained on an example.

    Raises:
        ConfigurationError: Shapes don't agree, a loss is not finite, or there are no members or no non-members.
    """
    target, is_member = check_losses(losses), np.asarray(member)
    scores = {"loss": loss_scores(target)}
    references = 0
    if (reference_losses is None) != (reference_member is None):
        raise ConfigurationError("reference_losses and reference_member must be given together")
    if reference_losses is not None and reference_member is not None:
        references = len(np.asarray(reference_losses))
        scores["lira"] = lira_scores(losses, reference_losses, reference_member, online=online, statistic=statistic)
        scores["rmia"] = rmia_scores(
            target,
            reference_losses,
            reference_member,
            population_losses=population_losses,
            reference_population_losses=reference_population_losses,
        )
    found = {
        name: attack_figures(values, is_member, fprs=fprs, confidence=confidence) for name, values in scores.items()
    }
    divisions = {
        name: _divided(name, np.asarray(values), scores, is_member, fprs=fprs, confidence=confidence)
        for name, values in (parts or {}).items()
    }
    return MembershipReport(
        attacks=found,
        rocs={name: attack_roc(values, is_member) for name, values in scores.items()},
        parts=divisions,
        p_values={
            name: {float(fpr): exceedance_p_value(values, is_member, fpr=fpr) for fpr in fprs}
            for name, values in scores.items()
        },
        scores=scores,
        models=1 if target.ndim == 1 else len(target),
        references=references,
    )


def _divided(
    name: str,
    values: npt.NDArray[np.generic],
    scores: Mapping[str, npt.NDArray[np.float64]],
    member: npt.NDArray[np.bool_],
    *,
    fprs: Sequence[float],
    confidence: float,
) -> dict[str, dict[str, AttackFigures]]:
    """Figures within each part."""
    if values.shape != member.shape[-1:]:
        raise ConfigurationError(
            f"parts[{name!r}] must have one value for each of {member.shape[-1]} examples, got shape {values.shape}"
        )
    found = {}
    for value in np.unique(values):
        inside = values == value
        chosen = member[..., inside]
        if min(chosen.sum(), (~chosen).sum()) < _LEAST_ROWS:
            continue
        found[str(value)] = {
            attack: attack_figures(each[..., inside], chosen, fprs=fprs, confidence=confidence)
            for attack, each in scores.items()
        }
    return found
