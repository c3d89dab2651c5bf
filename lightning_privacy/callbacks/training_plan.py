"""What a training run is about to do, told before its first step: how much data, how many steps, what it will cost.

Example:
    >>> import io, torch
    >>> import lightning_privacy._lightning as L
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> class Regression(L.LightningModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer = torch.nn.Linear(3, 1)
    ...     def training_step(self, batch, batch_idx):
    ...         return torch.nn.functional.mse_loss(self.layer(batch[0]), batch[1])
    ...     def configure_optimizers(self):
    ...         return torch.optim.SGD(self.parameters(), lr=0.1)
    >>> plan = TrainingPlan(output=io.StringIO())
    >>> trainer = L.Trainer(
    ...     max_epochs=2, callbacks=[plan], logger=False, accelerator="cpu", enable_checkpointing=False,
    ...     enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
    ... )
    >>> trainer.fit(Regression(), DataLoader(TensorDataset(torch.randn(64, 3), torch.randn(64, 1)), batch_size=8))
    >>> plan.rows["examples"], plan.rows["steps"]
    ('64', '16 (2 epochs of 8)')
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sized
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_privacy._lightning import Callback, LightningModule, Trainer, check_trainer
from lightning_privacy._validate import positive_int
from lightning_privacy.accounting.epsilon_text import epsilon_text
from lightning_privacy.callbacks._private_plan import PrivatePlan, Spending
from lightning_privacy.callbacks._step_memory import StepMemory, optimizer_bytes, row_bytes, tensor_bytes
from lightning_privacy.callbacks.run_privacy import federation_of, privacy_of
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated import ClientPrivacy
from lightning_privacy.gradients.chosen_rules import ChosenRule, chosen_rules

if TYPE_CHECKING:
    from lightning_privacy.strategies import FederatedStrategy

__all__ = ["TrainingPlan"]

_WIDTH = 110
_REASON = 120  # characters of an error
_NO_END = "until it is stopped: neither the trainer nor a budget has a limit"


class TrainingPlan(Callback):
    """Prints the plan of a fit before its first step: data, steps, noise, epsilon, memory, the rule of each layer.

    It reads and changes nothing of the guarantee. Memory is an estimate: weights, gradients, the optimizer's state, and
    what a batch keeps for backward, measured on two batches of a few examples with a copy of the module. Where the
    training step can't do with such batches, the plan says so and the fit goes on.

    Args:
        layers: Up to how many layers are listed one by one; of more, those of one class and rule are one line.
        memory: Whether to estimate memory, for which the training step runs twice on a few examples.
        output: Where to print; the standard output by default.

    Raises:
        ConfigurationError: ``layers`` is not a whole number above 0.

    Example:
        >>> TrainingPlan(memory=False).rows
        {}
    """

    def __init__(self, *, layers: int = 20, memory: bool = True, output: TextIO | None = None) -> None:
        super().__init__()
        self._layers = positive_int(layers=layers)
        self._memory = memory
        self._output = output
        self._rows: dict[str, str] = {}
        self._chosen: tuple[ChosenRule, ...] = ()

    @property
    def rows(self) -> Mapping[str, str]:
        """The plan of the last fit, line by line."""
        return dict(self._rows)

    @property
    def chosen(self) -> tuple[ChosenRule, ...]:
        """What finds the gradients of single examples in each layer; empty without differential privacy."""
        return self._chosen

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        check_trainer(trainer)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not in on_fit_start: a callback that stands behind this one may be the one that plans.
        privacy, federation = privacy_of(trainer), federation_of(trainer)
        plan = None if privacy is None else privacy.plan
        if plan is not None:
            rows = _private_rows(plan)
        elif federation is not None:
            rows = _federated_rows(trainer, federation)
        else:
            rows = _plain_rows(trainer)
        if self._memory:
            rows["memory"] = _memory(trainer, pl_module, plan)
        self._chosen = tuple(chosen_rules(pl_module)) if plan is not None else ()
        self._rows = rows
        if trainer.is_global_zero:
            self._print()

    def _print(self) -> None:
        output = self._output or sys.stdout
        console = Console(file=output, width=None if output.isatty() else _WIDTH, highlight=False)
        table = _table("Plan of the training", "", "")
        for name, value in self._rows.items():
            table.add_row(name, value)
        with console.capture() as captured:
            console.print(table)
            if self._chosen:
                console.print()
                console.print(_layer_table(self._chosen, self._layers))
        # Columns are filled up with blanks, which are no use in a file.
        lines = [line.rstrip() for line in captured.get().splitlines()]
        print("\n".join([*lines, ""]), file=output, flush=True)


def _private_rows(plan: PrivatePlan) -> dict[str, str]:
    settings = plan.settings
    clipping = dict(settings.clipping)
    policy = str(clipping.pop("policy"))
    options = ", ".join(f"{name}={_short(value)}" for name, value in clipping.items())
    rows = {"examples": f"{settings.num_examples:,}"}
    rate = f"{settings.sample_rate:.4g}"
    if settings.balance is not None and settings.balance["rates"] is not None:
        rows["batch"] = f"{settings.expected_batch_size:,} examples on average; rates of the classes up to {rate}"
    else:
        rows["batch"] = f"{settings.expected_batch_size:,} examples on average, each drawn with probability {rate}"
    if settings.views > 1:
        rows["views"] = f"{settings.views} of each example, averaged before clipping"
    rows["steps"] = _steps(plan.steps, plan.steps_before, plan.steps_per_epoch)
    rows["clipping"] = f"{policy}({options})"
    sigma = settings.noise_multiplier
    rows["noise multiplier"] = f"{sigma:.4g}" if sigma > 0 else "0: NOT PRIVATE"
    rows["epsilon"] = _cost(plan.spending)
    return rows


def _federated_rows(trainer: Trainer, strategy: FederatedStrategy) -> dict[str, str]:
    clients = strategy.prepare_rounds()
    rounds = trainer.estimated_stepping_batches
    left = None if math.isinf(rounds) else max(0, int(rounds) - trainer.global_step)
    rows = {"clients": f"{clients:,}"}
    privacy: ClientPrivacy | None = strategy.client_privacy
    if privacy is None:
        rows["steps"] = _steps(left, trainer.global_step, strategy.rounds_per_epoch)
        inside = strategy.example_privacy
        if inside is None:
            rows["epsilon"] = "none: this training is not private"
        else:
            rows["noise multiplier"] = f"{inside.noise_multiplier:.4g} in the local steps of each client"
            limit = "without a limit" if inside.budget is None else f"up to {inside.budget:g}"
            rows["epsilon"] = f"of each client's examples for itself, {limit} at delta {inside.delta:g}"
        return rows
    spending = Spending(privacy.ledger, privacy.release, left)
    rows["batch"] = f"{privacy.expected_cohort_size:,.6g} clients of a round on average"
    rows["steps"] = _steps(spending.affordable, trainer.global_step, strategy.rounds_per_epoch)
    rows["clipping"] = f"the change of a client as a whole, to {privacy.max_delta_norm:g}"
    rows["noise multiplier"] = f"{privacy.noise_multiplier:.4g}"
    rows["epsilon"] = _cost(spending)
    return rows


def _plain_rows(trainer: Trainer) -> dict[str, str]:
    loader = trainer.train_dataloader
    dataset = getattr(loader, "dataset", None)
    rows = {"examples": f"{len(dataset):,}" if isinstance(dataset, Sized) else "not known"}
    size = _batch_size(loader)
    if size is not None:
        # An attribute of every trainer, which its type does not tell.
        factor = trainer.accumulate_grad_batches * trainer.world_size
        rows["batch"] = f"{size * factor:,} examples"
    total = trainer.estimated_stepping_batches
    left = None if math.isinf(total) else max(0, int(total) - trainer.global_step)
    batches = trainer.num_training_batches
    each = None if math.isinf(batches) else -(-int(batches) // trainer.accumulate_grad_batches)
    rows["steps"] = _steps(left, trainer.global_step, each)
    rows["epsilon"] = "none: this training is not private"
    return rows


def _steps(left: int | None, before: int, per_epoch: int | None) -> str:
    if left is None:
        return _NO_END
    text = f"{left:,}"
    if per_epoch:
        epochs, rest = divmod(left, per_epoch)
        if epochs and not rest:
            text += f" ({epochs:,} epochs of {per_epoch:,})" if epochs > 1 else " (1 epoch)"
        else:
            text += f" ({left / per_epoch:.2f} epochs of {per_epoch:,})"
    return text + (f", after {before:,} that were taken before" if before else "")


def _cost(spending: Spending) -> str:
    ledger = spending.ledger
    end, limit = spending.epsilon_at_end, spending.releases
    budget = "" if ledger.budget is None else f" of {ledger.budget:g}"
    if end is None:
        return f"grows with every step, at delta {ledger.delta:g}: there is neither a budget nor an end"
    cost = epsilon_text(end, budget=ledger.budget)
    text = f"{cost}{budget} at delta {ledger.delta:g} after the last step, per {ledger.unit}"
    spent = ledger.epsilon()
    if spent > 0:
        text += f"; {epsilon_text(spent, budget=ledger.budget)} of it is spent before"
    if spending.affordable is not None and limit is not None and spending.affordable < limit:
        text += f". The budget ends training before the {limit:,} steps that the trainer allows"
    return text


def _memory(trainer: Trainer, module: LightningModule, plan: PrivatePlan | None) -> str:
    """One line on memory, which says what could not be measured."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    loader: Any = trainer.train_dataloader
    row, rows, reason = None, 0, ""
    if isinstance(loader, DataLoader) and isinstance(loader.dataset, Sized) and len(loader.dataset):
        rows = plan.largest_batch if plan is not None else _batch_size(loader) or 1
        try:
            row = row_bytes(trainer, module, loader, private=plan is not None)
        except ConfigurationError:
            reason = " (the module can't be copied)"
        except Exception as error:  # noqa: BLE001 - the step is the user's, and may refuse batches of another size
            reason = f" ({type(error).__name__}: {' '.join(str(error).split())[:_REASON]})"
    memory = StepMemory(
        weights=tensor_bytes((*module.parameters(), *module.buffers())),
        gradients=tensor_bytes(trained),
        optimizer=optimizer_bytes(trainer.optimizers),
        row=row,
        rows=rows,
    )
    text = f"{_size(memory.model)} for weights, gradients and optimizer"
    if memory.total is None or memory.row is None:
        return f"about {text}; what a batch needs was not measured{reason}"
    return f"about {_size(memory.total)}: {text}, {_size(memory.row)} for each of up to {rows:,} rows"


def _batch_size(loader: Any) -> int | None:
    """Examples of a batch, also where a batch sampler of the user's makes them; None where nobody says."""
    sizes = (getattr(loader, "batch_size", None), getattr(getattr(loader, "batch_sampler", None), "batch_size", None))
    return next((size for size in sizes if isinstance(size, int)), None)


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _short(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."  # a mapping of bounds may be long


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False, show_header=any(headings))
    for heading in headings:
        table.add_column(heading, justify="right" if heading == "trained" else "left", overflow="fold")
    return table


def _layer_table(chosen: tuple[ChosenRule, ...], most: int) -> Table:
    table = _table("Gradients of single examples", "layer", "class", "trained", "by")
    if len(chosen) <= most:
        for layer in chosen:
            table.add_row(layer.layer or "(the module)", layer.kind, f"{layer.parameters:,}", layer.rule)
        return table
    groups: dict[tuple[str, str], list[ChosenRule]] = {}
    for layer in chosen:
        groups.setdefault((layer.kind, layer.rule), []).append(layer)
    for (kind, rule), members in groups.items():
        name = members[0].layer or "(the module)"
        more = f" and {len(members) - 1:,} more" if len(members) > 1 else ""
        table.add_row(f"{name}{more}", kind, f"{sum(layer.parameters for layer in members):,}", rule)
    return table
