"""A tensor made of parameters alone, and the way of its gradient back to them.

While a network's code computes with parameters (``weight[:n]``, ``scale.exp()``, ``table[index]``), autograd records
it on stand-ins that share the parameters' memory. Once the gradient of each example with respect to the result is
known, the vector-Jacobian product of that little graph, batched over the examples, gives those of the parameters.

Example:
    >>> import torch
    >>> from lightning_privacy.gradients.contributions import Dense
    >>> scale = torch.zeros(2, requires_grad=True)
    >>> followed = Followed(None, scale.exp(), {"scale": scale})
    >>> found = followed.contributions(Dense(torch.tensor([[1.0, 2.0], [3.0, 0.0]])))
    >>> found["scale"].per_example()
    tensor([[1., 2.],
            [3., 0.]])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from lightning_privacy.gradients.arrangements import Reshaped
from lightning_privacy.gradients.contributions import Contribution, Dense
from lightning_privacy.gradients.outer import Outer, Pair

__all__ = ["Followed", "recording"]


def _same(value: Any) -> Any:
    return value


def recording() -> saved_tensors_hooks:
    """Return a context in which the graph keeps its tensors whatever encloses it.

    A checkpoint would recompute them, each time that a gradient is pulled back.
    """
    return saved_tensors_hooks(_same, _same)


class Followed:
    """A parameter, or what was made of parameters alone.

    Args:
        tensor: what the network's code holds; kept, so that its ``id`` stays its own.
        graph: the same values, with a graph that ends at ``sources``.
        sources: the stand-ins by name of the parameter.
    """

    __slots__ = ("graph", "sources", "tensor")

    def __init__(self, tensor: Tensor | None, graph: Tensor, sources: Mapping[str, Tensor]) -> None:
        self.tensor = tensor
        self.graph = graph
        self.sources = sources

    @property
    def names(self) -> frozenset[str]:
        """Names of the parameters."""
        return frozenset(self.sources)

    def first_of(self, dimension: int) -> Followed:
        """Return the first entry of a dimension in which all entries are one in memory."""
        with torch.enable_grad(), recording():
            return Followed(None, self.graph.narrow(dimension, 0, 1), self.sources)

    def looked_up(self, own: Tensor) -> dict[str, Contribution] | None:
        """Return contributions where this is rows looked up in one parameter, a lookup of its own for each example.

        Args:
            own: gradient of the entries that belong to each example: shape of this tensor, examples first.

        Returns:
            None where it was made otherwise.
        """
        lookup = self.graph.grad_fn
        if len(self.sources) != 1 or lookup is None or lookup.name() != "EmbeddingBackward0":
            return None
        ((name, source),) = self.sources.items()
        if getattr(lookup.next_functions[0][0], "variable", None) is not source:
            return None
        indices = lookup._saved_indices.reshape(own.shape[0], -1).long()  # type: ignore[attr-defined]
        gradient = own.reshape(*indices.shape, source.shape[1])
        # The number that stands for "none" is above every row.
        gradient = gradient.masked_fill((indices == lookup._saved_padding_idx).unsqueeze(2), 0)  # type: ignore[attr-defined]
        return {name: Outer([Pair(indices, gradient)], (source.shape[0], source.shape[1]))}

    @property
    def is_lookup(self) -> bool:
        """Whether :meth:`looked_up` has an answer."""
        return self.graph.dim() > 1 and self.looked_up(torch.zeros_like(self.graph)) is not None

    def contributions(self, contribution: Contribution) -> dict[str, Contribution]:
        """Return what each example adds to the parameters.

        Args:
            contribution: what it adds to this tensor.
        """
        if len(self.sources) == 1:
            ((name, source),) = self.sources.items()
            seen = _through_view(contribution, self.graph, source)
            if seen is not None:
                return {name: seen}
        values = contribution.per_example()
        sources = list(self.sources.values())
        pulled = _pulled_back(self.graph, sources, values.to(self.graph.dtype))
        return {name: Dense(gradient.to(values.dtype)) for name, gradient in zip(self.sources, pulled, strict=True)}


def _through_view(contribution: Contribution, view: Tensor, source: Tensor) -> Contribution | None:
    """Return the contribution to ``source`` where ``view`` holds just its elements, in the same or another order."""
    if view is source:
        return contribution
    if (
        view.data_ptr() != source.data_ptr()
        or view.numel() != source.numel()
        or view.dtype != source.dtype
        or view.numel() == 0
    ):
        return None
    if view.shape == source.shape and view.stride() == source.stride():
        return contribution
    if source.dim() == 2 and view.shape == source.shape[::-1] and view.stride() == source.stride()[::-1]:
        return _transposed(contribution, (source.shape[0], source.shape[1]))
    if view.is_contiguous() and source.is_contiguous():
        if isinstance(contribution, Dense):
            return Dense(contribution.values.reshape(-1, *source.shape))
        return Reshaped(contribution, tuple(view.shape), tuple(source.shape))
    return None


def _transposed(contribution: Contribution, shape: tuple[int, int]) -> Contribution:
    if isinstance(contribution, Outer) and contribution.pairs and not any(p.one_hot for p in contribution.pairs):
        return Outer([Pair(pair.right, pair.left) for pair in contribution.pairs], shape)
    return Dense(contribution.per_example().transpose(1, 2).contiguous())


def _pulled_back(graph: Tensor, sources: Sequence[Tensor], cotangents: Tensor) -> list[Tensor]:
    """Return the vector-Jacobian product of every cotangent, ``(B, *source.shape)`` each."""
    batch = cotangents.shape[0]
    if batch == 0:
        return [source.new_zeros(0, *source.shape) for source in sources]
    try:
        found = torch.autograd.grad(
            graph, sources, cotangents, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
    except RuntimeError:
        # Not every backward can be batched; one by one they all can.
        each = [
            torch.autograd.grad(graph, sources, cotangent, retain_graph=True, allow_unused=True)
            for cotangent in cotangents
        ]
        found = tuple(
            torch.stack([torch.zeros_like(source) if one is None else one for one in column])
            for source, column in zip(sources, zip(*each, strict=True), strict=True)
        )
    return [
        source.new_zeros(batch, *source.shape) if gradient is None else gradient
        for source, gradient in zip(sources, found, strict=True)
    ]
