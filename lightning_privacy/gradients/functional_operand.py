"""Where the examples are in an operand of a function that is called with parameters and with the batch.

Where a probe found out, there; otherwise in the first dimension, which must have the rows of the batch.

Example:
    >>> import torch
    >>> recorder = Recorder(collector=None)
    >>> recorder.start(examples=4)
    >>> operand_layout(recorder, "mul of 'scale', operand 0", torch.zeros(4, 3)).dimension
    0
    >>> operand_layout(recorder, "mul of 'scale', operand 0", torch.zeros(()))
    Traceback (most recent call last):
        ...
    lightning_privacy.errors.UnsupportedError: mul of 'scale', operand 0: the batch of 4 rows is averaged (or summed)...
"""

from __future__ import annotations

from torch import Tensor

from lightning_privacy.errors import UnsupportedError
from lightning_privacy.gradients.layout import FIRST, Layout
from lightning_privacy.gradients.recorder import Recorder

__all__ = ["operand_layout"]


def operand_layout(recorder: Recorder, name: str, tensor: Tensor) -> Layout:
    """Return where the examples are in a tensor that was computed from the batch.

    Args:
        recorder: the sites' shared state.
        name: of the call and the operand.
        tensor: the operand.

    Raises:
        UnsupportedError: they are not where they should be.
    """
    layout = recorder.operand(name, tensor.shape)
    if recorder.seen is not None:
        return FIRST
    rows = recorder.expected_rows(name)
    if layout is not None and not layout.shared:
        return layout
    spread = layout.spread_already(tensor.shape, rows) if layout is not None else _has_rows(tensor, rows)
    # Beside a probe that did not see this call, only what a layer returned is told from a constant.
    if spread and (layout is not None or tensor.requires_grad or not recorder.layouts):
        return FIRST
    if tensor.dim() == 0:
        raise UnsupportedError(
            f"{name}: the batch of {rows} rows is averaged (or summed) already where the parameter meets it, so "
            "what each example does to the parameter can't be told. Average last: compute the losses of the "
            "examples (reduction='none'), multiply them by the parameter, then return .mean(); and use the "
            "optimizer's weight_decay in place of a penalty on parameters."
        )
    raise UnsupportedError(
        f"{name}: a tensor of shape {tuple(tensor.shape)} comes from a batch of {rows} rows, and a parameter "
        "is used with it; it must have the examples in its first dimension. Average over the examples last of all. "
        "Keep positions, patches or time steps in dimensions of their own, use the optimizer's weight_decay in "
        "place of a penalty on parameters in the loss, or train with probe=True, which finds out where the "
        "examples are."
    )


def _has_rows(tensor: Tensor, rows: int) -> bool:
    return tensor.dim() > 0 and tensor.shape[0] == rows
