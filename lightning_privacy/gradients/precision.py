"""Full float32 for norms and sums, whatever precision the network runs in.

Example:
    >>> import torch
    >>> with torch.autocast("cpu", dtype=torch.bfloat16), full_precision("cpu"):
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.float32
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

__all__ = ["full_precision"]


def full_precision(device: str) -> AbstractContextManager[object]:
    """Return a context in which matrix products and convolutions of float32 round like float32.

    Autocast is off in it, and so are the shortcuts (TF32, bfloat16) that ``torch.set_float32_matmul_precision`` and
    cuDNN allow: they round to three digits, and a norm that is too small by that much is a clipping bound that is
    passed by as much.

    Args:
        device: type of the device, such as ``"cuda"``.
    """
    autocast = torch.is_autocast_enabled(device)
    shortcuts = torch.get_float32_matmul_precision() != "highest" or (
        device == "cuda" and torch.backends.cudnn.allow_tf32
    )
    return _full_precision(device) if autocast or shortcuts else nullcontext()


@contextmanager
def _full_precision(device: str) -> Iterator[None]:
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
