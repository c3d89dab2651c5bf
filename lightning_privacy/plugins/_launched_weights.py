"""Weights that a process which trained hands to the program that started it, by way of the trainer's plugin.

With ``ddp_spawn``, ``ddp_fork`` and ``ddp_notebook`` Lightning's launcher gives the plugin a bare ``state_dict()`` at
the end of training, reads it back in the program and removes it. It is no checkpoint: a file like it that comes from
elsewhere is refused. The one of this fit is known by a token, which the processes have with their copy of the plugin.

Example:
    >>> weights = LaunchedWeights()
    >>> packed = weights.packed({"layer.bias": 1.0}, "/tmp/x/.temp.ckpt")
    >>> weights.unpacked(packed, "/tmp/x/.temp.ckpt")
    {'layer.bias': 1.0}
    >>> LaunchedWeights().unpacked(packed, "/tmp/x/.temp.ckpt")
    Traceback (most recent call last):
        ...
    lightning_privacy.errors.CheckpointError: /tmp/x/.temp.ckpt holds the weights that processes of another ...
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from lightning_privacy._lightning import LIGHTNING_VERSION
from lightning_privacy.errors import CheckpointError

__all__ = ["REQUIRED_KEYS", "LaunchedWeights"]

# Lightning reads these two before anything else; a file without them was not written by a Trainer.
REQUIRED_KEYS = ("state_dict", "pytorch-lightning_version")
_NAME = ".temp.ckpt"  # which Lightning's launchers give it, in a new folder
_TOKEN = "lightning_privacy_launched"  # noqa: S105 - the name of an entry


class LaunchedWeights:
    """Marks what a launcher writes, and knows it again; copies of it, in other processes too, know it as well."""

    def __init__(self) -> None:
        self._token = secrets.token_hex(16)

    def packed(self, checkpoint: dict[str, Any], path: str | Path) -> dict[str, Any]:
        """What is to be written: weights of a launcher with the token, anything else as it is.

        Args:
            checkpoint: What the plugin was given.
            path: Where it goes.
        """
        if Path(path).name != _NAME or all(key in checkpoint for key in REQUIRED_KEYS):
            return checkpoint
        return {"state_dict": checkpoint, "pytorch-lightning_version": LIGHTNING_VERSION, _TOKEN: self._token}

    def unpacked(self, checkpoint: Any, path: str | Path) -> Any:
        """What was given to :meth:`packed`.

        Args:
            checkpoint: What was read.
            path: From where.

        Raises:
            CheckpointError: It was written in another fit.
        """
        if not isinstance(checkpoint, dict) or _TOKEN not in checkpoint:
            return checkpoint
        token = checkpoint[_TOKEN]
        if not isinstance(token, str) or not secrets.compare_digest(token.encode(), self._token.encode()):
            raise CheckpointError(
                f"{path} holds the weights that processes of another fit left, and is no checkpoint: resume from one "
                "that a Lightning trainer wrote, or start anew without ckpt_path"
            )
        return checkpoint["state_dict"]
