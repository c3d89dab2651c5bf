"""Which process this is, so that the child of a fork never goes on with the keys of its parent.

Example:
    >>> this_process() == this_process()
    True
"""

from __future__ import annotations

import os

__all__ = ["this_process"]

_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


def this_process() -> tuple[int, int]:
    """Return the number of the process, and of the forks between it and the process that imported this.

    The second tells a child from an ancestor that has ended, whose number the system gave to the child.
    """
    return os.getpid(), _forks
