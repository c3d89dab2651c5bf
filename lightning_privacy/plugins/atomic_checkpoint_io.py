"""Checkpoints that are complete or not there.

A run may be killed, or its disk may fill, at any moment of a save. The file is therefore written beside its
final place, forced to the disk, and moved there in one step, so what stands under the name of a checkpoint
is always either the former one or the new one in full. A private run depends on it: the ledger of what was
spent is in it.

Example:
    >>> import pathlib, tempfile
    >>> from lightning_privacy.plugins import AtomicCheckpointIO
    >>> checkpoint = {"state_dict": {}, "pytorch-lightning_version": "2.6.0"}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "last.ckpt")
    ...     AtomicCheckpointIO().save_checkpoint(checkpoint, path)
    ...     AtomicCheckpointIO().load_checkpoint(path) == checkpoint, len(list(path.parent.iterdir()))
    (True, 1)
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from typing_extensions import override

from lightning_privacy._lightning import TorchCheckpointIO
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.plugins._launched_weights import REQUIRED_KEYS, LaunchedWeights
from lightning_privacy.security.atomic_file import AtomicFile
from lightning_privacy.security.header import MAGIC

__all__ = ["AtomicCheckpointIO", "as_saved", "is_remote", "not_written", "refuse_storage_options"]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Saves beside the final place and moves; refuses a corrupt or foreign file by name.

    Paths with a scheme, such as ``s3://``, are left to Lightning's own plugin, since object stores put whole
    objects in place.

    Raises:
        CheckpointError: From ``save_checkpoint`` when the disk is full or can't be written to, and from
            ``load_checkpoint`` when the file is not a complete checkpoint of a Lightning trainer.
        FileNotFoundError: From ``load_checkpoint`` when there is no such file.

    Example:
        >>> AtomicCheckpointIO().load_checkpoint("nowhere.ckpt")
        Traceback (most recent call last):
            ...
        FileNotFoundError: Checkpoint file not found: nowhere.ckpt
    """

    def __init__(self) -> None:
        super().__init__()
        self._launched = LaunchedWeights()

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write the checkpoint, or leave what is there as it is.

        Args:
            checkpoint: What ``Trainer.dump_checkpoint`` made, or weights that a launcher hands on.
            path: Where it goes; the folder is made when missing.
            storage_options: Not supported, as in Lightning's own plugin.

        Raises:
            CheckpointError: The file could not be written; the message names it and the cause.
            ConfigurationError: ``storage_options`` was given.
        """
        refuse_storage_options(storage_options)
        checkpoint = self._launched.packed(checkpoint, path)
        if is_remote(path):
            super().save_checkpoint(checkpoint, path)
            return
        # Serialised in memory first: an error of the disk then reaches us as the OSError it is.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        try:
            with AtomicFile(path) as file:
                file.write(buffer.getbuffer())
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
            weights_only: As in ``torch.load``.

        Returns:
            What ``save_checkpoint`` was given.

        Raises:
            CheckpointError: The file is corrupt, cut short or not a checkpoint of a Lightning trainer.
            FileNotFoundError: There is no such file.
        """
        try:
            checkpoint: Any = super().load_checkpoint(path, map_location=map_location, weights_only=weights_only)
        except Exception as error:
            if isinstance(error, FileNotFoundError) or (isinstance(error, OSError) and error.filename is not None):
                raise  # absent, or not readable by this user: the error names the path already
            if _is_encrypted(path):
                raise CheckpointError(
                    f"the checkpoint {path} is encrypted: go on with the key of the run that wrote it, by "
                    "EncryptedCheckpointIO(key), or by that run's overrides, which are in its .hydra/overrides.yaml"
                ) from error
            cause = str(error).split(". ")[0].split("\n")[0] or type(error).__name__
            raise CheckpointError(
                f"the checkpoint {path} can't be read ({cause}): it is damaged, incomplete or not a "
                "checkpoint at all; resume from another one, or start anew without ckpt_path"
            ) from error
        return as_saved(checkpoint, path, self._launched)


def _is_encrypted(path: str | Path) -> bool:
    if is_remote(path):
        return False
    with Path(path).open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def refuse_storage_options(storage_options: object) -> None:
    """Refuse what neither Lightning's own plugin nor these take.

    Raises:
        ConfigurationError: It is not None.
    """
    if storage_options is not None:
        raise ConfigurationError(f"storage_options must be None, got {storage_options!r}: set up the path instead")


def as_saved(checkpoint: Any, path: str | Path, launched: LaunchedWeights) -> dict[str, Any]:
    """Return what the plugin was given: a checkpoint of a Lightning trainer, or the weights a launcher of it handed on.

    Args:
        checkpoint: What was read.
        path: From where.
        launched: Of the plugin.

    Raises:
        CheckpointError: It is neither; the message names the file and what it lacks.
    """
    missing = [key for key in REQUIRED_KEYS if not isinstance(checkpoint, dict) or key not in checkpoint]
    if missing:
        raise CheckpointError(
            f"the checkpoint {path} was not written by a Lightning trainer (no {', no '.join(missing)}): "
            "resume from one that was, or load the weights into the model and start without ckpt_path"
        )
    loaded: dict[str, Any] = launched.unpacked(checkpoint, path)
    return loaded


def not_written(path: str | Path, error: OSError) -> CheckpointError:
    """The error of a save that the disk refused."""
    return CheckpointError(
        f"the checkpoint {path} could not be written ({error.strerror or error}): free space there "
        "or choose another folder; the checkpoint that was there before, if any, is unchanged"
    )


def is_remote(path: str | Path) -> bool:
    """Whether the path has a scheme, such as ``s3://``."""
    return "://" in str(path)
