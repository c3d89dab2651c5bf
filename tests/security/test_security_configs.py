"""The configs of the group security put the encrypting plugin into the trainer, with the key of its place."""

from __future__ import annotations

from pathlib import Path

import lightning_privacy.conf
import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lightning_privacy.plugins import EncryptedCheckpointIO
from lightning_privacy.security import Key

CHECKPOINT = {"state_dict": {}, "pytorch-lightning_version": "2.6.0"}


@pytest.mark.parametrize("option", ["environment", "key_file", "kept_key"])
def test_the_trainer_encrypts_with_the_key_of_the_config(tmp_path, monkeypatch, option):
    key = Key.generate()
    key.save(tmp_path / "key")
    key.save(tmp_path / "keys" / "lightning-privacy.key")
    monkeypatch.setenv("LIGHTNING_PRIVACY_KEY", (tmp_path / "key").read_text())
    monkeypatch.setenv("LIGHTNING_PRIVACY_KEY_FILE", str(tmp_path / "key"))
    folders = [f"paths.output_dir={tmp_path}", f"paths.root={tmp_path}"]
    with initialize_config_module("lightning_privacy.conf", version_base="1.3"):
        config = compose("config", overrides=[*folders, f"security={option}"])
    plugin = instantiate(config.trainer, logger=False).strategy.checkpoint_io
    assert isinstance(plugin, EncryptedCheckpointIO)
    plugin.save_checkpoint(CHECKPOINT, tmp_path / "last.ckpt")
    assert instantiate(config.security.key) == key
    assert EncryptedCheckpointIO(key).load_checkpoint(tmp_path / "last.ckpt") == CHECKPOINT
    # What the run folder keeps of the config says where the key is, and not what it is.
    secret = (tmp_path / "key").read_text().split('"secret": "')[1].split('"')[0]
    assert secret not in OmegaConf.to_yaml(config, resolve=True)


def test_no_config_is_left_out():
    folder = Path(lightning_privacy.conf.__file__).parent / "security"
    assert {path.stem for path in folder.glob("*.yaml")} == {"environment", "key_file", "kept_key"}
