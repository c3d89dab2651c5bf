r"""Tables and files for the loggers of a trainer: each gets them in the form its pages show.

TensorBoard gets text, Weights & Biases a table and a page, MLflow artefacts of the run, and beside the metrics file of
Lightning's CSV logger files are copied. A logger of another kind gets its scalars from Lightning, and nothing here.

Example:
    >>> records = [{"attribute": "sex", "group": "female", "figure": "tpr", "class": "", "value": 0.5}]
    >>> print(markdown_of(records))
    | attribute | group | figure | class | value |
    | --- | --- | --- | --- | --- |
    | sex | female | tpr |  | 0.5 |
    >>> csv_of(records)
    'attribute,group,figure,class,value\nsex,female,tpr,,0.5\n'
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning_privacy._lightning import CSVLogger, Logger, pl

__all__ = ["csv_of", "log_files", "log_table", "markdown_of"]

Record = Mapping[str, Any]


def csv_of(records: Sequence[Record]) -> str:
    """Records as CSV, with a heading.

    Args:
        records: At least one, all with the same keys.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def markdown_of(records: Sequence[Record]) -> str:
    """Records as a table in Markdown.

    Args:
        records: At least one, all with the same keys.
    """
    rows = [list(records[0]), ["---"] * len(records[0]), *(list(map(_cell, record.values())) for record in records)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(value: object) -> str:
    # What a group is called is the user's own text.
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|").replace("\n", " ")


def log_table(loggers: Iterable[Logger], name: str, records: Sequence[Record], *, step: int) -> None:
    """Give a table to each logger that shows tables; to be called by the first process alone.

    Args:
        loggers: Of the trainer.
        name: With slashes for the place among other tables, such as ``"fairness/val"``.
        records: Rows with equal keys; empty texts stand for what is undefined.
        step: To which it belongs.
    """
    if records:
        _each(loggers, _TABLES, name, records, step)


def log_files(loggers: Iterable[Logger], name: str, files: Sequence[Path], *, text: str = "") -> None:
    """Give files to each logger that keeps files; to be called by the first process alone, also after the fit.

    Args:
        loggers: Of the trainer.
        name: Of all together, such as ``"report"``.
        files: Which exist. A page (``.html``) among them is shown where that is possible.
        text: For loggers that show text alone.
    """
    _each(loggers, _FILES, name, files, text)


def _each(loggers: Iterable[Logger], ways: Mapping[type[Logger], Callable[..., None]], *arguments: Any) -> None:
    for logger in loggers:
        for kind, send in ways.items():
            if isinstance(logger, kind):
                send(logger, *arguments)


def _tensorboard_table(logger: Any, name: str, records: Sequence[Record], step: int) -> None:
    logger.experiment.add_text(name, markdown_of(records), step)


def _wandb_table(logger: Any, name: str, records: Sequence[Record], step: int) -> None:
    # A column has one type there; numbers that are undefined are missing.
    texts = {key for key in records[0] if any(isinstance(record[key], str) and record[key] for record in records)}
    rows = [
        [str(value) if key in texts else None if value == "" else value for key, value in record.items()]
        for record in records
    ]
    logger.log_table(name, columns=list(records[0]), data=rows, step=step)


def _mlflow_table(logger: Any, name: str, records: Sequence[Record], step: int) -> None:
    logger.experiment.log_text(logger.run_id, csv_of(records), f"{name}-step={step}.csv")


def _tensorboard_files(logger: Any, name: str, files: Sequence[Path], text: str) -> None:
    listed = "".join(f"\n\n`{path}`" for path in files)
    body = "".join(f"    {line}\n" for line in text.splitlines())  # as it stands, in columns
    logger.experiment.add_text(name, f"{body}{listed}")
    logger.experiment.flush()


def _wandb_files(logger: Any, name: str, files: Sequence[Path], _text: str) -> None:
    wandb = import_module("wandb")  # an extra, which is there where its logger is
    run = logger.experiment
    for path in files:
        if path.suffix == ".html":
            run.log({name: wandb.Html(str(path), inject=False)})
        run.save(str(path), base_path=str(path.parent), policy="now")


def _mlflow_files(logger: Any, name: str, files: Sequence[Path], _text: str) -> None:
    for path in files:
        logger.experiment.log_artifact(logger.run_id, str(path), name)


def _csv_files(logger: Any, _name: str, files: Sequence[Path], _text: str) -> None:
    folder = Path(logger.log_dir)
    for path in files:
        # A logger whose folder is inside that of the run has them next to it.
        if not folder.resolve().is_relative_to(path.parent.resolve()):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / path.name)


_TABLES: Mapping[type[Logger], Callable[..., None]] = {
    pl.loggers.TensorBoardLogger: _tensorboard_table,
    pl.loggers.WandbLogger: _wandb_table,
    pl.loggers.MLFlowLogger: _mlflow_table,
}
_FILES: Mapping[type[Logger], Callable[..., None]] = {
    pl.loggers.TensorBoardLogger: _tensorboard_files,
    pl.loggers.WandbLogger: _wandb_files,
    pl.loggers.MLFlowLogger: _mlflow_files,
    CSVLogger: _csv_files,
}
