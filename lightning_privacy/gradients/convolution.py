"""Per-example gradients of convolution weights, for any number of spatial dimensions.

The weight gradient of example i is the correlation of its input with its output gradient. Two ways to its norm:

- **Instantiate** by one grouped weight-gradient kernel: fold the batch into the channel groups, so that group
  ``(i, j)`` sees only channel group j of example i. The vendor's own kernel then returns all per-example gradients
  at about the price of the ordinary weight gradient, with no unfolded copy of the input. Inputs of few channels are
  unfolded instead (one strided copy, one batched product). Both in parts of the batch that stay in cache.
- **Gram matrices**: with ``A_t`` the input patch at output position t and ``G_t`` the output gradient there,
  ``||sum_t G_t A_t^T||^2 = sum_ts <A_t, A_s> <G_t, G_s>`` (Li et al. 2022, section 4; Bu et al. 2022, "Scalable and
  Efficient Training of Large Convolutional Neural Networks with Differential Privacy", section 3). Patches need not
  be unfolded for it: ``<A_t, A_s>`` is the Gram matrix of the padded input's pixels summed along its diagonals over
  the kernel's offsets. Cheap where few positions carry many channels, the late layers of a network.

Gradients that take much more memory than input and output gradient are instantiated for their norms only; the sum
is then one more ordinary weight gradient.

Example:
    >>> import torch
    >>> geometry = ConvGeometry(kernel=(3,), stride=(1,), dilation=(1,), groups=1)
    >>> x, g = torch.ones(2, 1, 5), torch.ones(2, 4, 3)
    >>> ConvContribution(x, g, (4, 1, 3), geometry).squared_norms().round()
    tensor([108., 108.])
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod

import torch
from torch import Tensor

from lightning_privacy.gradients.contributions import Contribution, Dense, examples_at_once, has_cheap_sync
from lightning_privacy.gradients.outer import checked_gram_norms

__all__ = ["ConvContribution", "ConvGeometry", "conv_gram_norms", "per_example_conv_gradients"]

# Measured on x86 with oneDNN: the grouped kernel reaches most of the ordinary one's rate on rows of at least this
# many outputs, and a fraction of it on shorter ones.
_WIDE_ROW = 14
_SHORT_ROW_SLOWDOWN = 5.0
# In multiply-adds: writing, norm and sum of an element; adding one element of a strided window.
_MEMORY_COST = 25.0
_WINDOW_COST = 150.0
_MAX_ELEMENTS = 2**26
# Inputs of at most so many channels are unfolded: the grouped kernel is at half its rate on them.
_FEW_CHANNELS = 4
# All instantiated gradients are kept if they take no more than so many times what they replace.
_KEPT_SHARE = 1.25


@dataclass(frozen=True, slots=True)
class ConvGeometry:
    """Shape parameters of a convolution whose input is padded already.

    Args:
        kernel: kernel size per spatial dimension.
        stride: stride per spatial dimension.
        dilation: spacing of the kernel's taps per spatial dimension.
        groups: number of channel groups.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def _weight_gradient(
    x: Tensor,
    g: Tensor,
    shape: tuple[int, ...],
    geometry: ConvGeometry,
    padding: tuple[int, ...],
    groups: int,
) -> Tensor:
    # Only the weight's shape and dtype matter to the kernel. Memory that is never written costs nothing on a CPU; an
    # expanded scalar would be copied to full size.
    weight = x.new_empty(shape)
    spatial = len(geometry.kernel)
    gradient: Tensor = torch.ops.aten.convolution_backward(
        g,
        x,
        weight,
        None,
        list(geometry.stride),
        list(padding),
        list(geometry.dilation),
        False,
        [0] * spatial,
        groups,
        (False, True, False),
    )[1]
    return gradient


def per_example_conv_gradients(
    x: Tensor,
    g: Tensor,
    shape: tuple[int, ...],
    geometry: ConvGeometry,
    padding: tuple[int, ...],
    rows_each: int = 1,
) -> Tensor:
    """Return the weight gradient of every example.

    Args:
        x: input, ``(B * rows_each, C_in, *spatial_in)``.
        g: output gradient, ``(B * rows_each, C_out, *spatial_out)``.
        shape: the weight's shape, ``(C_out, C_in / groups, *kernel)``.
        geometry: stride, dilation and groups.
        padding: zeros implied on both sides of each spatial dimension.
        rows_each: images (views, frames) of one example, next to each other; their gradients are added up, by the
            kernel's own sum over its batch, so that memory doesn't depend on their number.

    Returns:
        ``(B, *shape)``.
    """
    batch = x.shape[0] // rows_each
    unfold = rows_each == 1 and _unfolding_is_cheaper(x)
    columns = prod(shape[1:]) * geometry.groups * prod(g.shape[2:])  # of an unfolded input
    step = examples_at_once(max(prod(shape), columns if unfold else 0), x.device)
    if 0 < batch <= step:
        return _instantiated(x, g, shape, geometry, padding, rows_each, unfold=unfold)
    gradients = x.new_empty(batch, *shape)
    for start in range(0, batch, step):
        rows = slice(start * rows_each, (start + step) * rows_each)
        part = _instantiated(x[rows], g[rows], shape, geometry, padding, rows_each, unfold=unfold)
        gradients[start : start + step] = part
    return gradients


def _unfolding_is_cheaper(x: Tensor) -> bool:
    # Grouped kernels of accelerators take the groups one after the other.
    return x.shape[1] <= _FEW_CHANNELS or not has_cheap_sync(x.device)


def _instantiated(
    x: Tensor,
    g: Tensor,
    shape: tuple[int, ...],
    geometry: ConvGeometry,
    padding: tuple[int, ...],
    rows_each: int,
    *,
    unfold: bool,
) -> Tensor:
    """Return the weight gradients of some examples at once; arguments as in :func:`per_example_conv_gradients`."""
    batch = x.shape[0] // rows_each
    if unfold:
        # Products in this order have the longer side in front, which vendors' kernels prefer.
        columns = _unfolded(x, g.shape[2:], geometry, padding)
        products = torch.bmm(columns, g.reshape(batch * geometry.groups, -1, columns.shape[2]).transpose(1, 2))
        return products.transpose(1, 2).reshape(batch, *shape)
    if rows_each > 1:
        x = x.reshape(batch, rows_each, *x.shape[1:]).transpose(0, 1)
        g = g.reshape(batch, rows_each, *g.shape[1:]).transpose(0, 1)
    folded = _weight_gradient(
        x.reshape(rows_each, batch * x.shape[-len(geometry.kernel) - 1], *x.shape[-len(geometry.kernel) :]),
        g.reshape(rows_each, batch * g.shape[-len(geometry.kernel) - 1], *g.shape[-len(geometry.kernel) :]),
        (batch * shape[0], *shape[1:]),
        geometry,
        padding,
        batch * geometry.groups,
    )
    return folded.view(batch, *shape)


def _padded(x: Tensor, padding: tuple[int, ...]) -> Tensor:
    if not any(padding):
        return x
    return torch.nn.functional.pad(x, [size for pad in reversed(padding) for size in (pad, pad)])


def _unfolded(x: Tensor, spatial_out: torch.Size, geometry: ConvGeometry, padding: tuple[int, ...]) -> Tensor:
    """Return the input patches of all positions, ``(B * groups, C_in / groups * kernel, positions)``."""
    x = _padded(x, padding).contiguous()
    channels = x.shape[1] // geometry.groups
    strides = x.stride()
    size = (x.shape[0] * geometry.groups, channels, *geometry.kernel, *spatial_out)
    taps = [stride * dilation for stride, dilation in zip(strides[2:], geometry.dilation, strict=True)]
    moves = [stride * move for stride, move in zip(strides[2:], geometry.stride, strict=True)]
    windows = x.as_strided(size, (channels * strides[1], strides[1], *taps, *moves))
    return windows.reshape(size[0], channels * prod(geometry.kernel), prod(spatial_out))


def _patches(x: Tensor, spatial_out: torch.Size, geometry: ConvGeometry, padding: tuple[int, ...]) -> Tensor:
    """Return the patch of each position, ``(B, positions, kernel * C_in)``; channels last, which copies faster."""
    x = _padded(x, padding).movedim(1, -1).contiguous()
    strides = x.stride()
    size = (x.shape[0], *spatial_out, *geometry.kernel, x.shape[-1])
    taps = [stride * dilation for stride, dilation in zip(strides[1:-1], geometry.dilation, strict=True)]
    moves = [stride * move for stride, move in zip(strides[1:-1], geometry.stride, strict=True)]
    windows = x.as_strided(size, (strides[0], *moves, *taps, 1))
    return windows.reshape(size[0], prod(spatial_out), prod(geometry.kernel) * x.shape[-1])


def conv_gram_norms(x: Tensor, g: Tensor, geometry: ConvGeometry, padding: tuple[int, ...]) -> Tensor:
    """Return the squared norm of every example's weight gradient from pixel Gram matrices.

    Arguments as in :func:`per_example_conv_gradients`; returns shape ``(B,)``.
    """
    batch, groups = x.shape[0], geometry.groups
    if batch == 0:
        return g.new_zeros(0)
    pixels_each = prod(size + 2 * pad for size, pad in zip(x.shape[2:], padding, strict=True))
    step = examples_at_once(groups * pixels_each**2, x.device)
    if batch > step:
        parts = zip(torch.split(x, step), torch.split(g, step), strict=True)
        return torch.cat([conv_gram_norms(part, gradient, geometry, padding) for part, gradient in parts])
    x = _padded(x, padding)
    spatial_in, spatial_out = x.shape[2:], g.shape[2:]
    pixels = x.reshape(batch * groups, x.shape[1] // groups, -1)
    outputs = g.reshape(batch * groups, g.shape[1] // groups, -1)
    pixel_gram = torch.bmm(pixels.transpose(1, 2), pixels).view(-1, *spatial_in, *spatial_in)
    output_gram = torch.bmm(outputs.transpose(1, 2), outputs)
    patch_gram: Tensor | None = None
    for offsets in product(*(range(size) for size in geometry.kernel)):
        window = tuple(
            slice(offset * dilation, offset * dilation + stride * (size - 1) + 1, stride)
            for offset, dilation, stride, size in zip(
                offsets, geometry.dilation, geometry.stride, spatial_out, strict=True
            )
        )
        shifted = pixel_gram[(slice(None), *window, *window)]
        patch_gram = shifted.clone() if patch_gram is None else patch_gram.add_(shifted)
    if patch_gram is None:
        raise ValueError("a convolution kernel needs at least one tap")
    positions = prod(spatial_out)
    patch_gram = patch_gram.reshape(-1, positions, positions)
    norms = torch.bmm(patch_gram.view(-1, 1, positions**2), output_gram.view(-1, positions**2, 1))
    lengths = patch_gram.diagonal(dim1=1, dim2=2) * output_gram.diagonal(dim1=1, dim2=2)
    # Channel groups are blocks of the gradient, so their squares add up.
    reach = lengths.sqrt().sum(1).square().view(batch, groups).sum(1).sqrt()

    def instantiated(chosen: Tensor) -> Tensor:
        shape = (g.shape[1], x.shape[1] // groups, *geometry.kernel)
        padded = (0,) * len(geometry.kernel)
        return Dense(per_example_conv_gradients(x[chosen], g[chosen], shape, geometry, padded)).squared_norms()

    return checked_gram_norms(norms.view(batch, groups).sum(1), reach, instantiated)


class ConvContribution(Contribution):
    """Per-example gradients of a convolution's weight.

    Args:
        x: input, ``(B, C_in, *spatial_in)``.
        g: output gradient, ``(B, C_out, *spatial_out)``.
        shape: the weight's shape.
        geometry: kernel size, stride, dilation and groups.
        padding: zeros implied on both sides of each spatial dimension; default none.
        rows_each: images of one example, next to each other in ``x`` and ``g``.
    """

    def __init__(
        self,
        x: Tensor,
        g: Tensor,
        shape: tuple[int, ...],
        geometry: ConvGeometry,
        padding: tuple[int, ...] | None = None,
        rows_each: int = 1,
    ) -> None:
        self.x, self.g = x, g
        self.rows_each = rows_each
        self.shape, self.geometry = shape, geometry
        self.padding = padding or (0,) * len(geometry.kernel)
        self._instantiated: Dense | None = None

    def squared_norms(self) -> Tensor:
        """See :meth:`Contribution.squared_norms`."""
        if not self._instantiation_is_cheaper():
            return conv_gram_norms(self.x, self.g, self.geometry, self.padding)
        if not self._fits():
            return self._norms_in_parts()
        self._instantiated = Dense(self.per_example())
        del self.x, self.g
        return self._instantiated.squared_norms()

    def add_weighted_sum(self, out: Tensor, weights: Tensor) -> None:
        """See :meth:`Contribution.add_weighted_sum`."""
        if self._instantiated is not None:
            self._instantiated.add_weighted_sum(out, weights)
        elif self.x.shape[0] > 0:
            weights = weights.repeat_interleave(self.rows_each) if self.rows_each > 1 else weights
            scaled = self.g * weights.view(-1, *([1] * (self.g.dim() - 1)))
            out.add_(_weight_gradient(self.x, scaled, self.shape, self.geometry, self.padding, self.geometry.groups))

    def per_example(self) -> Tensor:
        """See :meth:`Contribution.per_example`."""
        if self._instantiated is not None:
            return self._instantiated.values
        return per_example_conv_gradients(self.x, self.g, self.shape, self.geometry, self.padding, self.rows_each)

    def folded(self, rows_each: int) -> ConvContribution:
        """Return the contribution of examples that have ``rows_each`` rows of this one each, next to each other."""
        rows_each *= self.rows_each
        return ConvContribution(self.x, self.g, self.shape, self.geometry, self.padding, rows_each)

    def without(self, rejected: Tensor) -> Contribution:
        """See :meth:`Contribution.without`."""
        if self._instantiated is not None:
            return self._instantiated.without(rejected)
        rejected = rejected.repeat_interleave(self.rows_each) if self.rows_each > 1 else rejected
        rows = rejected.view(-1, *([1] * (self.x.dim() - 1)))
        x, g = self.x.masked_fill(rows, 0), self.g.masked_fill(rows, 0)
        return ConvContribution(x, g, self.shape, self.geometry, self.padding, self.rows_each)

    def tensors(self) -> list[Tensor]:
        """See :meth:`Contribution.tensors`."""
        return [self.x, self.g] if self._instantiated is None else self._instantiated.tensors()

    def _fits(self) -> bool:
        """Return whether all instantiated gradients take about the memory of input and output gradient."""
        instantiated = self.x.shape[0] // self.rows_each * prod(self.shape)
        return instantiated <= min(_KEPT_SHARE * (self.x.numel() + self.g.numel()), _MAX_ELEMENTS)

    def _instantiation_is_cheaper(self) -> bool:
        """Compare multiply-adds per example, for norm and sum, memory traffic counted in the same unit."""
        # Checking Gram norms means looking at them.
        if self.rows_each > 1 or not has_cheap_sync(self.x.device):
            return True
        elements = prod(self.shape)
        positions = prod(self.g.shape[2:])
        pixels = prod(size + 2 * pad for size, pad in zip(self.x.shape[2:], self.padding, strict=True))
        gradient = positions * elements
        slowdown = 1.25 if self.g.shape[-1] >= _WIDE_ROW else _SHORT_ROW_SLOWDOWN
        instantiate = slowdown * gradient + _MEMORY_COST * elements + (0 if self._fits() else gradient)
        gram = (
            pixels**2 * (self.x.shape[1] + _MEMORY_COST)
            + positions**2 * (self.g.shape[1] + _MEMORY_COST)
            + positions**2 * prod(self.geometry.kernel) * _WINDOW_COST
        ) + gradient
        return instantiate <= gram

    def _norms_in_parts(self) -> Tensor:
        """Instantiate the gradients of a few examples at a time, for their norms only."""
        step = examples_at_once(prod(self.shape), self.x.device) * self.rows_each
        norms = [self.x.new_zeros(0)]
        for x, g in zip(torch.split(self.x, step), torch.split(self.g, step), strict=True):
            if self.geometry.groups == self.rows_each == 1 and g.shape[-1] < _WIDE_ROW:
                # The grouped kernel is slow on short rows, and for a norm the order of the elements is nothing.
                part = torch.bmm(g.flatten(2), _patches(x, g.shape[2:], self.geometry, self.padding))
            else:
                part = per_example_conv_gradients(x, g, self.shape, self.geometry, self.padding, self.rows_each)
            norms.append(Dense(part).squared_norms())
        return torch.cat(norms)
