"""What a test says of a classifier beyond its accuracy: the confusion of classes, and calibration.

Example:
    >>> tally = Tally()
    >>> tally.add(target=[0, 1, 1], predicted=[0, 1, 0], confidence=[0.95, 0.55, 0.6])
    >>> values = tally.values()
    >>> values["confusion"], values["examples"]
    ([[1, 0], [1, 1]], 3)
    >>> [(bin["low"], bin["count"], bin["accuracy"]) for bin in values["calibration"]]
    [(0.5, 1, 1.0), (0.6, 1, 0.0), (0.9, 1, 1.0)]
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typing_extensions import override

from lightning_privacy._lightning import Callback, LightningModule, Trainer
from lightning_privacy._text_file import write_text
from lightning_privacy.callbacks._fairness_predictions import Reading
from lightning_privacy.callbacks._processes import processes_of

__all__ = ["CLASSIFICATION_FILE", "ClassificationTally", "Tally"]

CLASSIFICATION_FILE = "classification.json"
VERSION = 1
_BINS = 10
_MOST_CLASSES = 100

_log = logging.getLogger(__name__)


class Tally:
    """Counts of pairs of true and predicted class, and of confidences; adds up over batches and processes."""

    def __init__(self) -> None:
        self.pairs: Counter[tuple[int, int]] = Counter()
        self.bins: list[list[float]] = [[0, 0.0, 0] for _ in range(_BINS)]  # count, sum of confidences, right ones
        self.classes = 0

    def add(self, *, target: Sequence[int], predicted: Sequence[int], confidence: Sequence[float] | None) -> None:
        """Count a batch.

        Args:
            target: True classes.
            predicted: Predicted classes, as many.
            confidence: Probabilities of these, as many, or None where they are not known.
        """
        self.pairs.update(zip(target, predicted, strict=True))
        for label, guess, sure in zip(target, predicted, confidence or (), strict=confidence is not None):
            entry = self.bins[min(int(sure * _BINS), _BINS - 1)]
            entry[0] += 1
            entry[1] += sure
            entry[2] += label == guess

    def merge(self, other: Tally) -> None:
        """Add another's counts to these."""
        self.pairs.update(other.pairs)
        self.classes = max(self.classes, other.classes)
        for mine, theirs in zip(self.bins, other.bins, strict=True):
            mine[:] = [mine[0] + theirs[0], mine[1] + theirs[1], mine[2] + theirs[2]]

    def values(self) -> dict[str, Any]:
        """Plain values; bins without examples are left out, and so is the confusion of very many classes."""
        number = max([self.classes, *(1 + max(pair) for pair in self.pairs)])
        confusion = [[self.pairs[row, column] for column in range(number)] for row in range(min(number, _MOST_CLASSES))]
        return {
            "version": VERSION,
            "stage": "test",
            "examples": sum(self.pairs.values()),
            "classes": number,
            "confusion": confusion if number <= _MOST_CLASSES else None,
            "calibration": [
                {
                    "low": place / _BINS,
                    "high": (place + 1) / _BINS,
                    "count": int(count),
                    "confidence": sure / count,
                    "accuracy": right / count,
                }
                for place, (count, sure, right) in enumerate(self.bins)
                if count
            ],
        }


class ClassificationTally(Callback):
    """Tallies the test of a classifier and writes ``classification.json``; the module stays as it is.

    Predictions and labels are looked for where ``GroupFairness`` looks for them. Where there are none, as with a model
    that is no classifier, the file says why and holds no counts; the test goes on in any case.

    Args:
        folder: Where the file is written.

    Example:
        >>> ClassificationTally(Path("run")).reason is None
        True
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._reading = Reading()
        self._tally = Tally()
        self.reason: str | None = None

    @override
    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tally, self.reason = Tally(), None

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.reason is not None:
            return
        try:
            self._count(trainer, pl_module, outputs, batch)
        except Exception as error:  # noqa: BLE001 - forward is the user's, and no figure is worth the test
            self.reason = " ".join(str(error).split()) or type(error).__name__
            _log.info("no confusion matrix: %s", self.reason)

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        processes = processes_of(trainer)
        everyone = processes.gather((self._tally, self.reason))
        if not processes.leads:
            return
        total = Tally()
        for tally, _ in everyone:
            total.merge(tally)
        reason = next((reason for _, reason in everyone if reason is not None), None)
        values = total.values() if reason is None else {"version": VERSION, "stage": "test", "reason": reason}
        write_text(self._folder / CLASSIFICATION_FILE, json.dumps(values) + "\n")

    def _count(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any) -> None:
        target = self._reading.target(outputs, batch)
        found = self._reading.predictions(outputs, batch, module, trainer.precision_plugin.val_step_context)
        if found.probs is None:
            predicted = found.labels(2**31 - 1)
            self._tally.add(target=target.tolist(), predicted=predicted.tolist(), confidence=None)
            return
        number = 2 if found.probs.dim() == 1 else found.probs.shape[1]
        self._tally.classes = max(self._tally.classes, number)
        predicted = found.labels(number)
        if found.probs.dim() == 1:
            sure = found.probs.where(predicted == 1, 1 - found.probs)
        else:
            sure = found.probs.gather(1, predicted.unsqueeze(1)).squeeze(1)
        self._tally.add(
            target=target.long().tolist(), predicted=predicted.tolist(), confidence=sure.clamp(0, 1).tolist()
        )
