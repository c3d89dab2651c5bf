"""Settings every test shares."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _single_thread():
    """One thread: the processes of pytest-xdist share the cores, and sums come out the same on every machine."""
    torch.set_num_threads(1)
