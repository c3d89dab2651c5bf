"""Functions that are linear in a parameter: their result is listened to, as that of the layer of the same name.

A rule is called as ``rule(call)`` and returns what the function returns, or NotImplemented where the way in which the
parameter is used is not the layer's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_privacy.gradients.arrangements import Reshaped
from lightning_privacy.gradients.contributions import Contribution, Dense
from lightning_privacy.gradients.convolution import ConvContribution, ConvGeometry
from lightning_privacy.gradients.followed import Followed
from lightning_privacy.gradients.functional_operation import Operation
from lightning_privacy.gradients.functional_tables import named
from lightning_privacy.gradients.layout import Layout
from lightning_privacy.gradients.outer import Outer, Pair

__all__ = ["RULES", "Call"]

Normalise = Callable[[Tensor], Tensor]


class Call(Protocol):
    """A call of a function in which parameters meet the batch."""

    operation: Operation

    def bound(self, *names: str) -> Mapping[str, Any]:
        """Return the arguments by name; those that were not passed are missing."""

    def followed(self, value: Any) -> Followed | None:
        """Return what is known of an argument that was made of parameters alone."""

    def layout(self, value: Any) -> Layout | None:
        """Return where the examples are in an argument; None in one that has none."""

    def run(self) -> Any:
        """Call the function on detached parameters."""


def _positions(values: Tensor) -> Tensor:
    """Return ``(B, *, features)`` as ``(B, T, features)``."""
    return values.unsqueeze(1) if values.dim() == 2 else values.flatten(1, -2)


def _summed(values: Tensor, dimensions: int) -> Tensor:
    """Return ``(B, *, trailing)`` summed over all but the batch and the ``dimensions`` trailing ones."""
    between = list(range(1, values.dim() - dimensions))
    return torch.sum(values, between) if between else values


def _affine(call: Call, x: Any, weight: Any, bias: Any, *, shape: tuple[int, int], transposed: bool) -> Any:
    """Listen to ``x @ weight (+ bias)``; ``weight`` is ``(in, out)``, or ``(out, in)`` where it is transposed."""
    layout = call.layout(x)
    if layout is None or layout.dimension is None or layout.dimension >= x.dim() - 1 or call.layout(weight) is not None:
        return NotImplemented
    w, b = call.followed(weight), None if bias is None else call.followed(bias)
    if bias is not None and (call.layout(bias) is not None or (b is not None and bias.dim() != 1)):
        return NotImplemented
    if w is None and b is None:
        return NotImplemented

    def contributions(kept: Any, g: Tensor) -> list[tuple[Followed, Contribution]]:
        found: list[tuple[Followed, Contribution]] = []
        if w is not None:
            left, right = _positions(g), _positions(kept)
            pair = Pair(left, right) if transposed else Pair(right, left)
            found.append((w, Outer([pair], shape)))
        if b is not None:
            summed = _summed(g, 1)
            found.append((b, Dense(summed if b.graph.shape[0] == summed.shape[1] else summed.sum(1, keepdim=True))))
        return found

    kept = x.detach() if w is not None else ()
    return call.operation.listen(call.run(), kept, layout, [f for f in (w, b) if f is not None], contributions)


def _linear(call: Call) -> Any:
    arguments = call.bound("input", "weight", "bias")
    x, weight = arguments["input"], arguments["weight"]
    if weight.dim() != 2:
        return NotImplemented
    shape = (weight.shape[0], weight.shape[1])
    return _affine(call, x, weight, arguments.get("bias"), shape=shape, transposed=True)


def _matmul(call: Call) -> Any:
    arguments = call.bound("input", "other")
    x, weight = arguments["input"], arguments.get("other", arguments.get("mat2"))
    if not isinstance(weight, Tensor) or call.followed(weight) is None:
        return NotImplemented
    if weight.dim() == 1:
        return _matrix_vector(call, x, weight)
    if weight.dim() != 2:
        return NotImplemented
    return _affine(call, x, weight, None, shape=(weight.shape[0], weight.shape[1]), transposed=False)


def _matrix_vector(call: Call, x: Tensor, vector: Tensor) -> Any:
    layout, followed = call.layout(x), call.followed(vector)
    if layout is None or layout.dimension is None or layout.dimension >= x.dim() - 1 or followed is None:
        return NotImplemented

    def contributions(kept: Tensor, g: Tensor) -> list[tuple[Followed, Contribution]]:
        return [(followed, Dense(_summed(g.unsqueeze(-1) * kept, 1)))]

    return call.operation.listen(call.run(), x.detach(), layout, [followed], contributions)


def _addmm(call: Call) -> Any:
    arguments = call.bound("input", "mat1", "mat2")
    if arguments.get("alpha", 1) != 1 or arguments.get("beta", 1) != 1:
        return NotImplemented
    bias, x, weight = arguments["input"], arguments["mat1"], arguments["mat2"]
    return _affine(call, x, weight, bias, shape=(weight.shape[0], weight.shape[1]), transposed=False)


def _tuple(value: Any, length: int) -> tuple[int, ...]:
    return (int(value),) * length if isinstance(value, int) else tuple(int(each) for each in value)


def _conv(call: Call) -> Any:
    arguments = call.bound("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    x, weight, bias = arguments["input"], arguments["weight"], arguments.get("bias")
    layout = call.layout(x)
    if layout is None or layout.dimension != 0 or call.layout(weight) is not None or x.dim() != weight.dim():
        return NotImplemented
    spatial = weight.dim() - 2
    kernel = tuple(weight.shape[2:])
    dilation = _tuple(arguments.get("dilation", 1), spatial)
    padding = arguments.get("padding", 0)
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if any(total % 2 for total in totals):
            return NotImplemented
        padding = tuple(total // 2 for total in totals)
    padding = _tuple(0 if padding == "valid" else padding, spatial)
    if len(padding) == 1:
        padding *= spatial
    stride, groups = _tuple(arguments.get("stride", 1), spatial), arguments.get("groups", 1)
    geometry = ConvGeometry(kernel, stride * (spatial // len(stride)), dilation * (spatial // len(dilation)), groups)
    w, b = call.followed(weight), None if bias is None else call.followed(bias)
    if bias is not None and call.layout(bias) is not None:
        return NotImplemented

    def contributions(kept: Any, g: Tensor) -> list[tuple[Followed, Contribution]]:
        found: list[tuple[Followed, Contribution]] = []
        if w is not None:
            found.append((w, ConvContribution(kept, g, tuple(w.graph.shape), geometry, padding)))
        if b is not None:
            found.append((b, Dense(g.flatten(2).sum(2))))
        return found

    kept = x.detach() if w is not None else ()
    return call.operation.listen(call.run(), kept, layout, [f for f in (w, b) if f is not None], contributions)


def _lookup(call: Call, indices: Any, table: Any, padding_idx: int | None) -> Any:
    """Listen to ``table[indices]``, the rows of a parameter."""
    layout, followed = call.layout(indices), call.followed(table)
    if layout is None or layout.dimension is None or followed is None:
        return NotImplemented
    if indices.dtype not in (torch.int32, torch.int64) or indices.dim() == 0:
        return NotImplemented
    entries, shape = table.shape[0], tuple(table.shape)
    width = table[0].numel()

    def contributions(kept: Tensor, g: Tensor) -> list[tuple[Followed, Contribution]]:
        rows = (kept.flatten(1) if kept.dim() > 1 else kept.unsqueeze(1)).long() % entries
        gradient = g.reshape(*rows.shape, width)
        if padding_idx is not None:
            gradient = gradient.masked_fill((rows == padding_idx % entries).unsqueeze(2), 0)
        looked_up = Outer([Pair(rows, gradient)], (entries, width))
        return [(followed, looked_up if len(shape) == 2 else Reshaped(looked_up, (entries, width), shape))]

    return call.operation.listen(call.run(), indices, layout, [followed], contributions)


def _embedding(call: Call) -> Any:
    names = ("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")
    arguments = call.bound(*names)
    if arguments.get("max_norm") is not None or arguments.get("scale_grad_by_freq") or arguments.get("sparse"):
        return NotImplemented
    return _lookup(call, arguments["input"], arguments["weight"], arguments.get("padding_idx"))


def _getitem(call: Call) -> Any:
    arguments = call.bound("input", "index")
    index = arguments["index"]
    if isinstance(index, tuple) and len(index) == 1:
        index = index[0]
    return _lookup(call, index, arguments["input"], None) if isinstance(index, Tensor) else NotImplemented


def _index_select(call: Call) -> Any:
    arguments = call.bound("input", "dim", "index")
    if arguments["dim"] % arguments["input"].dim() != 0:
        return NotImplemented
    return _lookup(call, arguments["index"], arguments["input"], None)


def _norm(
    call: Call, arguments: Mapping[str, Any], layout: Layout, normalise: Normalise, summed: Callable[[Tensor], Tensor]
) -> Any:
    """Listen to ``normalise(input) * weight + bias``.

    Args:
        call: the call.
        arguments: its ``input``, ``weight`` and ``bias``.
        layout: where the examples are in the input.
        normalise: the function without its parameters.
        summed: adds a gradient up over what shares one entry of a parameter, ``(B, *shape of the parameter)``.
    """
    x, weight, bias = arguments["input"], arguments.get("weight"), arguments.get("bias")
    if any(value is not None and call.layout(value) is not None for value in (weight, bias)):
        return NotImplemented
    w, b = (None if value is None else call.followed(value) for value in (weight, bias))

    def contributions(kept: Tensor, g: Tensor) -> list[tuple[Followed, Contribution]]:
        found: list[tuple[Followed, Contribution]] = []
        if w is not None:
            found.append((w, Dense(summed(g * normalise(kept)))))
        if b is not None:
            found.append((b, Dense(summed(g))))
        return found

    return call.operation.listen(call.run(), x.detach(), layout, [f for f in (w, b) if f is not None], contributions)


def _trailing_norm(call: Call, arguments: Mapping[str, Any], trailing: int, normalise: Normalise) -> Any:
    """Listen to a norm whose parameters are over the ``trailing`` last dimensions."""
    x = arguments["input"]
    layout = call.layout(x)
    if layout is None or layout.dimension is None or layout.dimension >= x.dim() - trailing:
        return NotImplemented
    return _norm(call, arguments, layout, normalise, lambda values: _summed(values, trailing))


def _layer_norm(call: Call) -> Any:
    arguments = call.bound("input", "normalized_shape", "weight", "bias", "eps")
    shape, eps = list(arguments["normalized_shape"]), arguments.get("eps", 1e-5)
    return _trailing_norm(call, arguments, len(shape), lambda x: F.layer_norm(x, shape, eps=eps))


def _rms_norm(call: Call) -> Any:
    arguments = call.bound("input", "normalized_shape", "weight", "eps")
    shape, eps = list(arguments["normalized_shape"]), arguments.get("eps")
    return _trailing_norm(call, arguments, len(shape), lambda x: F.rms_norm(x, shape, eps=eps))


def _group_norm(call: Call) -> Any:
    arguments = call.bound("input", "num_groups", "weight", "bias", "eps")
    groups, eps = arguments["num_groups"], arguments.get("eps", 1e-5)
    layout = call.layout(arguments["input"])
    if layout is None or layout.dimension != 0:
        return NotImplemented
    return _norm(call, arguments, layout, lambda x: F.group_norm(x, groups, eps=eps), _channels)


def _channels(values: Tensor) -> Tensor:
    return values if values.dim() == 2 else values.flatten(2).sum(2)


RULES: dict[Any, Callable[[Call], Any]] = {
    **dict.fromkeys(named("linear", variants=False), _linear),
    **dict.fromkeys(
        {torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm, torch.mv, Tensor.mv}, _matmul
    ),
    **dict.fromkeys(named("addmm", variants=False), _addmm),
    **dict.fromkeys(named("conv1d", "conv2d", "conv3d", variants=False), _conv),
    **dict.fromkeys({F.embedding}, _embedding),
    **dict.fromkeys({Tensor.__getitem__}, _getitem),
    **dict.fromkeys(named("index_select", variants=False), _index_select),
    **dict.fromkeys({F.layer_norm, torch.layer_norm}, _layer_norm),
    **dict.fromkeys({F.rms_norm, torch.rms_norm}, _rms_norm),
    **dict.fromkeys({F.group_norm}, _group_norm),
}
"""Functions and their rules."""
