"""Small files of text that are there in full or not at all.

For large files, locked ones and those for one reader there is :class:`~lightning_privacy.security.AtomicFile`.

Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "figures.json")
    ...     write_text(path, "{}")
    ...     path.read_text(), len(list(path.parent.iterdir()))
    ('{}', 1)
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

__all__ = ["write_text"]


def write_text(path: Path, text: str) -> None:
    """Write a file that is there in full or not at all, after a power failure too.

    Args:
        path: Of the file; its folder must exist. One that is there is replaced.
        text: Written as it is, in UTF-8. What can't be encoded, such as half a surrogate pair out of a foreign file,
            becomes a question mark.

    Raises:
        OSError: It can't be written; the old file, if any, is left.
    """
    # A name of its own, as several processes of a run may write the same file at a time.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("wb") as file:
            file.write(text.encode("utf-8", "replace"))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
