"""Settings every test shares."""

from __future__ import annotations

import os
from collections.abc import Iterator

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
