"""A key that is made at its first use and found again afterwards.

For a machine on which nobody has made a key yet: what is encrypted there from now on can be read there again, and by
nobody who has the encrypted files alone. Whoever has the key's file can read them, so it belongs in no backup and no
repository together with them.

Example:
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "keys", "store.key")
    ...     kept_key(path) == kept_key(path)
    True
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from lightning_privacy.security.keys import Key

__all__ = ["kept_key"]


def kept_key(path: str | Path) -> Key:
    """The key in a file that only its owner can read; a new one, kept there, when there is no such file.

    Processes that ask at the same time get the same key.

    Args:
        path: The file; its folder is made when missing.

    Raises:
        ConfigurationError: Others than the owner may read or write the file, or it holds no key.
        OSError: It can't be read or written; the error names it.
    """
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Kept: taking it away would let a third process lock a file that the second one no longer sees.
    lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            Key.generate().save(path)
    finally:
        os.close(lock)
    return Key.from_file(path)
