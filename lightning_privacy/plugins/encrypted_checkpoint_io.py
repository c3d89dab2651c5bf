"""Checkpoints that are encrypted and authenticated, and complete or not there.

A checkpoint holds more about the training data than the guarantee covers: an optimizer's moments and a seed beside the
weights, without privacy the weights themselves. What is written is ciphertext from the first byte, streamed into the
final file's partial one; nothing passes the disk in the clear.

Example:
    >>> import pathlib, tempfile
    >>> from lightning_privacy.plugins import EncryptedCheckpointIO
    >>> from lightning_privacy.security import Key
    >>> plugin = EncryptedCheckpointIO(Key.generate())
    >>> checkpoint = {"state_dict": {}, "pytorch-lightning_version": "2.6.0"}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "last.ckpt")
    ...     plugin.save_checkpoint(checkpoint, path)
    ...     b"state_dict" in path.read_bytes(), plugin.load_checkpoint(path) == checkpoint
    (False, True)
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO, Any, cast

import torch
from typing_extensions import override

from lightning_privacy._lightning import LIGHTNING_VERSION, CheckpointIO, TorchCheckpointIO
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.plugins._launched_weights import LaunchedWeights
from lightning_privacy.plugins.atomic_checkpoint_io import (
    as_saved,
    is_remote,
    not_written,
    refuse_storage_options,
)
from lightning_privacy.security import (
    Content,
    EncryptedReader,
    EncryptedWriter,
    EncryptionError,
    KeyExpiredError,
    KeyLike,
    as_key_ring,
)

__all__ = ["EncryptedCheckpointIO"]

_CARRIED = "lightning_privacy_encrypted"


class EncryptedCheckpointIO(CheckpointIO):
    """Give it to a trainer, ``Trainer(plugins=[EncryptedCheckpointIO(key)])``: all it saves and loads is encrypted.

    Resuming, ``ModelCheckpoint``, ``Trainer.test(ckpt_path=...)`` and Lightning's ``AsyncCheckpointIO`` around it work
    as with plain checkpoints. ``LightningModule.load_from_checkpoint`` reads files by itself, past every plugin: give
    it ``plugin.open(path)`` in place of the path. For another key, put the new one before the old one in a ``KeyRing``.

    Args:
        key: 32 bytes, a ``Key``, or a ``KeyRing``.
        inner: Another plugin that stores what was encrypted, as a checkpoint with one tensor of bytes, where the
            checkpoints go somewhere else than to files. None writes files; paths with a scheme, such as ``s3://``,
            then go to Lightning's own plugin in that form.

    Raises:
        ConfigurationError: The key is none, or ``inner`` is no plugin for checkpoints.
    """

    def __init__(self, key: KeyLike, *, inner: CheckpointIO | None = None) -> None:
        if inner is not None and not isinstance(inner, CheckpointIO):
            raise ConfigurationError(f"inner must be a CheckpointIO plugin or None, got {type(inner).__name__}")
        self._ring = as_key_ring(key)
        self._inner = inner
        self._launched = LaunchedWeights()

    def _carrier(self, path: str | Path) -> CheckpointIO | None:
        """The plugin that takes the ciphertext to its place; None for a file."""
        return TorchCheckpointIO() if self._inner is None and is_remote(path) else self._inner

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write the checkpoint, encrypted, or leave what is there as it is.

        Args:
            checkpoint: What ``Trainer.dump_checkpoint`` made, or weights that a launcher hands on.
            path: Where it goes; the folder is made when missing.
            storage_options: Passed on to ``inner``; not supported without one.

        Raises:
            CheckpointError: The file could not be written; the message names it and the cause.
            KeyExpiredError: The key is past its date.
            ConfigurationError: ``storage_options`` was given without ``inner``.
        """
        if self._inner is None:
            refuse_storage_options(storage_options)
        checkpoint = self._launched.packed(checkpoint, path)
        carrier = self._carrier(path)
        if carrier is None:
            self._write(checkpoint, path, path)
            return
        buffer = io.BytesIO()
        self._write(checkpoint, buffer, path)
        # The first two keys are what plugins look for in a checkpoint of Lightning.
        carried = {"state_dict": {}, "pytorch-lightning_version": LIGHTNING_VERSION}
        content = torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)
        carrier.save_checkpoint({**carried, _CARRIED: content}, path, storage_options)

    def _write(self, checkpoint: dict[str, Any], target: str | Path | io.BytesIO, path: str | Path) -> None:
        try:
            with EncryptedWriter(target, self._ring, content=Content.CHECKPOINT) as file:
                try:
                    torch.save(checkpoint, cast(IO[bytes], file))
                except RuntimeError as error:
                    # torch turns an error of the disk into one of its own.
                    raise (file.failure or error) from error
        except OSError as error:
            raise not_written(path, error) from error

    @override
    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Args:
            path: The file.
            map_location: Device its tensors go to; Lightning moves them on from there.
            weights_only: As in ``torch.load``, and true unless it is False: a pickle may run any code, here code of
                whoever has the key.

        Returns:
            What ``save_checkpoint`` was given.

        Raises:
            CheckpointError: The file was altered or cut short, is not encrypted, was encrypted with another key or by
                a newer version, or holds no checkpoint of a Lightning trainer; the cause has the precise class.
            KeyExpiredError: The key is past its date, and not an older one of a ring.
            FileNotFoundError: There is no such file.
        """
        carrier = self._carrier(path)
        source: str | Path | io.BytesIO = path if carrier is None else _unpacked(carrier, path)
        try:
            with EncryptedReader(source, self._ring, content=Content.CHECKPOINT) as file:
                checkpoint = _load(file, map_location, path, weights_only=weights_only is not False)
        except KeyExpiredError:
            raise
        except EncryptionError as error:
            text = str(error) if carrier is None else str(error).replace("the stream", str(path))
            raise CheckpointError(f"the checkpoint can't be read: {text}") from error
        except FileNotFoundError as error:
            raise FileNotFoundError(f"Checkpoint file not found: {path}") from error
        return as_saved(checkpoint, path, self._launched)

    def open(self, path: str | Path) -> EncryptedReader:
        """The content of a checkpoint as a file that ``torch.load`` and ``load_from_checkpoint`` take; close it.

        Raises:
            EncryptionError: By the name of what is wrong; reads raise it too.
            OSError: The file can't be read; the error names it.
        """
        carrier = self._carrier(path)
        source: str | Path | io.BytesIO = path if carrier is None else _unpacked(carrier, path)
        return EncryptedReader(source, self._ring, content=Content.CHECKPOINT)

    @override
    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove the file, if it is there."""
        (self._carrier(path) or TorchCheckpointIO()).remove_checkpoint(path)

    @override
    def teardown(self) -> None:
        """Let the inner plugin finish."""
        if self._inner is not None:
            self._inner.teardown()


def _unpacked(carrier: CheckpointIO, path: str | Path) -> io.BytesIO:
    """What the plugin stored for us."""
    carried: Any = carrier.load_checkpoint(path, map_location="cpu", weights_only=True)
    content = carried.get(_CARRIED) if isinstance(carried, dict) else None
    if not isinstance(content, torch.Tensor) or content.dtype != torch.uint8:
        raise CheckpointError(
            f"the checkpoint {path} is not an encrypted one: load it without EncryptedCheckpointIO, or resume from "
            "one that was saved with it"
        )
    return io.BytesIO(content.numpy().tobytes())


def _load(file: EncryptedReader, map_location: Any, path: str | Path, *, weights_only: bool) -> Any:
    try:
        return torch.load(cast(IO[bytes], file), map_location=map_location, weights_only=weights_only)
    except EncryptionError:
        raise
    except Exception as error:
        # A segment that was altered may reach us as an error of torch's.
        if file.failure is not None:
            raise file.failure from error
        cause = str(error).split(". ")[0].split("\n")[0] or type(error).__name__
        advice = (
            "if it holds objects of your own classes, pass weights_only=False, which runs code of whoever had the key"
            if weights_only
            else "it was not saved as Lightning does"
        )
        raise CheckpointError(f"the checkpoint {path} is authentic but can't be read ({cause}): {advice}") from error
