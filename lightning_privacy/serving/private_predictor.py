"""Answers of a model with protection: in a chosen form, and each charged before it is given.

Which form protects what is in :mod:`lightning_privacy.serving.answers`.

Example:
    >>> import pathlib, tempfile, torch
    >>> from torch import nn
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     predictor = PrivatePredictor(
    ...         nn.Linear(4, 3), mode="noisy_argmax", epsilon=0.5, budget=1.0,
    ...         ledger_path=pathlib.Path(folder, "answers.db"), key=bytes(32),
    ...     )
    ...     answers = predictor(torch.rand(2, 4), client="clinic")
    ...     predictor(torch.rand(1, 4), client="clinic")
    Traceback (most recent call last):
        ...
    lightning_privacy.errors.PrivacyBudgetExceeded: the budget of 'clinic' is spent: 1 more answer does not ...
    >>> answers.labels.shape
    torch.Size([2])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_privacy.accounting import NonPrivate, PrivacyLedger, Release
from lightning_privacy.errors import ConfigurationError, PrivacyBudgetExceeded
from lightning_privacy.mechanisms import NoiseSource
from lightning_privacy.security.key_ring import KeyLike
from lightning_privacy.serving._formats import network_of
from lightning_privacy.serving.answers import AnswerMode, Answers, answer_mode, probabilities
from lightning_privacy.serving.errors import RequestError
from lightning_privacy.serving.exported_model import ExportedModel, checked_inputs
from lightning_privacy.serving.predictor_ledger import Limits, Order, PredictorLedger, check_client
from lightning_privacy.serving.privacy_statement import PrivacyStatement

__all__ = ["PrivatePredictor"]

_AT_ONCE = 256


class PrivatePredictor:
    """Answers clients, in a form and up to a limit.

    Args:
        model: An exported model, or a module; what it returns are logits, shape ``(N, C)``.
        mode: ``"label"``, ``"rounded"``, ``"noisy_scores"``, ``"noisy_argmax"``, ``"randomized_label"``, or a mode.
        epsilon: Of one answer, for the modes with noise.
        budget: Epsilon that the answers to one client may cost together; for the modes with noise.
        total_budget: Epsilon for the answers to all clients together, who may tell each other.
        max_answers: How many answers one client can have, in any mode.
        ledger_path: Where the account of the answers is kept; needed with any limit.
        key: Authenticates that file; needed with it.
        decimals: For ``"rounded"``.
        sensitivity: By how much, in total variation, one record of training data can move the scores: 1 unless the
            model is a mean of m models trained on disjoint records, where it is 1/m. It is not checked.
        training: The ledger or statement of the private training; an exported model brings its own.
        noise: A seeded source makes the answers reproducible and NOT PRIVATE.

    Raises:
        ConfigurationError: An argument is out of range, missing, or of no meaning in the mode.
        TamperedError: The file of the ledger is not as it was sealed.
        WrongKeyError: It was sealed with a key that is not here.
    """

    def __init__(
        self,
        model: ExportedModel | nn.Module,
        *,
        mode: str | AnswerMode = "label",
        epsilon: float | None = None,
        budget: float | None = None,
        total_budget: float | None = None,
        max_answers: int | None = None,
        ledger_path: str | Path | None = None,
        key: KeyLike | None = None,
        decimals: int | None = None,
        sensitivity: float | None = None,
        training: PrivacyLedger | PrivacyStatement | None = None,
        noise: NoiseSource | None = None,
    ) -> None:
        self.mode = answer_mode(mode, epsilon=epsilon, decimals=decimals, sensitivity=sensitivity)
        self.limits = Limits(budget, total_budget, max_answers)
        self._check_limits(ledger_path, key)
        if noise is not None and not isinstance(noise, NoiseSource):
            raise ConfigurationError(f"noise must be a NoiseSource or None, got {noise!r}")
        self._noise = noise
        self.model = model
        self._run: Callable[[Tensor], Any] = model if isinstance(model, ExportedModel) else network_of(model)
        if isinstance(model, ExportedModel):
            self.training: PrivacyStatement = model.manifest.privacy
        elif isinstance(training, PrivacyStatement):
            self.training = training
        else:
            self.training = PrivacyStatement.of(training)
        self.ledger: PredictorLedger | None = None
        if ledger_path is not None and key is not None:
            self.ledger = PredictorLedger(ledger_path, key)

    def _check_limits(self, ledger_path: str | Path | None, key: KeyLike | None) -> None:
        noisy = self.mode.release is not None
        budgeted = self.limits.budget is not None or self.limits.total_budget is not None
        if noisy and not budgeted:
            raise ConfigurationError(
                f"budget must be given with mode={self.mode.name!r}: whoever asks often enough averages the noise away"
            )
        if budgeted and not noisy:
            raise ConfigurationError(
                f"budget has no meaning with mode={self.mode.name!r}, whose answers have no noise and so no epsilon of "
                "their own: limit them with max_answers, or choose a mode with noise"
            )
        limited = budgeted or self.limits.max_answers is not None
        if limited and (ledger_path is None or key is None):
            raise ConfigurationError(
                "ledger_path and key must be given with a limit: it is kept in a file that outlives the process"
            )
        if ledger_path is not None and not limited:
            raise ConfigurationError("ledger_path is for a limit: give budget, total_budget or max_answers, too")

    @property
    def release(self) -> Release | None:
        """What one answer is charged as: None where it costs nothing, being computed from private weights."""
        if self.mode.release is not None:
            return self.mode.release
        return None if self.training.private else NonPrivate("answers without noise of a model trained without privacy")

    def __call__(self, inputs: Tensor, *, client: str = "default") -> Answers:
        """Answer a batch, or none of it.

        Args:
            inputs: Shape ``(N, ...)``; each row is an answer and charged as one.
            client: Who asks.

        Raises:
            PrivacyBudgetExceeded: The client's limit does not allow it; nothing was charged.
            RequestError: The inputs have the wrong shape; nothing was charged.
            TamperedError: The ledger's file was altered; nothing was answered.
        """
        (answer,) = self.answer_many([(client, inputs)])
        if isinstance(answer, PrivacyBudgetExceeded):
            raise answer
        return answer

    def check(self, inputs: Tensor) -> Tensor:
        """Return inputs as the model takes them.

        Raises:
            RequestError: They have the wrong shape, or a number that is not finite.
        """
        if isinstance(self.model, ExportedModel):
            return checked_inputs(inputs, self.model.manifest.model)
        if not isinstance(inputs, Tensor) or inputs.dim() < 1 or len(inputs) == 0:
            raise RequestError("inputs must be a tensor of at least one example, shape (N, ...)")
        return inputs

    def answer_many(self, requests: Sequence[tuple[str, Tensor]]) -> list[Answers | PrivacyBudgetExceeded]:
        """Answer several clients at once: one entry in the ledger's file, one pass of the model.

        Args:
            requests: Client and inputs of each.

        Returns:
            For each its answers, or the error of those whose limit does not allow it.

        Raises:
            RequestError: Inputs of one of them are wrong; nothing was charged to any.
            TamperedError: The ledger's file was altered; nothing was answered.
        """
        checked = [(check_client(client), self.check(inputs)) for client, inputs in requests]
        granted = [True] * len(checked)
        if self.ledger is not None:
            orders = [Order(client, self.release, len(inputs)) for client, inputs in checked]
            # On the disk when it returns: what is answered after this line is charged.
            granted = self.ledger.charge(orders, self.limits)
        allowed = [inputs for (_, inputs), yes in zip(checked, granted, strict=True) if yes]
        answers = iter(self._answer(allowed))
        return [
            next(answers) if yes else self._refusal(client, len(inputs))
            for (client, inputs), yes in zip(checked, granted, strict=True)
        ]

    def _answer(self, batches: list[Tensor]) -> list[Answers]:
        if not batches:
            return []
        together = torch.cat(batches)
        with torch.inference_mode():
            scores = torch.cat([probabilities(self._run(part)) for part in torch.split(together, _AT_ONCE)])
        answers = self.mode.answer(scores, self._noise)
        sizes = [len(each) for each in batches]
        labels = torch.split(answers.labels, sizes)
        given = [None] * len(sizes) if answers.scores is None else torch.split(answers.scores, sizes)
        return [Answers(label, score) for label, score in zip(labels, given, strict=True)]

    def _refusal(self, client: str, count: int) -> PrivacyBudgetExceeded:
        remaining = self.remaining(client)
        limit = ", ".join(
            f"{name} {value:g}" for name, value in vars(self.limits).items() if value is not None
        )  # of the operator's choosing, and no secret
        asked = "1 more answer does" if count == 1 else f"{count} more answers do"
        return PrivacyBudgetExceeded(
            f"the budget of {client!r} is spent: {asked} not fit in ({limit}), {remaining} would. "
            "Nothing was answered or charged"
        )

    def remaining(self, client: str) -> int | None:
        """How many more answers a client can have; None without a limit."""
        return None if self.ledger is None else self.ledger.remaining(client, self.release, self.limits)

    def guarantee(self) -> str:
        """What the answers guarantee to whom, in words for the people who run it and who ask it."""
        said = [self.training.text]
        if self.training.private:
            said.append("Every answer is computed from the private weights, so that it adds nothing to this epsilon.")
        if self.mode.release is None:
            if not self.training.private:
                said.append(f"Answers ({self.mode.name}) have no noise: they can tell who was in the training data.")
            return " ".join(said)
        epsilon, sensitivity = getattr(self.mode, "epsilon"), getattr(self.mode, "sensitivity", 1.0)  # noqa: B009
        said.append(
            f"Each answer ({self.mode.name}) has noise of its own: epsilon {epsilon:g} with delta 0 for each record of "
            "the training data, whatever the training was"
            + (
                "."
                if sensitivity == 1.0
                else f", if one record moves the scores by at most {sensitivity:g} as declared."
            )
        )
        if self.limits.budget is not None:
            said.append(f"All answers to one client together: at most {self.limits.budget:g}.")
        if self.limits.total_budget is not None:
            said.append(f"All answers to all clients: at most {self.limits.total_budget:g}.")
        else:
            said.append("Clients who put their answers together have the sum of theirs: no total_budget bounds it.")
        if self._noise is not None and self._noise.caveat is not None:
            said.append(f"Caveat: {self._noise.caveat}")
        said.append("What is asked about is not protected, and the weights must stay where they are.")
        return " ".join(said)
