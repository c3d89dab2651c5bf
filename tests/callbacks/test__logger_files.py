"""Scalars, the fairness table and the report at each kind of logger, in a folder and without a network."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_privacy._lightning import CSVLogger, LightningModule, Trainer, pl
from lightning_privacy.callbacks import DifferentialPrivacy, GroupFairness
from lightning_privacy.callbacks._logger_files import log_files, log_table, markdown_of
from lightning_privacy.report import log_report

PAGE = "<!doctype html><title>Report</title><p>Epsilon is three."


class _Model(LightningModule):
    """A linear model."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _run(logger, folder: Path) -> None:
    """Train privately with a fairness table, then hand over a report."""
    folder.mkdir()
    rows = TensorDataset(torch.randn(80, 3), torch.arange(80) % 2, torch.arange(80) // 2 % 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the loggers' own packages
        trainer = Trainer(
            callbacks=[
                DifferentialPrivacy(epsilon=3.0, delta=1e-3, probe=False),
                GroupFairness(groups={"sex": 2}, group_names=["female|f", "male"], show=False),
            ],
            logger=logger, accelerator="cpu", max_epochs=2, log_every_n_steps=1, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        )  # fmt: skip
        trainer.fit(_Model(), DataLoader(rows, batch_size=20), DataLoader(rows, batch_size=40))
        (folder / "report.html").write_text(PAGE)
        (folder / "report.json").write_text('{"epsilon": 3}')
        (folder / "summary.txt").write_text("epsilon  3.000\n")
        log_report(trainer.loggers, folder)


def test_tensorboard_shows_scalars_the_table_and_the_summary(tmp_path):
    accumulators = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs the extra tensorboard"
    )
    _run(pl.loggers.TensorBoardLogger(tmp_path, name="board", version=""), tmp_path / "run")
    events = accumulators.EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    epsilons = [event.value for event in events.Scalars("privacy/epsilon")]
    assert len(epsilons) == 8
    assert 2.9 < epsilons[-1] <= 3.03
    tables = events.Tensors("fairness/val/text_summary")
    assert [event.step for event in tables] == [4, 8]
    text = tables[-1].tensor_proto.string_val[0].decode()
    assert "| sex | female\\|f | n |  | 40 |" in text
    report = events.Tensors("report/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "    epsilon  3.000" in report
    assert str(tmp_path / "run" / "report.html") in report


@pytest.mark.parametrize("inside", [True, False])
def test_csv_has_scalars_the_table_and_the_report(tmp_path, inside):
    folder = tmp_path / "run"
    logger = CSVLogger(folder if inside else tmp_path / "elsewhere", name="metrics", version="")
    _run(logger, folder)
    where = Path(logger.log_dir)
    with (where / "metrics.csv").open() as file:
        epsilons = [float(row["privacy/epsilon"]) for row in csv.DictReader(file) if row["privacy/epsilon"]]
    assert 2.9 < epsilons[-1] <= 3.03
    assert (where / "fairness" / "val-step=8.csv").is_file()
    # The report lies in the run folder: it is copied to a logger only where that has another one.
    assert (where / "report.html").exists() != inside
    assert (folder / "report.html").read_text() == PAGE


@pytest.mark.filterwarnings("ignore")  # those of its own packages
def test_mlflow_keeps_scalars_the_table_and_the_report(tmp_path):
    tracking = pytest.importorskip("mlflow.tracking", reason="needs the extra mlflow")
    address = f"sqlite:///{tmp_path}/mlflow.db"
    logger = pl.loggers.MLFlowLogger("private", tracking_uri=address, artifact_location=str(tmp_path / "artifacts"))
    _run(logger, tmp_path / "run")
    client = tracking.MlflowClient(address)
    history = client.get_metric_history(logger.run_id, "privacy/epsilon")
    assert 2.9 < max(entry.value for entry in history) <= 3.03
    assert client.get_run(logger.run_id).info.status == "FINISHED"
    artifacts = tmp_path / "artifacts" / logger.run_id / "artifacts"
    assert (artifacts / "report" / "report.html").read_text() == PAGE
    with (artifacts / "fairness" / "val-step=8.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["group"] for row in rows} == {"female|f", "male", "(all)", ""}


def test_wandb_offline_keeps_scalars_the_table_and_the_report(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="needs the extra wandb")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = pl.loggers.WandbLogger(save_dir=tmp_path / "run", project="private", offline=True)
    _run(logger, tmp_path / "run")
    assert 2.9 < logger.experiment.summary["privacy/epsilon"] <= 3.03
    wandb.finish()
    (run,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert (run / "files" / "report.html").read_text() == PAGE
    pages = list((run / "files" / "media" / "html").rglob("*.html"))
    assert [page.read_text() for page in pages] == [PAGE]
    tables = [json.loads(path.read_text()) for path in (run / "files" / "media" / "table").rglob("*.json")]
    assert len(tables) == 2
    assert tables[0]["columns"][:4] == ["stage", "epoch", "step", "dataloader"]
    groups = {row[tables[0]["columns"].index("group")] for row in tables[0]["data"]}
    assert groups == {"female|f", "male", "(all)", ""}


class _Other(pl.loggers.logger.DummyLogger):
    """A logger of another kind."""


def test_a_logger_of_another_kind_and_an_empty_table_are_left_alone(tmp_path):
    log_table([_Other()], "fairness/val", [{"a": 1}], step=0)
    log_table([_Other()], "fairness/val", [], step=0)
    log_files([_Other()], "report", [tmp_path / "report.html"])
    log_report([CSVLogger(tmp_path, name="x", version=0)], tmp_path)  # an empty folder
    assert list(tmp_path.iterdir()) == []


def test_markdown_keeps_its_columns_whatever_the_names():
    assert markdown_of([{"group": "a|b\nc", "value": 1 / 3}]).splitlines()[-1] == "| a\\|b c | 0.3333 |"
