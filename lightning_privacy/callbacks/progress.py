"""How a run shows its progress: a bar on a terminal, a few lines where the output goes to a file.

Example:
    >>> import io
    >>> from lightning_privacy.callbacks.progress import make_progress
    >>> type(make_progress(io.StringIO())).__name__
    'ProgressLines'
"""

from __future__ import annotations

import sys
from typing import Any, TextIO

from typing_extensions import override

from lightning_privacy._lightning import LightningModule, Trainer, pl
from lightning_privacy._validate import positive_int
from lightning_privacy.callbacks._run_clock import RunClock, clock_of, run_figures

__all__ = ["PrivacyProgressBar", "ProgressLines", "make_progress"]


class PrivacyProgressBar(pl.callbacks.RichProgressBar):
    """Lightning's bar with what is left: of the privacy budget, and of the time the whole fit takes.

    Epsilon itself is among the metrics, as ``privacy/epsilon``. Time is told from the second step on, where the trainer
    or the budget sets an end.

    Args:
        **options: Of Lightning's ``RichProgressBar``.

    Example:
        >>> PrivacyProgressBar(refresh_rate=10).is_enabled
        True
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._clock: RunClock | None = None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clock = clock_of(trainer)
        super().on_train_start(trainer, pl_module)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._clock is not None:
            self._clock.step(trainer.global_step)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clock = None
        super().on_train_end(trainer, pl_module)

    @override
    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return {**super().get_metrics(trainer, pl_module), **run_figures(trainer, self._clock)}


class ProgressLines(pl.callbacks.ProgressBar):
    """Prints a line with the progress bar's metrics and what is left after some epochs, and after the last.

    Args:
        output: Where to print; the standard output by default.
        lines: About how many lines a whole run prints.

    Raises:
        ConfigurationError: ``lines`` is not a whole number above 0.

    Example:
        >>> ProgressLines(lines=5).is_enabled
        True
    """

    def __init__(self, output: TextIO | None = None, lines: int = 10) -> None:
        super().__init__()
        self._output = output
        self._lines = positive_int(lines=lines)
        self._printed_step: int | None = None
        self._clock: RunClock | None = None
        self._enabled = True

    @property
    def is_enabled(self) -> bool:
        """Whether lines are printed; Lightning disables all processes but the first."""
        return self._enabled

    @override
    def disable(self) -> None:
        self._enabled = False

    @override
    def enable(self) -> None:
        self._enabled = True

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clock = clock_of(trainer)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._clock is not None:
            self._clock.step(trainer.global_step)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epochs = trainer.max_epochs or 0
        every = max(1, epochs // self._lines) if epochs > 0 else 1
        if (trainer.current_epoch + 1) % every == 0:
            self._print_line(trainer, pl_module, epoch=trainer.current_epoch + 1)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The end may come in the middle of an epoch, when the budget or the steps are used up.
        if self._printed_step != trainer.global_step:
            self._print_line(trainer, pl_module, epoch=trainer.current_epoch)

    def _print_line(self, trainer: Trainer, pl_module: LightningModule, *, epoch: int) -> None:
        self._printed_step = trainer.global_step
        if not self._enabled:
            return
        metrics = {name: value for name, value in self.get_metrics(trainer, pl_module).items() if name != "v_num"}
        shown = [
            f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in metrics.items()
        ]
        shown += [f"{name} {value}" for name, value in run_figures(trainer, self._clock).items()]
        line = "  ".join([f"epoch {epoch}", f"step {trainer.global_step}", *shown])
        print(line, file=self._output or sys.stdout, flush=True)


def make_progress(output: TextIO | None = None) -> pl.callbacks.ProgressBar:
    """A bar where a person watches, lines where the output is kept.

    Args:
        output: What decides, and where lines go; the standard output by default.

    Returns:
        A callback for ``Trainer(callbacks=[...])``.
    """
    return PrivacyProgressBar() if (output or sys.stdout).isatty() else ProgressLines(output)
