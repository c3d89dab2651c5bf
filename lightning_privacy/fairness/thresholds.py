"""A threshold for each group, chosen after training: fairlearn's ThresholdOptimizer on the scores of any module.

Hardt, Price and Srebro, "Equality of Opportunity in Supervised Learning", 2016. The network stays as it is; where its
score becomes a decision depends on the group. The groups must be known where it is used, and a person's decision may
depend on their group: whether that is allowed is a question of law, not of this package.

Needs fairlearn: ``pip install 'lightning-privacy[fairness]'``.

Example:
    >>> import torch
    >>> torch.manual_seed(0)
    <torch...Generator object at ...>
    >>> groups = torch.arange(2000) % 2
    >>> labels = (torch.rand(2000) < 0.3 + 0.3 * groups).long()
    >>> scores = (0.3 * labels + 0.2 * groups + 0.5 * torch.rand(2000)).clamp(0, 1)
    >>> thresholds = GroupThresholds("demographic_parity").fit(scores, labels, groups)
    >>> selected = thresholds.predict(scores, groups, seed=0).double()
    >>> round(float(selected[groups == 1].mean() - selected[groups == 0].mean()), 1)
    0.0
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_privacy._validate import one_of
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.fairness.batch_groups import Groups, column_of, groups_of

__all__ = ["GroupThresholds", "scores_of"]

_CONSTRAINTS = (
    "demographic_parity",
    "equalized_odds",
    "true_positive_rate_parity",
    "false_positive_rate_parity",
    "true_negative_rate_parity",
    "false_negative_rate_parity",
)


class _Scores:
    """The estimator that fairlearn asks for: its features are the scores already."""

    def predict(self, features: Any) -> Any:
        return np.asarray(features)[:, 0]

    def fit(self, features: Any, labels: Any) -> _Scores:
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        from sklearn.base import BaseEstimator

        return BaseEstimator().__sklearn_tags__()


class GroupThresholds:
    """Chooses a threshold for each group so that a rate is the same for all, at the least cost in accuracy.

    Where no single threshold gives a group the rate it should have, some of its examples are decided by lot.

    The thresholds are a function of the examples they are fitted on. Fit them on data that are not private, or the
    guarantee of a privately trained network does not cover what they say about these examples.

    Args:
        constraint: What shall be equal: ``"demographic_parity"`` (selection rate), ``"equalized_odds"``,
            ``"true_positive_rate_parity"`` (equal opportunity) or another one of fairlearn's.
        objective: What shall be as high as possible: ``"accuracy_score"``, ``"balanced_accuracy_score"`` or another
            one of fairlearn's.
        tolerance: How far apart the rates may be; not for ``"equalized_odds"``. None: not at all.

    Raises:
        ConfigurationError: fairlearn is not installed, or an argument is not one it knows.
    """

    def __init__(
        self,
        constraint: str = "demographic_parity",
        *,
        objective: str = "accuracy_score",
        tolerance: float | None = None,
    ) -> None:
        one_of(_CONSTRAINTS, constraint=constraint)
        try:
            from fairlearn.postprocessing import ThresholdOptimizer
        except ImportError as error:
            raise ConfigurationError(
                "GroupThresholds needs fairlearn: pip install 'lightning-privacy[fairness]'"
            ) from error
        relaxed = {} if tolerance is None else {"tol": tolerance}
        self._optimizer: Any = ThresholdOptimizer(
            estimator=_Scores(),
            constraints=constraint,
            objective=objective,
            prefit=True,
            predict_method="predict",
            **relaxed,
        )
        self._groups: list[int] = []

    def fit(self, scores: Tensor, labels: Tensor, groups: Tensor) -> GroupThresholds:
        """Choose the thresholds.

        Args:
            scores: of the positive class, higher for more likely, shape ``(N,)``.
            labels: 0 or 1, shape ``(N,)``.
            groups: whole numbers, shape ``(N,)``.

        Returns:
            Itself.

        Raises:
            ConfigurationError: lengths differ, a score is not a number, a label is not 0 or 1, or a group has not
                both of them; also what fairlearn itself refuses.
        """
        _check(scores, groups, labels)
        for group in _values(groups):
            if len(_values(labels[groups == group])) < 2:
                raise ConfigurationError(
                    f"group {group} has examples of one label only, so its rates can't be weighed: leave it out, or "
                    "fit on more examples"
                )
        try:
            self._optimizer.fit(_column(scores), labels.cpu().numpy(), sensitive_features=groups.cpu().numpy())
        except ValueError as error:
            raise ConfigurationError(f"fairlearn refused: {error}") from error
        self._groups = _values(groups)
        return self

    def predict(self, scores: Tensor, groups: Tensor, *, seed: int | None = None) -> Tensor:
        """Decide.

        Args:
            scores: as for :meth:`fit`, shape ``(N,)``.
            groups: of each, shape ``(N,)``.
            seed: of the lots, where some are drawn.

        Returns:
            0 or 1, shape ``(N,)``, int64.

        Raises:
            ConfigurationError: it was not fitted, or a group was not among those it was fitted on.
        """
        if not self._groups:
            raise ConfigurationError("GroupThresholds has no thresholds yet: call fit(scores, labels, groups) first")
        _check(scores, groups)
        unknown = sorted(set(_values(groups)) - set(self._groups))
        if unknown:
            raise ConfigurationError(
                f"there is no threshold for group {unknown[0]}: the thresholds were fitted on groups {self._groups}"
            )
        decided = self._optimizer.predict(_column(scores), sensitive_features=groups.cpu().numpy(), random_state=seed)
        return torch.as_tensor(np.asarray(decided), dtype=torch.int64)


def scores_of(
    module: nn.Module, batches: Iterable[Any], *, inputs: Groups = 0, labels: Groups = 1, groups: Groups
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a module (a LightningModule, or any other) over batches, and return what thresholds are chosen by.

    Args:
        module: its output is one logit for each example, or two of which the second is for the positive class.
        batches: such as a loader.
        inputs: where in a batch its input is: a key, a place or a function.
        labels: where the labels are.
        groups: where the groups are.

    Returns:
        Scores in 0 to 1, labels and groups, each of shape ``(N,)``.

    Raises:
        ConfigurationError: something is not in the batch, or the output has another shape.
    """
    found: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                found[0].append(_positive(module(column_of(batch, inputs, argument="inputs"))).cpu())
                found[1].append(groups_of(batch, labels, argument="labels").cpu())
                found[2].append(groups_of(batch, groups).cpu())
    finally:
        module.train(training)
    if not found[0]:
        raise ConfigurationError("batches must have at least one batch, got none")
    return torch.cat(found[0]), torch.cat(found[1]), torch.cat(found[2])


def _positive(logits: Tensor) -> Tensor:
    if logits.dim() == 2 and logits.shape[1] == 2:
        return logits.softmax(1)[:, 1]
    if logits.dim() == 1 or (logits.dim() == 2 and logits.shape[1] == 1):
        return logits.reshape(len(logits)).sigmoid()
    raise ConfigurationError(
        f"the module must return one or two logits for each example, got shape {tuple(logits.shape)}: thresholds are "
        "for two classes"
    )


def _values(numbers: Tensor) -> list[int]:
    return sorted({int(number) for number in numbers.tolist()})


def _column(scores: Tensor) -> Any:
    return scores.detach().cpu().double().numpy()[:, None]


def _check(scores: Tensor, groups: Tensor, labels: Tensor | None = None) -> None:
    shapes = [tuple(part.shape) for part in (scores, groups, labels) if part is not None]
    if len(set(shapes)) != 1 or len(shapes[0]) != 1:
        raise ConfigurationError(f"scores, labels and groups must be one number per example each, got shapes {shapes}")
    if not bool(scores.isfinite().all()):
        raise ConfigurationError("scores must be finite numbers, got one that is not")
    if labels is not None and not bool(((labels == 0) | (labels == 1)).all()):
        raise ConfigurationError("labels must be 0 or 1: thresholds are for two classes")
