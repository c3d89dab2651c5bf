"""A file that knows how many private steps each client has paid for, even when the process is killed.

A checkpoint knows the rounds before it. A line is written before each round; a resumed run charges what the checkpoint
doesn't know. As with :class:`~lightning_privacy.accounting.LedgerJournal`, a line survives the end of the process, and
not a power failure.

Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     journal = ExampleJournal(Path(folder, "steps.jsonl"), "a1")
    ...     journal.record({3: 5, 8: 20})
    ...     journal.record({3: 10})
    ...     ExampleJournal.read(journal.path, "a1")
    {3: 10, 8: 20}
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from lightning_privacy.errors import CheckpointError

__all__ = ["ExampleJournal"]


class ExampleJournal:
    """Appends the totals of the clients of a round, before it.

    Args:
        path: The file; made when missing, continued when there.
        run_id: Names the run.
    """

    def __init__(self, path: str | os.PathLike[str], run_id: str) -> None:
        self.path = Path(path)
        self._run_id = run_id
        self._last_line_is_whole()

    def _last_line_is_whole(self) -> None:
        """Cut off a line whose writing was cut off: its round has not begun."""
        content = self.path.read_bytes() if self.path.exists() else b""
        if not content.endswith(b"\n"):
            self.path.write_bytes(content[: content.rfind(b"\n") + 1])

    def record(self, totals: Mapping[int, int]) -> None:
        """Append how many steps each of some clients will have taken.

        Args:
            totals: By client, over the whole run.

        Raises:
            OSError: The line can't be written; the round must not happen.
        """
        line = json.dumps({"run": self._run_id, "steps": {str(client): total for client, total in totals.items()}})
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            data = f"{line}\n".encode()
            if os.write(descriptor, data) != len(data):
                raise OSError(f"the journal {self.path} did not take a whole line; is the disk full?")
        finally:
            os.close(descriptor)

    @staticmethod
    def read(path: str | os.PathLike[str], run_id: str) -> dict[int, int]:
        """The largest total of each client of a run; nothing where there is no file.

        Raises:
            CheckpointError: A line is damaged, other than the end of a write that was cut off.
        """
        path = Path(path)
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        totals: dict[int, int] = {}
        for number, line in enumerate(lines, start=1):
            try:
                entry = json.loads(line)
                steps = {int(client): int(total) for client, total in entry["steps"].items()}
                run = entry["run"]
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                if number == len(lines):
                    break
                raise CheckpointError(
                    f"line {number} of the journal of private steps {path} is damaged: {line[:80]!r}. What was spent "
                    "is not known any more; restore the file, or count the run as not private"
                ) from error
            if run == run_id:
                for client, total in steps.items():
                    totals[client] = max(totals.get(client, 0), total)
        return totals
