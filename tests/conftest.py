"""Settings every test shares."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _single_thread():
    """One thread: the processes of pytest-xdist share the cores, and sums come out the same on every machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _environment_kept() -> Iterator[None]:
    """Leave no variable behind: Lightning's launcher sets LOCAL_RANK and does not unset it, and a script started later
    with that variable takes itself for one of several processes that somebody else starts, and waits for the others.
    """
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture
def eager_threads() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Runs a function in sixteen threads at once, which take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def run(function: Callable[[], object]) -> None:
        barrier = threading.Barrier(16)
        threads = [threading.Thread(target=lambda: (barrier.wait(), function())) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    yield run
    sys.setswitchinterval(interval)
