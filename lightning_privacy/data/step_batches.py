"""Batches of several processes that make up the batch of one step.

Example:
    >>> from lightning_privacy.data import DigitsDataModule
    >>> digits = DigitsDataModule(batch_size=256)
    >>> with step_batches(digits, processes=2):
    ...     digits.batch_size
    128
    >>> digits.batch_size
    256
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning_privacy._lightning import LightningDataModule

__all__ = ["step_batches"]


@contextmanager
def step_batches(datamodule: LightningDataModule, processes: int) -> Iterator[None]:
    """Let ``batch_size`` be that of a whole step, of which each process has its share.

    Lightning takes it for the batch of one process, so that more of them take fewer steps with larger batches. A
    private training shares out its batches itself.

    Args:
        datamodule: One with a ``batch_size``; others are left as they are.
        processes: That train together.
    """
    owner: Any = datamodule
    whole = getattr(owner, "batch_size", None)
    if not isinstance(whole, int) or processes == 1:
        yield
        return
    owner.batch_size = max(1, round(whole / processes))
    try:
        yield
    finally:
        owner.batch_size = whole
