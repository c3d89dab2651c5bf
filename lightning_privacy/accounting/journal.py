"""A file that knows of every charge even when the process is killed.

A checkpoint holds the ledger as it was when it was written. Steps taken after it are spent all the same, also if the
process dies before the next one. The journal is written before each release, so a resumed run can charge what the
checkpoint does not know.

A line is one :func:`os.write` to a file opened for appending: it is in the kernel's hands when the call returns and
survives SIGKILL of the process. It is not forced to disk at every step, so a power failure may lose the last seconds.

Example:
    >>> import tempfile
    >>> from pathlib import Path
    >>> from lightning_privacy.accounting.journal import LedgerJournal
    >>> from lightning_privacy.accounting.releases import SampledGaussian
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "charges.jsonl"
    ...     with LedgerJournal(path, run_id="a1") as journal:
    ...         for step in range(3):
    ...             journal.record(SampledGaussian(1.0, 0.01), total_count=step + 1)
    ...     LedgerJournal.read(path, run_id="a1")
    [(SampledGaussian(noise_multiplier=1.0, sample_rate=0.01), 3)]
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from lightning_privacy._validate import positive_int
from lightning_privacy.accounting.ledger import PrivacyLedger
from lightning_privacy.accounting.releases import Release, release_from_dict
from lightning_privacy.errors import CheckpointError, ConfigurationError

__all__ = ["LedgerJournal", "missing_charges"]


class LedgerJournal:
    """Appends how often each release has happened, before it happens.

    The file is opened at once, so that a folder that cannot be written to fails before training and not in it.

    Args:
        path: the file; made when missing, continued when there.
        run_id: names the run whose charges these are; runs with other names may share the file.

    Raises:
        OSError: if the file cannot be opened for appending; the message names it.
        ConfigurationError: if ``run_id`` is empty.
    """

    def __init__(self, path: str | os.PathLike[str], run_id: str) -> None:
        if not isinstance(run_id, str) or not run_id:
            raise ConfigurationError(f"run_id must be a text that names the run, got {run_id!r}")
        self.path = Path(path)
        self.run_id = run_id
        self._descriptor: int | None = None
        try:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            self._mend()
        except OSError as error:
            self.close()
            raise _explained(error, self.path) from error

    def record(self, release: Release, total_count: int) -> None:
        """Append that the release has, with the one about to happen, happened so many times.

        Args:
            release: what is about to be released.
            total_count: how often it will have happened then, over the whole run.

        Raises:
            OSError: if the line cannot be written (disk full, file system read-only); the message names the file,
                and the release must not happen.
            ConfigurationError: if the count is not a whole number of at least 1.
        """
        total_count = positive_int(total_count=total_count)
        line = json.dumps({"run": self.run_id, "release": release.to_dict(), "total": total_count})
        self._write(f"{line}\n".encode())

    def note(self, caveat: str) -> None:
        """Append a caveat of the ledger.

        Args:
            caveat: the sentence.

        Raises:
            OSError: as in :meth:`record`.
        """
        line = json.dumps({"run": self.run_id, "caveat": caveat})
        self._write(f"{line}\n".encode())

    @staticmethod
    def caveats(path: str | os.PathLike[str], run_id: str) -> list[str]:
        """The caveats of a run, each once; lines that are none are passed over, :meth:`read` looks at those.

        Args:
            path: the file; a missing one has none.
            run_id: the run.

        Raises:
            OSError: if the file is there and cannot be read.
        """
        try:
            lines = Path(path).read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        found = [caveat for caveat in map(_caveat, lines) if caveat is not None]
        return list(dict.fromkeys(text for run, text in found if run == run_id))

    @staticmethod
    def read(path: str | os.PathLike[str], run_id: str) -> list[tuple[Release, int]]:
        """What the journal knows of a run.

        Args:
            path: the file; a missing one is an empty journal.
            run_id: the run.

        Returns:
            Each kind of release with the largest total recorded, in the order of first appearance.

        Raises:
            CheckpointError: if a line is damaged, other than the end of a write that was cut off.
            OSError: if the file is there and cannot be read; the message names it.
        """
        path = Path(path)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _explained(error, path) from error
        totals: dict[Release, int] = {}
        lines = content.split(b"\n")
        for number, line in enumerate(lines, start=1):
            entry = _entry(line)
            if entry is None and _caveat(line) is not None:
                continue
            if entry is None:
                # After the last newline there is nothing, or a line whose write was cut off: not yet released.
                if number == len(lines):
                    break
                raise CheckpointError(
                    f"line {number} of the ledger journal {path} is damaged: {line[:80]!r}. What was spent is not "
                    f"known any more; restore the file, or count the run as not private."
                )
            run, release, total = entry
            if run == run_id:
                totals[release] = max(totals.get(release, 0), total)
        return list(totals.items())

    def close(self) -> None:
        """Close the file; done twice does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> LedgerJournal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        if self._descriptor is None:
            raise ValueError(f"the ledger journal {self.path} is closed")
        try:
            written = os.write(self._descriptor, line)
        except OSError as error:
            raise _explained(error, self.path) from error
        if written != len(line):
            self._mend()
            raise OSError(f"the ledger journal {self.path} took {written} of {len(line)} bytes; is the disk full?")

    def _mend(self) -> None:
        """Give the file an end on which a line can follow, if a write was cut off there."""
        if self._descriptor is None:
            return
        content = self.path.read_bytes()
        tail = content[content.rfind(b"\n") + 1 :]
        if not tail:
            return
        if _entry(tail) is None and _caveat(tail) is None:
            os.ftruncate(self._descriptor, len(content) - len(tail))
        else:
            os.write(self._descriptor, b"\n")


def _entry(line: bytes) -> tuple[str, Release, int] | None:
    """Run, release and total of a line, or None where it is not one."""
    try:
        values = json.loads(line)
        run, total, release = values["run"], values["total"], release_from_dict(values["release"])
    except (ValueError, TypeError, KeyError):
        # ConfigurationError, for a release that is none, is a ValueError too.
        return None
    whole = isinstance(total, int) and not isinstance(total, bool) and total >= 1
    return (run, release, total) if isinstance(run, str) and whole else None


def _caveat(line: bytes) -> tuple[str, str] | None:
    """Run and text of a line that is a caveat."""
    try:
        values = json.loads(line)
        run, text = values["run"], values["caveat"]
    except (ValueError, TypeError, KeyError):
        return None
    return (run, text) if isinstance(run, str) and isinstance(text, str) else None


def _explained(error: OSError, path: Path) -> OSError:
    """The same kind of error with the file and the way out in its message."""
    text = (
        f"the ledger journal {path} cannot be used: {error.strerror or error}. It records every charge before the "
        f"release; make room, or put the run folder where it can be written."
    )
    return type(error)(error.errno, text) if error.errno is not None else type(error)(text)


def missing_charges(ledger: PrivacyLedger, entries: Iterable[tuple[Release, int]]) -> list[tuple[Release, int]]:
    """What a journal knows of and a restored ledger does not.

    Args:
        ledger: the ledger as the checkpoint gave it.
        entries: what :meth:`LedgerJournal.read` gave.

    Returns:
        Each release with how often it must still be charged; empty when the ledger knows everything.

    Example:
        >>> from lightning_privacy.accounting.releases import LaplaceRelease
        >>> ledger = PrivacyLedger(delta=1e-5)
        >>> ledger.charge(LaplaceRelease(0.1), count=2)
        >>> missing_charges(ledger, [(LaplaceRelease(0.1), 5)])
        [(LaplaceRelease(epsilon=0.1), 3)]
    """
    return [(release, total - ledger.count(release)) for release, total in entries if total > ledger.count(release)]
