"""A run that goes on from a checkpoint is charged for every step, also where that was put aside for another run."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_privacy import DifferentialPrivacy
from lightning_privacy._lightning import LightningModule, ModelCheckpoint, Trainer
from lightning_privacy.report.earlier_run import put_aside
from lightning_privacy.report.earlier_weights import named_in
from lightning_privacy.report.ledger_file import write_ledger
from lightning_privacy.report.report_data import report_data
from lightning_privacy.report.run_journals import journal_files
from lightning_privacy.report.run_record import RunRecord

# As it is of the run that goes on.
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory")


class _Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(3, 2)

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _fit(folder, epochs, checkpoint=None, noise=2.0, others=()):
    """Four steps an epoch, and a checkpoint after each."""
    privacy = DifferentialPrivacy(delta=1e-3, noise_multiplier=noise)
    kept = ModelCheckpoint(folder / "checkpoints", filename="{epoch}", save_top_k=-1)
    trainer = Trainer(
        max_epochs=epochs, callbacks=[privacy, kept, *others], logger=False, accelerator="cpu", default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    data = TensorDataset(torch.ones(40, 3), torch.zeros(40, dtype=torch.long))
    trainer.fit(_Model(), DataLoader(data, batch_size=10), ckpt_path=checkpoint)
    return privacy.ledger


def _steps(ledger):
    return sum(count for _, count in ledger.groups)


@pytest.mark.parametrize("another", [False, True])
def test_p26_steps_after_a_checkpoint_are_charged_wherever_it_is_now(tmp_path, another):
    assert _steps(_fit(tmp_path, 3)) == 12
    checkpoint = tmp_path / "checkpoints" / "epoch=0.ckpt"
    if another:
        assert put_aside(tmp_path) == tmp_path / "earlier_0"
        assert not checkpoint.exists()
        _fit(tmp_path, 1, noise=3.0)
        checkpoint = tmp_path / "earlier_0" / "checkpoints" / "epoch=0.ckpt"
    put_aside(tmp_path, checkpoint=checkpoint)
    # 4 of the checkpoint, 8 that were lost, 4 of the epoch.
    ledger = _fit(tmp_path, 2, checkpoint)
    assert _steps(ledger) == 16
    write_ledger(tmp_path, ledger)
    found = report_data(RunRecord.read(tmp_path))["guarantee"]
    assert found["epsilon"] >= ledger.epsilon(exact=True)


def test_p26_what_a_run_took_after_its_ledger_was_written_is_found_in_the_journal_of_its_checkpoint(tmp_path):
    _fit(tmp_path, 1)
    put_aside(tmp_path)
    assert journal_files(tmp_path) == []
    checkpoint = tmp_path / "earlier_0" / "checkpoints" / "epoch=0.ckpt"
    put_aside(tmp_path, checkpoint=checkpoint)
    short = _fit(tmp_path, 2, checkpoint)
    write_ledger(tmp_path, short)
    whole = _fit(tmp_path, 4, tmp_path / "checkpoints" / "epoch=1.ckpt")
    assert _steps(whole) > _steps(short)
    found = report_data(RunRecord.read(tmp_path))["guarantee"]
    assert found["epsilon"] == pytest.approx(whole.epsilon(exact=True))


def test_checkpoints_that_the_one_a_run_goes_on_from_names_stay_wherever_they_are(tmp_path):
    def best():
        return ModelCheckpoint(tmp_path / "best", monitor="privacy/epsilon", filename="{step}", save_top_k=2)

    _fit(tmp_path, 3, others=[best()])
    names = {path.name for path in (tmp_path / "best").iterdir()}
    assert names == {"step=4.ckpt", "step=8.ckpt"}
    (tmp_path / "best" / "of_another.ckpt").touch()
    checkpoint = tmp_path / "checkpoints" / "epoch=2.ckpt"
    assert named_in(checkpoint) >= {tmp_path / "best" / name for name in names}
    assert put_aside(tmp_path, checkpoint=checkpoint) == tmp_path / "earlier_0"
    assert {path.name for path in (tmp_path / "best").iterdir()} == names
    again = best()
    _fit(tmp_path, 4, checkpoint, others=[again])
    assert (tmp_path / "best" / "step=4.ckpt").exists()
    assert again.best_model_path == str(tmp_path / "best" / "step=4.ckpt")


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 cut", {"callbacks": 3}, {}, {"callbacks": {"a": [1]}}])
def test_a_checkpoint_that_cannot_be_read_names_none(tmp_path, content):
    path = tmp_path / "last.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    assert named_in(path) == set()
