"""Files that are complete or not there.

What is written goes to a file beside the final place, is forced to the disk, and is moved there in one step: whatever
happens in between, the name stands for the former file or for the new one in full.

Example:
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "table")
    ...     with AtomicFile(path) as file:
    ...         _ = file.write(b"new")
    ...         before = path.exists()
    ...     before, path.read_bytes(), len(list(path.parent.iterdir()))
    (False, b'new', 1)
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from lightning_privacy.security.errors import EncryptionError

__all__ = ["AtomicFile", "sync_folder"]

# Larger writes take the kernel longer, not shorter: three times as long at 1 MiB on ext4.
_AT_ONCE = 1 << 18


class AtomicFile:
    """A file that gets its name when it is complete.

    As a context manager it is committed at the end, or aborted if an exception leaves the block.

    Args:
        path: Its name; the folder is made when missing. A link of that name is replaced, not followed.
        mode: Permissions of the new file, from which the process's mask is taken.

    Raises:
        EncryptionError: Another process or thread is writing this file at the moment.
        OSError: The folder or file can't be made; the error names it.
    """

    def __init__(self, path: str | Path, *, mode: int = 0o666) -> None:
        self.path = Path(path)
        # One name, not a random one: what a killed process leaves is overwritten by the next.
        self._partial = self.path.with_name(f"{self.path.name}.partial")
        self._descriptor = -1
        # A child made by fork holds a copy of this object, which must not remove the parent's file.
        self._process = os.getpid()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = self._locked(mode)
        with self._named_errors():
            os.ftruncate(self._descriptor, 0)
            if not mode & 0o077:
                os.fchmod(self._descriptor, mode)  # what a killed process left may be open to others

    def _locked(self, mode: int) -> int:
        """A descriptor of the partial file, locked for us alone."""
        while True:
            descriptor = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever held the lock may have moved the file away between our opening and locking it.
                if os.path.samestat(os.fstat(descriptor), self._partial.stat()):
                    return descriptor
            except BlockingIOError:
                os.close(descriptor)
                raise EncryptionError(
                    f"{self.path} is being written by another process or thread: wait for it, or choose another name"
                ) from None
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def write(self, content: bytes | bytearray | memoryview) -> int:
        """Append all of it; returns how much that is.

        Raises:
            OSError: The disk is full or can't be written to; the error names the file.
        """
        rest = memoryview(content)
        with self._named_errors():
            while rest:
                rest = rest[os.write(self._descriptor, rest[:_AT_ONCE]) :]
        return len(content)

    def commit(self) -> None:
        """Force the content to the disk and give it its name.

        Raises:
            OSError: It could not be; what was there before is unchanged.
        """
        try:
            with self._named_errors():
                os.fsync(self._descriptor)
            self._partial.replace(self.path)
        except BaseException:
            self.abort()
            raise
        self._close()
        sync_folder(self.path.parent)

    def abort(self) -> None:
        """Leave what was there before; nothing after a commit."""
        if self._descriptor >= 0 and self._process == os.getpid():
            with contextlib.suppress(OSError):
                self._partial.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        """An error of a descriptor knows no path; ours names the file it is about."""
        try:
            yield
        except OSError as error:
            if error.errno is None or error.filename is not None:
                raise
            raise OSError(error.errno, os.strerror(error.errno), str(self.path)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.abort()

    def __del__(self) -> None:
        # A file that was dropped, not closed, is not complete.
        if hasattr(self, "_descriptor"):
            self.abort()


def sync_folder(folder: Path) -> None:
    """Force the folder's entries to the disk, so that a move too survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems can't; there the move is as safe as they make it.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
