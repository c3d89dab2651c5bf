"""Errors in place of failed assertions of an accelerator, after which nothing runs on it any more.

The independence probe tries values that the data may never have. A step that can't take them is to raise, as it does
on a CPU; on an accelerator an index out of range ends the process.

Example:
    >>> import torch
    >>> with CheckedValues():
    ...     torch.zeros(3)[torch.tensor([3])]
    Traceback (most recent call last):
        ...
    IndexError: an index is out of range: 3 of 3
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["CheckedValues"]


def _within(indices: Any, size: int, *, allowed: int | None = None) -> None:
    if not isinstance(indices, Tensor) or indices.dtype == torch.bool or indices.numel() == 0:
        return
    known = indices if allowed is None else indices[indices != allowed]
    for extreme in (known.min(), known.max()) if known.numel() else ():
        if not -size <= int(extreme) < size:
            raise IndexError(f"an index is out of range: {int(extreme)} of {size}")


def _several(arguments: Sequence[Any]) -> None:
    values, indices = arguments[0], arguments[1]
    for dimension, index in enumerate(indices):
        if isinstance(index, Tensor) and dimension < values.dim():
            _within(index, values.shape[dimension])


def _along(arguments: Sequence[Any]) -> None:
    values, dimension, indices = arguments[:3]
    if values.dim():
        _within(indices, values.shape[dimension])


def _classes(arguments: Sequence[Any]) -> None:
    scores, target = arguments[:2]
    ignored = arguments[4] if len(arguments) > 4 else -100
    _within(target, scores.shape[1 if scores.dim() > 1 else 0], allowed=ignored)


def _probabilities(arguments: Sequence[Any]) -> None:
    values = arguments[0]
    if isinstance(values, Tensor) and not bool((values >= 0).all()):
        raise ValueError("a probability is negative or not a number")


def _shares(arguments: Sequence[Any]) -> None:
    for values in arguments[:2]:
        if isinstance(values, Tensor) and not bool(((values >= 0) & (values <= 1)).all()):
            raise ValueError("a probability is not between 0 and 1")


_CHECKS: dict[str, Callable[[Sequence[Any]], None]] = {
    "aten::index": _several,
    "aten::index_put": _several,
    "aten::index_put_": _several,
    "aten::_index_put_impl_": _several,
    "aten::embedding": lambda arguments: _within(arguments[1], arguments[0].shape[0]),
    "aten::_embedding_bag": lambda arguments: _within(arguments[1], arguments[0].shape[0]),
    "aten::take": lambda arguments: _within(arguments[1], arguments[0].numel()),
    "aten::gather": _along,
    "aten::index_select": _along,
    "aten::index_add": _along,
    "aten::index_add_": _along,
    "aten::index_copy": _along,
    "aten::index_copy_": _along,
    "aten::index_fill_": _along,
    "aten::scatter": _along,
    "aten::scatter_": _along,
    "aten::scatter_add": _along,
    "aten::scatter_add_": _along,
    "aten::scatter_reduce": _along,
    "aten::nll_loss_forward": _classes,
    "aten::nll_loss2d_forward": _classes,
    "aten::binary_cross_entropy": _shares,
    "aten::multinomial": _probabilities,
    "aten::bernoulli": lambda arguments: _shares(arguments[:1]),
}


class CheckedValues(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks at indices, classes and probabilities before an operation takes them.

    Raises:
        IndexError: an index or a class is out of range.
        ValueError: a probability is none.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, function: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Check the arguments, and call the operation."""
        check = _CHECKS.get(function._schema.name)
        if check is not None:
            check(args)
        return function(*args, **(kwargs or {}))
