"""How far groups are apart: differences, ratios, and the group that fares worst.

A criterion of fairness asks that one figure (or two) be the same in all groups. How far it is missed is the difference
between the largest and the smallest figure, or their ratio, as in fairlearn (Bird et al. 2020, "Fairlearn: A toolkit
for assessing and improving fairness in AI"):

| criterion | the same in all groups | |
|---|---|---|
| ``demographic_parity`` | selection rate | Dwork et al. 2012 |
| ``equal_opportunity`` | true positive rate | Hardt et al. 2016 |
| ``equalized_odds`` | true and false positive rate; the worse of the two counts | Hardt et al. 2016 |
| ``predictive_parity`` | precision | Chouldechova 2017 |
| ``accuracy_parity`` | accuracy | |

Groups in which a figure is undefined are left out of it, and with fewer than two others the difference is undefined
(NaN): one group shows nothing about fairness. (fairlearn reports a difference of 0 then.)

Example:
    >>> import torch
    >>> rates = torch.tensor([0.30, 0.20, float("nan")])
    >>> difference(rates).item(), ratio(rates).item(), worst_group(rates).item()
    (0.1..., 0.6666..., 1)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_privacy._validate import one_of
from lightning_privacy.errors import ConfigurationError

__all__ = ["CRITERIA", "METHODS", "difference", "disparities", "ratio", "worst_group"]

CRITERIA: dict[str, tuple[str, ...]] = {
    "demographic_parity": ("selection_rate",),
    "equal_opportunity": ("tpr",),
    "equalized_odds": ("tpr", "fpr"),
    "predictive_parity": ("precision",),
    "accuracy_parity": ("accuracy",),
}
"""The criteria, and the figures that are to be equal in all groups."""

METHODS = ("between_groups", "to_overall")
"""What a group is compared with: the other groups, or all rows together."""


def _checked(method: str, overall: Tensor | None) -> None:
    one_of(METHODS, method=method)
    if method == "to_overall" and overall is None:
        raise ConfigurationError("method='to_overall' needs the figure of all rows together: pass overall=")


def _extremes(values: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and largest along the last dimension, NaN left out; NaN where fewer than two are defined."""
    undefined = values.isnan()
    least = values.masked_fill(undefined, torch.inf).amin(dim=-1)
    most = values.masked_fill(undefined, -torch.inf).amax(dim=-1)
    few = (~undefined).sum(dim=-1) < 2
    return least.masked_fill(few, torch.nan), most.masked_fill(few, torch.nan)


def difference(values: Tensor, overall: Tensor | None = None, *, method: str = "between_groups") -> Tensor:
    """The largest absolute difference of a figure.

    Args:
        values: the figure of each group, shape ``(..., G)``; NaN where it is undefined.
        overall: that of all rows together, shape ``(...)``; needed for ``"to_overall"``.
        method: ``"between_groups"``: largest less smallest; ``"to_overall"``: of any group to ``overall``.

    Returns:
        Shape ``(...)``; NaN where fewer than two groups are defined.

    Raises:
        ConfigurationError: the method is unknown, or ``overall`` is missing.
    """
    _checked(method, overall)
    least, most = _extremes(values)
    if overall is None or method == "between_groups":
        return most - least
    return torch.maximum(most - overall, overall - least)


def ratio(values: Tensor, overall: Tensor | None = None, *, method: str = "between_groups") -> Tensor:
    """The smallest ratio of a figure, at most 1.

    Args:
        values: the figure of each group, none negative, shape ``(..., G)``; NaN where it is undefined.
        overall: that of all rows together, shape ``(...)``; needed for ``"to_overall"``.
        method: ``"between_groups"``: smallest over largest; ``"to_overall"``: of any group and ``overall``, the smaller
            over the larger.

    Returns:
        Shape ``(...)``; NaN where fewer than two groups are defined, or both numbers are 0.

    Raises:
        ConfigurationError: the method is unknown, or ``overall`` is missing.
    """
    _checked(method, overall)
    least, most = _extremes(values)
    if overall is None or method == "between_groups":
        return least / most
    return torch.minimum(least / overall, overall / most)


def _of_classes(values: Tensor, *, largest: bool) -> Tensor:
    """The worst of the classes, which are the last dimension; those that are undefined are left out."""
    undefined = values.isnan()
    if largest:
        worst = values.masked_fill(undefined, -torch.inf).amax(dim=-1)
    else:
        worst = values.masked_fill(undefined, torch.inf).amin(dim=-1)
    return worst.masked_fill(undefined.all(dim=-1), torch.nan)


def disparities(
    rates: Mapping[str, Tensor],
    overall: Mapping[str, Tensor],
    *,
    method: str = "between_groups",
    judged: Tensor | None = None,
) -> dict[str, Tensor]:
    """Difference and ratio of every criterion, and the accuracy of the worst group.

    With more than two classes a criterion is judged class by class and the worst class counts (Denis et al. 2021,
    "Fairness guarantee in multi-class classification", for demographic parity).

    Args:
        rates: figures of the groups, as :func:`~lightning_privacy.fairness.group_rates` gives them.
        overall: the same of all rows as a single group.
        method: what a group is compared with, one of ``METHODS``.
        judged: which groups to compare, shape ``(..., G)``, bool; all by default.

    Returns:
        ``"<criterion>_difference"`` and ``"<criterion>_ratio"`` for each of ``CRITERIA``, and
        ``"worst_group_accuracy"``, each of shape ``(...)``.

    Raises:
        ConfigurationError: the method is unknown.
    """
    found: dict[str, Tensor] = {}
    for criterion, names in CRITERIA.items():
        differences, ratios = [], []
        for name in names:
            values, total = rates[name], overall[name]
            per_class = values.dim() > rates["n"].dim()
            if judged is not None:
                values = values.masked_fill(~(judged.unsqueeze(-1) if per_class else judged), torch.nan)
            # Groups last; where there are classes, they come before.
            values = values.transpose(-1, -2) if per_class else values
            total = total.squeeze(-2) if per_class else total.squeeze(-1)
            apart, alike = difference(values, total, method=method), ratio(values, total, method=method)
            differences.append(_of_classes(apart, largest=True) if per_class else apart)
            ratios.append(_of_classes(alike, largest=False) if per_class else alike)
        # Undefined where one of two figures is: torch's maximum and minimum pass NaN on.
        found[f"{criterion}_difference"] = differences[0] if len(names) == 1 else torch.maximum(*differences)
        found[f"{criterion}_ratio"] = ratios[0] if len(names) == 1 else torch.minimum(*ratios)
    accuracy = rates["accuracy"] if judged is None else rates["accuracy"].masked_fill(~judged, torch.nan)
    found["worst_group_accuracy"] = _of_classes(accuracy, largest=False)
    return found


def worst_group(values: Tensor, *, highest: bool = False) -> Tensor:
    """The group with the smallest figure; the first of equals.

    Args:
        values: the figure of each group, shape ``(..., G)``; NaN where it is undefined.
        highest: look for the largest instead, for figures of which less is better, such as the log-loss.

    Returns:
        Numbers of groups, shape ``(...)``, int64; -1 where the figure is undefined in all of them.
    """
    undefined = values.isnan()
    if highest:
        found = values.masked_fill(undefined, -torch.inf).argmax(dim=-1)
    else:
        found = values.masked_fill(undefined, torch.inf).argmin(dim=-1)
    return found.masked_fill(undefined.all(dim=-1), -1)
