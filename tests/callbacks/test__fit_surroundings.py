"""What a private fit replaces in a trainer, while it runs and after."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from lightning_privacy._lightning import Callback, LightningModule, TorchCheckpointIO, Trainer
from lightning_privacy.callbacks._fit_surroundings import FitSurroundings
from lightning_privacy.plugins.atomic_checkpoint_io import AtomicCheckpointIO

QUIET = {"logger": False, "accelerator": "cpu", "barebones": True}


class Own(TorchCheckpointIO):
    pass


def test_checkpoints_are_saved_whole_until_the_fit_ends():
    trainer, surroundings = Trainer(**QUIET), FitSurroundings()
    before = trainer.strategy.checkpoint_io
    assert type(before) is TorchCheckpointIO
    surroundings.set_up(trainer)
    assert type(trainer.strategy.checkpoint_io) is AtomicCheckpointIO
    surroundings.lift_shield(trainer)
    assert type(trainer.strategy.checkpoint_io) is AtomicCheckpointIO
    for _ in range(2):
        surroundings.take_back(trainer)
        assert trainer.strategy.checkpoint_io is before


def test_a_plugin_of_ones_own_stays():
    own = Own()
    trainer, surroundings = Trainer(plugins=[own], **QUIET), FitSurroundings()
    surroundings.set_up(trainer)
    assert trainer.strategy.checkpoint_io is own
    surroundings.take_back(trainer)
    assert trainer.strategy.checkpoint_io is own


class Watch(Callback):
    """Shields the loader in ``setup``, and sees which one comes."""

    def __init__(self, end: str | None) -> None:
        self.surroundings, self.end, self.seen = FitSurroundings(), end, []

    def setup(self, trainer, pl_module, stage):
        if self.end is not None:
            self.surroundings.set_up(trainer)

    def on_train_start(self, trainer, pl_module):
        self.seen.append(type(trainer.train_dataloader.sampler).__name__)
        if self.end is not None:
            getattr(self.surroundings, self.end)(trainer)


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("end", "first"),
    [(None, "DistributedSampler"), ("lift_shield", "SequentialSampler"), ("take_back", "SequentialSampler")],
)
def test_the_loader_comes_over_all_examples_in_the_fit_that_is_shielded_alone(end, first):
    data = TensorDataset(torch.zeros(6, 1))
    sampler = DistributedSampler(data, num_replicas=1, rank=0, shuffle=False)
    watch = Watch(end)
    trainer = Trainer(max_steps=1, callbacks=[watch], **QUIET)
    trainer.fit(Module(), DataLoader(data, batch_size=2, sampler=sampler))
    watch.end = None  # the next fit has no shield, and nothing of the last one's is left
    trainer.fit_loop.epoch_loop.max_steps = 2
    trainer.fit(Module(), DataLoader(data, batch_size=2, sampler=sampler))
    assert watch.seen == [first, "DistributedSampler"]
