"""A loader resumed where the training loop was: by hand, by a trainer, and by torchdata's own loader."""

from __future__ import annotations

import json

import pytest
import torch
from torch.utils.data import DataLoader

from lightning_privacy._lightning import Callback, LightningModule, Trainer
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.sampling import BalancedBatchSampler, BalancedSampler, ResumableDataLoader

LABELS = [0] * 30 + [1] * 10
DATA = torch.arange(40.0)


def _loader(kind="sampler", workers=0, cls=ResumableDataLoader, **options):
    if kind == "sampler":
        arguments = {"batch_size": 4, "sampler": BalancedSampler(LABELS, seed=1)}
    else:
        arguments = {"batch_sampler": BalancedBatchSampler(LABELS, 4, seed=1)}
    return cls(DATA, num_workers=workers, **arguments, **options)


def _taken(loader, epoch=None):
    if epoch is not None:
        loader.batch_sampler.sampler.set_epoch(epoch)
    return [batch.tolist() for batch in loader]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["sampler", "batch_sampler"])
@pytest.mark.parametrize("taken", [0, 3, 10])
def test_the_rest_of_the_epoch_follows(kind, workers, taken):
    whole, following = _taken(_loader(kind), 2), _taken(_loader(kind), 3)
    loader, resumed = _loader(kind, workers), _loader(kind, workers)
    loader.batch_sampler.sampler.set_epoch(2)
    for number, batch in zip(range(taken), loader, strict=False):
        assert batch.tolist() == whole[number]
    state = json.loads(json.dumps(loader.state_dict()))
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    if taken < 10:
        batches = iter(resumed)
        assert next(batches).tolist() == whole[taken]
        # Resumed once more, from within what was resumed.
        state = resumed.state_dict()
        again = _loader(kind, workers)
        again.load_state_dict(state)
        assert [batch.tolist() for batch in batches] == _taken(again) == whole[taken + 1 :]
    assert _taken(resumed) == following


def test_an_epoch_named_after_the_iterator_was_made_is_heeded():
    """As Lightning does it; workers must not have begun with another epoch."""
    loader = _loader(workers=2)
    batches = iter(loader)
    loader.sampler.set_epoch(3)
    assert [batch.tolist() for batch in batches] == _taken(_loader(), 3)
    loader.sampler.set_epoch(4)
    assert loader.state_dict()["position"] == 0


class Seen(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch.tolist())
        return self.weight * batch.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Interruption(Callback):
    def __init__(self, path, epoch, batch):
        self.path, self.when = path, (epoch, batch)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.when:
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt


def _fit(tmp_path, loader, callbacks=(), path=None):
    module = Seen()
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        default_root_dir=tmp_path,
    )
    trainer.fit(module, loader, ckpt_path=path)
    return module.seen


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_fit_sees_what_an_uninterrupted_one_sees(tmp_path, workers):
    whole = _fit(tmp_path, _loader())
    assert whole == [batch for epoch in range(3) for batch in _taken(_loader(), epoch)]
    path = tmp_path / "last.ckpt"
    with pytest.raises(SystemExit):
        _fit(tmp_path, _loader(workers=workers), [Interruption(path, epoch=1, batch=3)])
    assert _fit(tmp_path, _loader(workers=workers), path=path) == whole[14:]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["sampler", "batch_sampler"])
def test_the_stateful_loader_of_torchdata_resumes_too(kind, workers):
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")
    cls = stateful.StatefulDataLoader
    whole = _taken(_loader(kind, cls=cls), 1)
    loader, resumed = _loader(kind, workers, cls), _loader(kind, workers, cls)
    loader.batch_sampler.sampler.set_epoch(1)
    batches = iter(loader)
    assert [next(batches).tolist() for _ in range(3)] == whole[:3]
    resumed.load_state_dict(loader.state_dict())
    assert _taken(resumed) == whole[3:]


def test_a_state_of_other_data_is_refused():
    state = _loader().state_dict()
    other = ResumableDataLoader(DATA, batch_size=4, sampler=BalancedSampler(LABELS[::-1], seed=1))
    with pytest.raises(CheckpointError, match="checksum"):
        other.load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shuffle": True}, "sampler must be a BalancedSampler, .* got RandomSampler"),
        ({"sampler": BalancedSampler(LABELS), "num_workers": 1, "in_order": False}, "in_order must be True"),
    ],
    ids=["another sampler", "out of order"],
)
def test_what_can_not_be_resumed_is_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        ResumableDataLoader(DATA, **options)


def test_a_plain_loader_is_told_apart():
    assert not hasattr(DataLoader, "state_dict"), "torch's own loader resumes now: ours may not be needed any more"
