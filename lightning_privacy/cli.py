"""The command ``lightning-privacy``: compose a config, build what it names, train, test, show a table.

The groups are those of ``conf/``, installed as ``lightning_privacy.conf``; any value can be set from the
command line, and ``-m`` runs a sweep (Hydra 1.3). Each run has a folder with its config, its metrics as
CSV, its checkpoints and a summary.

Example:
    >>> from hydra import compose, initialize_config_module
    >>> with initialize_config_module("lightning_privacy.conf", version_base="1.3"):
    ...     config = compose("config", overrides=["callbacks.privacy.epsilon=8"])
    >>> config.callbacks.privacy.epsilon, config.model.backbone["_target_"]
    (8, 'lightning_privacy.models.PersonaNet')
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

import lightning_privacy.strategies  # noqa: F401 - makes trainer.strategy=federated known
from lightning_privacy._lightning import (
    Callback,
    LightningDataModule,
    Trainer,
    pl,
)
from lightning_privacy._text_file import write_text
from lightning_privacy._written_config import config_text
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.callbacks.classification_tally import ClassificationTally
from lightning_privacy.callbacks.run_privacy import federation_of, final_ledger_of, ledger_of, privacy_of
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.report import Guarantee, RunSummary
from lightning_privacy.report.earlier_run import put_aside
from lightning_privacy.report.earlier_weights import WEIGHTS
from lightning_privacy.report.environment import write_environment
from lightning_privacy.report.interruption import interruption
from lightning_privacy.report.ledger_keeper import LedgerKeeper
from lightning_privacy.report.measured_training import train_and_test, train_for_comparison, wants_comparison
from lightning_privacy.report.run_files import finish_run, keep_ledger
from lightning_privacy.report.sweep_end import sweep_failed
from lightning_privacy.report.terminal import EXPLAINED, explain, explained, hush, hydra_raises
from lightning_privacy.sweeps import run_figures
from lightning_privacy.sweeps.plugins import register_sweepers
from lightning_privacy.sweeps.run_account import account_for_run
from lightning_privacy.sweeps.run_child import serve_run
from lightning_privacy.sweeps.run_process import run_in_process, task_overrides

if TYPE_CHECKING:
    from lightning_privacy.serving.deployment import Deployment

__all__ = ["main", "run"]

# Commands that compose no config; each takes its arguments and returns the exit status.
_COMMANDS = {
    "report": "lightning_privacy.report.command:report_command",
    "serve": "lightning_privacy.serving.command:serve_command",
    "sweep-job": "lightning_privacy.cli:_sweep_job",
    "sweep-report": "lightning_privacy.report.sweep_command:sweep_report_command",
}


def run(config: DictConfig, folder: Path, console: Console) -> RunSummary:
    """Train and test what a config describes.

    Args:
        config: A composed config with the keys of ``conf/config.yaml``.
        folder: Where summary and config are written; must exist.
        console: Where progress is told.

    Returns:
        The figures of the run, which are in the folder too.

    Raises:
        LightningPrivacyError: The config asks for what can't be done or would void the guarantee.
        OSError: The folder can't be written to.
    """
    if config.seed is not None and not isinstance(config.seed, int):
        raise ConfigurationError(f"seed must be a whole number or null, got {config.seed!r}")
    named = _named_checkpoints(config)
    if pl.utilities.rank_zero.rank_zero_only.rank == 0:  # type: ignore[attr-defined] # set when Lightning is imported
        aside = put_aside(folder, checkpoint=config.ckpt_path, inputs=named)
        if aside is not None:
            console.print(f"What an earlier run left in this folder is now in {aside}", markup=False, soft_wrap=True)
    write_text(folder / "config.yaml", config_text(config))
    write_environment(folder, _arguments())
    datamodule: LightningDataModule = instantiate(config.data)
    callbacks: list[Callback] = _instances(config.callbacks)
    deployment: Deployment | None = None if config.deploy is None else instantiate(config.deploy)
    loggers = _instances(config.logger) or False
    watched = [*callbacks, ClassificationTally(folder), LedgerKeeper(folder)]
    trainer: Trainer = instantiate(config.trainer, callbacks=watched, logger=loggers)
    privacy, federation = privacy_of(trainer), federation_of(trainer)
    account_for_run(trainer, datamodule, ledger_of(trainer))
    _note_checkpoints(trainer, [name for name in named if name.endswith(".ckpt") and Path(name).exists()])
    if privacy is not None:
        _share_ledger(datamodule, privacy.ledger)
    if privacy is not None:
        console.print("Training with differential privacy")
    elif federation is not None and federation.client_privacy is not None:
        console.print("Training with differential privacy of whole clients")
    elif federation is not None and federation.example_privacy is not None:
        console.print("Training with differential privacy of the examples inside each client")
    else:
        console.print("Training without differential privacy")
    try:
        model, outcome = train_and_test(config, trainer, datamodule)
    except BaseException as error:
        # What was spent was spent, whatever becomes of the run.
        keep_ledger(folder, final_ledger_of(trainer))
        if isinstance(error, SystemExit):  # which Lightning makes of signals
            if trainer.is_global_zero:
                said = interruption(folder, trainer.global_step, final_ledger_of(trainer), sys.argv[1:])
                print(f"error: {said}", file=sys.stderr)  # noqa: T201 - the command's own output
            if isinstance(error, pl.utilities.exceptions.SIGTERMException):  # its exit status would be that of success
                raise SystemExit(128 + signal.SIGTERM) from error
        raise
    ledger = final_ledger_of(trainer)
    if privacy is not None and (getattr(datamodule, "most_records_charged", None) or 1) > 1:
        # What epsilon is for a person in several records, now that all of it is spent.
        of_person = datamodule.guarantee(privacy.ledger)  # type: ignore[attr-defined] # of those that have the other
        if of_person is not None:
            privacy.ledger.add_caveat(of_person.sentence())
    if trainer.is_global_zero:
        keep_ledger(folder, ledger)  # before what may still fail: the export, the network for comparison
    classes = [] if privacy is None else privacy.cell_costs()
    guarantee = None if ledger is None else Guarantee.of(ledger, classes)
    not_exported: Exception | None = None
    if deployment is not None and trainer.is_global_zero:
        console.print("Exporting the model")
        try:
            deployment.deploy(model, datamodule, ledger=ledger, metrics=outcome.test)
        except EXPLAINED as error:  # raised below, when what the training came to has been written and told
            not_exported = error
    twin = None
    if privacy is not None and wants_comparison(config, datamodule):
        console.print("Training the same network without privacy, for comparison")
        twin = train_for_comparison(config, datamodule, progress=trainer.progress_bar_callback is not None)
    released: PrivacyLedger | None = getattr(datamodule, "ledger", None) if ledger is None else None
    summary = RunSummary(
        outcome,
        guarantee,
        twin,
        data_releases=None if released is None else Guarantee.of(released),
        artefacts=_artefacts(config, datamodule, deployment if not_exported is None else None),
    )
    summary.write(folder)
    if trainer.is_global_zero:
        account, covers = (released, "data") if ledger is None else (ledger, "training")
        page = finish_run(
            folder, ledger=account, covers=covers, classes=classes, datamodule=datamodule, loggers=trainer.loggers
        )
        if page is not None:
            summary = replace(summary, artefacts={**summary.artefacts, "Report": str(page)})
    if not_exported is not None:
        _tell(console, summary, folder)
        raise not_exported
    return summary


def _named_checkpoints(config: DictConfig) -> list[str]:
    """Weights that some part of the config reads besides the checkpoint that the run goes on from."""
    settings: Any = OmegaConf.to_container(config, resolve=True)
    pending: list[Any] = [value for name, value in settings.items() if name != "ckpt_path"]
    found: list[str] = []
    while pending:
        value = pending.pop()
        if isinstance(value, str) and value.endswith(WEIGHTS):
            found.append(value)
        elif isinstance(value, Mapping):
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return found


def _note_checkpoints(trainer: Trainer, names: list[str]) -> None:
    """Say of weights that were there before a private run what it does not cover."""
    federation = federation_of(trainer)
    account: Any = ledger_of(trainer) or (None if federation is None else federation.example_privacy)
    for name in [] if account is None else names:
        account.add_caveat(
            f"The config names the checkpoint {name}, which was there before this run: epsilon covers neither that "
            "file nor the data it was trained on."
        )


def _arguments() -> list[str]:
    """What of the config was set for this run, by the command line or a sweep, as it was written."""
    return task_overrides(HydraConfig.get()) if HydraConfig.initialized() else []


def _instances(group: Mapping[str, Any]) -> list[Any]:
    """One object per entry of a group; entries set to null are left out."""
    return [instantiate(entry) for entry in group.values() if entry is not None]


def _share_ledger(datamodule: LightningDataModule, ledger: PrivacyLedger) -> None:
    """Give the ledger of training to a data module that releases something itself and has none yet.

    It is charged before training is planned, so that training gets what is left of the budget.
    """
    if getattr(datamodule, "ledger", ledger) is None:
        datamodule.ledger = ledger  # type: ignore[attr-defined] # of those that have the attribute


def _artefacts(config: DictConfig, datamodule: LightningDataModule, deployment: Deployment | None) -> dict[str, str]:
    """What a run left beside its folder's usual content, by what it is."""
    found = {f"Encrypted {name}": str(path) for name, path in getattr(datamodule, "artefacts", {}).items()}
    key = (OmegaConf.select(config, "security.key") or {}).get("path")
    if key is not None:
        found["Key of what is encrypted"] = str(key)
    if deployment is not None:
        found["Model to deploy"] = str(deployment.folder)
    return found


def _job(config: DictConfig) -> dict[str, Any] | None:
    """One run of the command: of a sweep, whose figures are returned, or the only one."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return run_in_process(config, explain=explain)
    with explained(Path(config.paths.output_dir)):
        _train_and_tell(config)
    return None


def _sweep_job(_: list[str]) -> int:
    """The process of one run of a sweep."""
    hush()

    def figures(config: DictConfig) -> dict[str, float]:
        summary = _train_and_tell(config)
        epsilon = None if summary.guarantee is None else summary.guarantee.epsilon
        return run_figures(epsilon, summary.outcome.test, folder=Path(config.paths.output_dir))

    return serve_run(figures, explained=EXPLAINED, explain=explain)


def _train_and_tell(config: DictConfig) -> RunSummary:
    folder = Path(config.paths.output_dir)
    # Of several processes, each of which runs this, one speaks.
    console = Console(highlight=False, quiet=pl.utilities.rank_zero.rank_zero_only.rank != 0)  # type: ignore[attr-defined]
    console.print(f"Run folder: {folder}", soft_wrap=True)
    summary = run(config, folder, console)
    _tell(console, summary, folder)
    return summary


def _tell(console: Console, summary: RunSummary, folder: Path) -> None:
    console.print()
    console.print(summary.table())
    for note in summary.notes():
        console.print(f"* {note}", markup=False, soft_wrap=True)
    console.print(f"Config, metrics, checkpoints and summary: {folder}", soft_wrap=True)
    for what, path in summary.artefacts.items():
        console.print(f"{what}: {path}", markup=False, soft_wrap=True)


def main() -> NoReturn:
    """Run the command; its exit status is 0, or 1 after an error whose message is on the error stream.

    ``lightning-privacy report RUN_FOLDER`` makes the report of a run again, ``lightning-privacy serve FOLDER`` answers
    requests with an exported model; all else is Hydra's. With the
    environment variable ``HYDRA_FULL_ERROR=1`` errors show their full trace.
    """
    if sys.argv[1:] and sys.argv[1] in _COMMANDS:
        module, _, name = _COMMANDS[sys.argv[1]].partition(":")
        # Imported only when it is asked for: what some need is an extra.
        sys.exit(getattr(import_module(module), name)(sys.argv[2:]))
    hush()
    register_sweepers()
    command = hydra.main(version_base="1.3", config_path="pkg://lightning_privacy.conf", config_name="config")(_job)
    with hydra_raises(), explained():
        command()
    sys.exit(1 if sweep_failed() else 0)
