"""Encrypted checkpoints do what plain ones do, and nobody without the key can read or change one."""

from __future__ import annotations

import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.plugins import AsyncCheckpointIO, TorchCheckpointIO
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_privacy._lightning import LightningModule, ModelCheckpoint, Trainer
from lightning_privacy.accounting import SampledGaussian
from lightning_privacy.callbacks import DifferentialPrivacy
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.mechanisms.noise import NoiseSource
from lightning_privacy.plugins import AtomicCheckpointIO, EncryptedCheckpointIO
from lightning_privacy.security import (
    Key,
    KeyExpiredError,
    KeyRing,
    NewerFormatError,
    NotEncryptedError,
    TamperedError,
    WrongKeyError,
    encrypt_file,
    rotate,
)

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (
        "Checkpoint directory .* exists and is not empty",
        "delta=0.01 is not below",
        ".*noise.*seed",
        "The dirpath has changed",
        "Found .* module.s. in eval mode",
        "You defined a `validation_step` but have no `val_dataloader`",
    )
]

KEY = Key(bytes(range(32)), key_id="k1")
GOOD = {"state_dict": {"weight": torch.arange(4.0)}, "pytorch-lightning_version": "2.6.0"}


class Regression(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layer = nn.Linear(3, 1)

    def _loss(self, batch: Any) -> torch.Tensor:
        return nn.functional.mse_loss(self.layer(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self._loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("loss", self._loss(batch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", self._loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def _loader(shuffle: bool = False) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(24, 3, generator=generator)
    return DataLoader(TensorDataset(data, data.sum(1, keepdim=True)), 8, shuffle=shuffle)


def _trainer(folder: Path, plugin: Any, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(**quiet, default_root_dir=folder, plugins=plugin and [plugin], num_sanity_val_steps=0, **options)


def _weights(module: nn.Module) -> list[torch.Tensor]:
    return [value.detach().clone() for value in module.parameters()]


def _assert_good(path: Path, key: Any = KEY) -> None:
    loaded = EncryptedCheckpointIO(key).load_checkpoint(path)
    assert torch.equal(loaded["state_dict"]["weight"], torch.arange(4.0))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "last.ckpt"


def test_what_lies_on_the_disk_is_not_a_checkpoint_of_torch(tmp_path):
    path = tmp_path / "new" / "last.ckpt"
    EncryptedCheckpointIO(KEY).save_checkpoint(GOOD, path)
    _assert_good(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["last.ckpt"]
    assert b"state_dict" not in path.read_bytes()
    with pytest.raises(CheckpointError, match="is encrypted"):
        AtomicCheckpointIO().load_checkpoint(path)


@pytest.mark.parametrize("wrapped", [False, True], ids=["alone", "asynchronous"])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, wrapped):
    def plugin() -> Any:
        encrypted = EncryptedCheckpointIO(KEY)
        return AsyncCheckpointIO(encrypted) if wrapped else encrypted

    def saver(folder: str) -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / folder, filename="{epoch}", save_top_k=-1)

    whole, resumed = Regression(), Regression()
    _trainer(tmp_path, plugin(), max_epochs=4, callbacks=[saver("a")]).fit(whole, _loader())
    half = tmp_path / "a" / "epoch=1.ckpt"
    _trainer(tmp_path, plugin(), max_epochs=4, callbacks=[saver("b")]).fit(resumed, _loader(), ckpt_path=half)
    assert sorted(entry.name for entry in (tmp_path / "b").iterdir()) == ["epoch=2.ckpt", "epoch=3.ckpt"]
    torch.testing.assert_close(_weights(resumed), _weights(whole), rtol=0, atol=0)
    for file in tmp_path.rglob("*.ckpt"):
        assert file.read_bytes().startswith(b"LPCRYPT")


def test_the_best_checkpoints_are_kept_and_the_others_removed(tmp_path):
    saver = ModelCheckpoint(tmp_path, filename="{epoch}", monitor="loss", save_top_k=2, save_last="link")
    trainer = _trainer(tmp_path, EncryptedCheckpointIO(KEY), max_epochs=5, callbacks=[saver])
    module = Regression()
    trainer.fit(module, _loader(), _loader())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["epoch=3.ckpt", "epoch=4.ckpt", "last.ckpt"]
    best = trainer.test(Regression(), _loader(), ckpt_path="best", verbose=False)
    here = trainer.test(Regression(), _loader(), ckpt_path=tmp_path / "last.ckpt", verbose=False)
    assert best == here
    assert best[0]["test_loss"] == pytest.approx(float(saver.best_model_score))
    assert trainer.validate(module, _loader(), ckpt_path="last", verbose=False)[0]["loss"] > 0
    weights = Regression.load_from_checkpoint(EncryptedCheckpointIO(KEY).open(tmp_path / "epoch=4.ckpt"))
    torch.testing.assert_close(_weights(weights), _weights(module), rtol=0, atol=0)


def test_p26_a_private_run_resumes_from_encrypted_checkpoints_and_pays_for_what_was_lost(tmp_path):
    """The plugin stays in place during a private fit, and the ledger and the journal work through it."""

    def fit(folder: str, ckpt_path: Path | None = None) -> tuple[Regression, DifferentialPrivacy]:
        privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0, noise=NoiseSource(3))
        plugin, module, seen = EncryptedCheckpointIO(KEY), Regression(), []
        saver = ModelCheckpoint(tmp_path / folder, filename="{step}", save_top_k=-1, every_n_train_steps=3)
        trainer = _trainer(tmp_path / folder, plugin, max_epochs=3, callbacks=[privacy, saver])
        look = LambdaCallback(on_train_batch_end=lambda *_: seen.append(trainer.strategy.checkpoint_io))
        trainer.callbacks.append(look)
        trainer.fit(module, _loader(shuffle=True), ckpt_path=ckpt_path)
        assert seen
        assert set(seen) == {plugin} == {trainer.strategy.checkpoint_io}
        return module, privacy

    whole, privacy = fit("whole")
    assert privacy.ledger.history == [(SampledGaussian(1.0, 8 / 24), 9, "training")]
    resumed, again = fit("resumed", tmp_path / "whole" / "step=6.ckpt")
    torch.testing.assert_close(_weights(resumed), _weights(whole), rtol=0, atol=0)
    assert [entry[1:] for entry in again.ledger.history] == [(9, "training"), (3, "lost and re-done")]


def test_a_flipped_bit_at_any_of_1000_places_is_noticed(path):
    plugin, rng = EncryptedCheckpointIO(KEY), random.Random(0)
    plugin.save_checkpoint({**GOOD, "more": torch.randn(100_000)}, path)
    whole = path.read_bytes()
    for _ in range(1000):
        damaged, place = bytearray(whole), rng.randrange(len(whole))
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="can't be read"):
            plugin.load_checkpoint(path)


def _damaged(content: bytes) -> bytes:
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


@pytest.mark.parametrize(
    ("change", "cause", "named"),
    [
        (_damaged, TamperedError, "was altered, cut short or lengthened"),
        (lambda content: content[:-1], TamperedError, "was altered, cut short or lengthened"),
        (lambda content: content + b"\x00", TamperedError, "was altered, cut short or lengthened"),
        (lambda content: content[:8] + b"\x02" + content[9:], NewerFormatError, "version 2 of the format"),
        (lambda content: b"PK" + content, NotEncryptedError, "is not encrypted by lightning_privacy"),
        (lambda content: b"", NotEncryptedError, "is not encrypted by lightning_privacy"),
    ],
    ids=["altered", "cut", "appended", "newer version", "plain", "empty"],
)
def test_each_fault_has_its_own_message(path, change, cause, named):
    EncryptedCheckpointIO(KEY).save_checkpoint(GOOD, path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CheckpointError, match=named) as raised:
        EncryptedCheckpointIO(KEY).load_checkpoint(path)
    assert isinstance(raised.value.__cause__, cause)
    assert str(path) in str(raised.value)


def test_a_wrong_key_is_told_from_a_damaged_file(path):
    EncryptedCheckpointIO(KEY).save_checkpoint(GOOD, path)
    for wrong in (bytes(32), Key(bytes(32), key_id="k1")):
        with pytest.raises(CheckpointError, match="k1") as raised:
            EncryptedCheckpointIO(wrong).load_checkpoint(path)
        assert isinstance(raised.value.__cause__, WrongKeyError)


def test_an_expired_key_is_refused_and_its_checkpoints_move_on(path):
    past = datetime.now(UTC) - timedelta(seconds=1)
    EncryptedCheckpointIO(KEY).save_checkpoint(GOOD, path)
    expired = Key(KEY.secret, key_id="k1", expires=past)
    with pytest.raises(KeyExpiredError, match="'k1' expired"):
        EncryptedCheckpointIO(expired).load_checkpoint(path)
    with pytest.raises(KeyExpiredError, match="'k1' expired"):
        EncryptedCheckpointIO(expired).save_checkpoint(GOOD, path)
    ring = KeyRing(Key.generate(), expired)
    _assert_good(path, ring)
    assert rotate(path, ring)
    _assert_good(path, ring.current)


class Settings:
    """Something no checkpoint should need to run code for."""


def test_loading_runs_no_code_unless_asked(path):
    plugin = EncryptedCheckpointIO(KEY)
    plugin.save_checkpoint({**GOOD, "hyper_parameters": Settings()}, path)
    for weights_only in (None, True):
        with pytest.raises(CheckpointError, match=r"authentic but can't be read \(Weights only.*weights_only=False"):
            plugin.load_checkpoint(path, weights_only=weights_only)
    assert isinstance(plugin.load_checkpoint(path, weights_only=False)["hyper_parameters"], Settings)


def test_other_files_of_the_key_are_no_checkpoints(path):
    (path.parent / "plain").write_bytes(b"x")
    encrypt_file(path.parent / "plain", path, KEY)
    with pytest.raises(CheckpointError, match="holds bytes, not checkpoint"):
        EncryptedCheckpointIO(KEY).load_checkpoint(path)
    EncryptedCheckpointIO(KEY).save_checkpoint({"weights": 1}, path)
    with pytest.raises(CheckpointError, match="not written by a Lightning trainer"):
        EncryptedCheckpointIO(KEY).load_checkpoint(path)


def test_a_missing_checkpoint_is_named():
    with pytest.raises(FileNotFoundError, match=r"Checkpoint file not found: nowhere\.ckpt"):
        EncryptedCheckpointIO(KEY).load_checkpoint("nowhere.ckpt")


@pytest.mark.parametrize("inner", [TorchCheckpointIO, AtomicCheckpointIO])
def test_another_plugin_stores_what_was_encrypted(path, inner):
    plugin = EncryptedCheckpointIO(KEY, inner=inner())
    plugin.save_checkpoint(GOOD, path)
    assert inner().load_checkpoint(path)["state_dict"] == {}
    assert b"weight" not in path.read_bytes()
    torch.testing.assert_close(plugin.load_checkpoint(path)["state_dict"], GOOD["state_dict"])
    with plugin.open(path) as file:
        assert torch.load(file)["pytorch-lightning_version"] == "2.6.0"
    carried = torch.load(path)
    carried["lightning_privacy_encrypted"][-20] ^= 1
    torch.save(carried, path)
    with pytest.raises(CheckpointError, match=r"last\.ckpt was altered"):
        plugin.load_checkpoint(path)
    inner().save_checkpoint(GOOD, path)
    with pytest.raises(CheckpointError, match="not an encrypted one"):
        plugin.load_checkpoint(path)
    plugin.remove_checkpoint(path)
    assert not path.exists()


def test_a_path_with_a_scheme_goes_through_lightnings_own_plugin():
    plugin, path = EncryptedCheckpointIO(KEY), "memory://checkpoints/last.ckpt"
    plugin.save_checkpoint(GOOD, path)
    torch.testing.assert_close(plugin.load_checkpoint(path)["state_dict"], GOOD["state_dict"])
    assert TorchCheckpointIO().load_checkpoint(path)["state_dict"] == {}
    plugin.remove_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        plugin.load_checkpoint(path)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("secret",), "key must be"),
        ((bytes(31),), "32 bytes, got 31"),
        ((KEY, "torch"), "inner must be a CheckpointIO"),
    ],
    ids=["text", "short", "inner"],
)
def test_a_wrong_argument_is_named(arguments, named):
    with pytest.raises(ConfigurationError, match=named):
        EncryptedCheckpointIO(arguments[0], inner=arguments[1] if len(arguments) > 1 else None)


def test_storage_options_are_refused(path):
    with pytest.raises(ConfigurationError, match="storage_options must be None"):
        EncryptedCheckpointIO(KEY).save_checkpoint(GOOD, path, storage_options={})


# What a full disk does: a write beyond the limit fails. A process of its own, because a hard limit can't be raised.
_DISK_FULL = """
import resource, signal, sys, torch
from lightning_privacy.errors import CheckpointError
from lightning_privacy.plugins import EncryptedCheckpointIO
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
big = {"state_dict": {"weight": torch.zeros(1_000_000)}, "pytorch-lightning_version": "2.6.0"}
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    EncryptedCheckpointIO(bytes(range(32))).save_checkpoint(big, sys.argv[1])
except CheckpointError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_old_checkpoint_and_names_the_path(path):
    EncryptedCheckpointIO(KEY.secret).save_checkpoint(GOOD, path)
    run = subprocess.run([sys.executable, "-c", _DISK_FULL, path], capture_output=True, text=True, check=True)
    assert f"the checkpoint {path} could not be written (File too large)" in run.stdout
    assert [entry.name for entry in path.parent.iterdir()] == ["last.ckpt"]
    _assert_good(path, KEY.secret)


# Both names of Lightning, with a kill in the middle of saves: forks a child that saves again and again.
_KILLED_WHILE_SAVING = """
import os, pathlib, signal, sys, time
import {name} as pl
import torch
from lightning_privacy import _lightning
from lightning_privacy.plugins import EncryptedCheckpointIO
torch.set_num_threads(1)  # a fork has none of the helper threads, and would wait for them
plugin, path = EncryptedCheckpointIO(bytes(range(32))), pathlib.Path(sys.argv[1])
trainer = pl.Trainer(plugins=[plugin], logger=False, accelerator="cpu", enable_checkpointing=False)
assert trainer.strategy.checkpoint_io is plugin and _lightning.LIGHTNING_NAME.startswith("{name}")
inside = 0
for attempt in range(10):
    path.unlink(missing_ok=True)
    child = os.fork()
    while child == 0:
        checkpoint = {{"state_dict": {{"weight": torch.full((300_000,), time.time())}}}}
        plugin.save_checkpoint({{**checkpoint, "pytorch-lightning_version": "2.6.0"}}, path)
    while not path.exists():
        time.sleep(0.001)
    time.sleep(0.003 * attempt)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    weight = plugin.load_checkpoint(path)["state_dict"]["weight"]
    assert weight.numel() == 300_000 and weight.unique().numel() == 1
    inside += path.with_name(path.name + ".partial").exists()
print("inside", inside)
"""


@pytest.mark.parametrize("name", ["pytorch_lightning", "lightning"])
def test_a_kill_in_the_middle_leaves_a_complete_checkpoint(path, name):
    script = _KILLED_WHILE_SAVING.format(name=name)
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, path], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1].split()[0] == "inside"
