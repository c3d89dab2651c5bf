"""What a finished run of a sweep leaves: its figures and what it cost, so that it need not be done again.

Example:
    >>> import tempfile
    >>> from pathlib import Path
    >>> result = RunResult("a1", config="c0", figures={"epsilon": 1.0, "accuracy": 0.9}, spent={"covers": "all"})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result.write(Path(folder))
    ...     RunResult.read(Path(folder)) == result
    True
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lightning_privacy._secret_names import LEFT_OUT, in_secret
from lightning_privacy._written_config import from_environment
from lightning_privacy.errors import CheckpointError
from lightning_privacy.security.atomic_file import AtomicFile

__all__ = ["FIGURES", "RESULT_NAME", "RunResult", "config_digest", "run_figures"]

RESULT_NAME = "finished.json"
FIGURES = ("epsilon", "accuracy", "worst_group", "worst_class")
"""Figures by which runs are compared."""

_VERSION = 1
_LONG = 8  # as characters of a secret, which is hardly part of another value by chance
_CONFUSION = "classification.json"
_WORST = re.compile(r"fairness/test/(?:[^/]+/)?worst_group_accuracy$")


@dataclass(frozen=True)
class RunResult:
    """Of one finished attempt.

    Args:
        attempt: Names it.
        config: Digest of its settings.
        figures: By name; what was not measured is missing.
        spent: As :meth:`~lightning_privacy.sweeps.spending.Spending.result` gives it.
    """

    attempt: str
    config: str
    figures: Mapping[str, float]
    spent: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write it into the run's folder, complete or not at all.

        Raises:
            OSError: It can't be written.
        """
        text = json.dumps({"version": _VERSION, **asdict(self)}, indent=1)
        with AtomicFile(folder / RESULT_NAME) as file:
            file.write(text.encode())

    @classmethod
    def read(cls, folder: Path) -> RunResult | None:
        """Read it from a run's folder; ``None`` where the run is not finished.

        Raises:
            CheckpointError: The file is damaged or of another version.
            OSError: It can't be read.
        """
        path = folder / RESULT_NAME
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            values = json.loads(content)
            version = values.pop("version")
            figures = {str(name): float(value) for name, value in values.pop("figures").items()}
            result = cls(figures=figures, **values)
            sound = (
                isinstance(result.attempt, str) and isinstance(result.config, str) and isinstance(result.spent, dict)
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{path} is damaged ({error!r}); {_REMEDY}") from error
        if version != _VERSION or not sound:
            raise CheckpointError(f"{path} has version {version!r}, and {_VERSION} is read; {_REMEDY}")
        return result


_REMEDY = "what the run spent is not known from it: keep the folder, and run the settings in another sweep folder"


def config_digest(config: DictConfig, folder: Path) -> str:
    """A digest of what a run does: of all settings but where its files are.

    Args:
        config: Of the run, as Hydra composed it.
        folder: Of the run, whose name in the settings does not count.
    """
    values = OmegaConf.to_container(config, resolve=True)
    if isinstance(values, dict):
        values = {key: value for key, value in values.items() if key != "paths"}
    # From the digest a passphrase could be guessed at, try by try; what a run does is the same with any.
    hidden = {str(value) for place, value in from_environment(config) if in_secret(place)} - {""}
    text = json.dumps(_without(values, hidden), sort_keys=True, default=repr).replace(str(folder), "")
    return hashlib.sha256(text.encode()).hexdigest()


def _without(values: Any, hidden: set[str]) -> Any:
    """The same values, those left out that are secrets from the environment."""
    if isinstance(values, dict):
        return {name: _without(each, hidden) for name, each in values.items()}
    if isinstance(values, list):
        return [_without(each, hidden) for each in values]
    text = str(values)
    return LEFT_OUT if any(text == each or (len(each) >= _LONG and each in text) for each in hidden) else values


def run_figures(epsilon: float | None, test: Mapping[str, float], *, folder: Path | None = None) -> dict[str, float]:
    """The figures by which a run is compared with others.

    Args:
        epsilon: Of the run; ``None`` without privacy, which is an infinite one.
        test: Metrics of the test by name, without the prefix ``"test/"``.
        folder: Of the run, where the confusion of classes is, if anywhere.

    Returns:
        ``epsilon``; ``accuracy``, the test's; ``worst_group``, the lowest accuracy of a group, over all attributes
        that :class:`~lightning_privacy.callbacks.GroupFairness` was given; ``worst_class``, the lowest share of a
        class's examples that were recognised. What was not measured is missing.

    Example:
        >>> run_figures(1.0, {"acc": 0.9, "fairness/test/sex/worst_group_accuracy": 0.8})
        {'epsilon': 1.0, 'accuracy': 0.9, 'worst_group': 0.8}
    """
    figures = {"epsilon": math.inf if epsilon is None else epsilon}
    if "acc" in test:
        figures["accuracy"] = test["acc"]
    worst = [value for name, value in test.items() if _WORST.match(name) and math.isfinite(value)]
    if worst:
        figures["worst_group"] = min(worst)
    rates = _class_rates(folder / _CONFUSION) if folder is not None else []
    if rates:
        figures["worst_class"] = min(rates)
    return figures


def _class_rates(path: Path) -> list[float]:
    """Share of each class's examples that were recognised; none where the test was of no classifier."""
    if not path.is_file():
        return []
    try:
        confusion = json.loads(path.read_bytes()).get("confusion") or []
        return [row[place] / sum(row) for place, row in enumerate(confusion) if sum(row)]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        # Of no known layout: one figure less to compare by.
        return []
