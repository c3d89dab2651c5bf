"""What the experiments on Opacus' behaviour share: an outcome, a private setup, and one example's influence.

A sensitivity experiment has no noise. It takes the clipped sum that is released (``p.grad`` after the step, times the
expected batch size) with and without one example, and states the norm of the difference in units of the clipping
norm C: above 1, the noise is too small for the reported epsilon.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from opacus import PrivacyEngine
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

__all__ = [
    "OUTCOMES",
    "Finding",
    "change",
    "empty_step",
    "error_of",
    "influence",
    "linear",
    "loader",
    "outcome_of",
    "private",
    "released",
    "steps_charged",
]

OUTCOMES = {
    "right": "the released gradient and the reported epsilon are those of the mechanism",
    "refuses": "training ends in an error, clear or not",
    "caveat": "a warning says what epsilon does not cover",
    "wrong": "private, but without a word not what was asked for",
    "silent": "epsilon is reported and is not true",
    "not covered": "outside of what Opacus sets out to do",
}
EXPECTED = 10


@dataclass(frozen=True)
class Finding:
    """What one row's experiment found.

    Args:
        row: id of the pitfall.
        outcomes: for each mode or use the outcome; the default or documented one first.
        evidence: a sentence with what was measured.
    """

    row: str
    outcomes: Mapping[str, str]
    evidence: str

    def __post_init__(self) -> None:
        unknown = set(self.outcomes.values()) - set(OUTCOMES)
        if unknown or not self.outcomes:
            raise ValueError(f"outcomes must be among {sorted(OUTCOMES)}, got {dict(self.outcomes)}")

    @property
    def table_cell(self) -> str:
        """The outcomes in a few words."""
        return "; ".join(
            f"{'**silent**' if outcome == 'silent' else outcome} ({mode})" for mode, outcome in self.outcomes.items()
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the result file."""
        mode, outcome = next(iter(self.outcomes.items()))
        others = {name: other for name, other in self.outcomes.items() if name != mode}
        return {"row": self.row, "outcome": outcome, "mode": mode, "other_modes": others, "evidence": self.evidence}


def loader(size: int = EXPECTED, batch_size: int | None = None, features: int = 4, **options: Any) -> DataLoader[Any]:
    """A loader over random rows of two classes; one batch holds them all unless said otherwise."""
    generator = torch.Generator().manual_seed(size)
    x = torch.randn(size, features, generator=generator)
    return DataLoader(TensorDataset(x, (x.sum(1) > 0).long()), batch_size=batch_size or size, **options)


def linear(*, zero: bool = True) -> nn.Module:
    """A linear classifier of two classes, started at zero so that gradients are known by hand."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 2))
    if zero:
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
    return model


def private(model: nn.Module, *, mode: str = "hooks", **options: Any) -> SimpleNamespace:
    """Make a model private the documented way; no noise and a clipping norm of 1 unless said otherwise."""
    settings: dict[str, Any] = {
        "optimizer": torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1),
        "data_loader": loader(),
        "noise_multiplier": 0.0,
        "max_grad_norm": 1.0,
        "criterion": nn.CrossEntropyLoss(),
    } | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = PrivacyEngine(accountant="rdp")
        made = engine.make_private(module=model, grad_sample_mode=mode, **settings)
    criterion = made[2] if "ghost" in mode else settings["criterion"]
    return SimpleNamespace(model=made[0], optimizer=made[1], criterion=criterion, loader=made[-1], engine=engine)


Step = Callable[[SimpleNamespace, Tensor, Tensor], Any]


def _plain_step(run: SimpleNamespace, x: Tensor, y: Tensor) -> Any:
    return run.criterion(run.model(x), y)


def released(
    make: Callable[[], nn.Module],
    x: Tensor,
    y: Tensor,
    loss: Step = _plain_step,
    *,
    mode: str = "hooks",
    **options: Any,
) -> Tensor:
    """The clipped sum that one step releases, as one flat vector."""
    run = private(make(), mode=mode, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss(run, x, y).backward()
        run.optimizer.step()
    gradients = [p.grad.flatten() for p in run.optimizer.params]
    scale = run.optimizer.expected_batch_size if run.optimizer.loss_reduction == "mean" else 1
    return torch.cat(gradients).double() * scale


def change(first: Tensor, second: Tensor, clip: float = 1.0) -> float:
    """Norm of the difference of two released sums, in units of the clipping norm."""
    return float((first - second).norm()) / clip


def influence(make: Callable[[], nn.Module], x: Tensor, y: Tensor, *loss: Step, **options: Any) -> float:
    """By how many C the released sum changes when the last example of the batch is left out; see :func:`released`."""
    whole, without = released(make, x, y, *loss, **options), released(make, x[:-1], y[:-1], *loss, **options)
    return change(whole, without, options.get("max_grad_norm", 1.0))


def empty_step(run: SimpleNamespace) -> None:
    """A step of a private run on an empty batch: noise alone."""
    run.optimizer.zero_grad()
    run.criterion(run.model(torch.zeros(0, 4)), torch.zeros(0, dtype=torch.long)).backward()
    run.optimizer.step()


def steps_charged(engine: PrivacyEngine) -> int:
    """Steps in the accountant's history, in which equal ones are one entry."""
    return sum(entry[-1] for entry in engine.accountant.history)


def outcome_of(influence: float, *, tolerance: float = 1e-4) -> str:
    """``right`` where one example moves the sum by at most C, ``silent`` where it moves it further."""
    return "right" if influence <= 1 + tolerance else "silent"


def error_of(run: Callable[[], object], length: int = 80) -> str | None:
    """What ``run`` raises, in a line; None when it raises nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run()
    except Exception as error:  # noqa: BLE001 - which kind it is, is what the experiment finds out
        lines = inspect.cleandoc(str(error)).split("\n")
        text = " ".join(line.strip() for line in lines).strip().rstrip(".?!")
        return f"{type(error).__name__}: {text if len(text) <= length else text[:length].rsplit(' ', 1)[0] + ' ..'}"
    return None
