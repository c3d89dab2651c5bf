"""Rules of ``nn.Embedding`` and ``nn.EmbeddingBag``: linear maps of one-hot rows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_privacy.gradients.contributions import Contribution
from lightning_privacy.gradients.outer import Outer, Pair
from lightning_privacy.gradients.rules.base import Rule

__all__ = ["EmbeddingBagRule", "EmbeddingRule"]


def _table_problem(module: nn.Embedding | nn.EmbeddingBag) -> str | None:
    if module.max_norm is not None:
        return "max_norm renormalises the table in place by which rows the batch uses; set max_norm=None"
    if module.scale_grad_by_freq:
        return "scale_grad_by_freq makes one example's gradient depend on the others; set it to False"
    if module.sparse:
        return "noise fills every row, so the gradient can't be sparse; set sparse=False"
    return None


class EmbeddingRule(Rule):
    """Every position adds its output gradient to the row it looked up; ``padding_idx`` gets nothing."""

    def unsupported(self, module: nn.Module) -> str | None:
        """See :meth:`Rule.unsupported`."""
        return _table_problem(module) if isinstance(module, nn.Embedding) else None

    def batched_dimensions(self, module: nn.Embedding) -> int:
        """See :meth:`Rule.batched_dimensions`."""
        return 2

    def forward(
        self, module: nn.Embedding, parameters: Mapping[str, Tensor | None], *inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`Rule.forward`."""
        (indices,) = inputs
        weight = parameters["weight"]
        if weight is None:
            raise TypeError("nn.Embedding has no weight")
        return F.embedding(indices, weight, module.padding_idx), indices

    def contributions(
        self, module: nn.Embedding, kept: Tensor, output_gradient: Tensor, names: frozenset[str]
    ) -> dict[str, Contribution]:
        """See :meth:`Rule.contributions`."""
        indices = (kept.flatten(1) if kept.dim() > 1 else kept.unsqueeze(1)).long()
        gradient = output_gradient.reshape(*indices.shape, module.embedding_dim)
        if module.padding_idx is not None:
            gradient = gradient.masked_fill((indices == module.padding_idx).unsqueeze(2), 0)
        shape = (module.num_embeddings, module.embedding_dim)
        return {"weight": Outer([Pair(indices, gradient)], shape)} if "weight" in names else {}


class EmbeddingBagRule(Rule):
    """A bag is one example: the output gradient of the bag goes to each of its rows, weighted.

    Bags of unequal length are padded with entries of weight 0. Mode ``"max"`` and trained ``per_sample_weights``
    are left to the fallback.
    """

    def unsupported(self, module: nn.Module) -> str | None:
        """See :meth:`Rule.unsupported`."""
        return _table_problem(module) if isinstance(module, nn.EmbeddingBag) else None

    def batched_dimensions(self, module: nn.EmbeddingBag) -> int:
        """See :meth:`Rule.batched_dimensions`."""
        return 2

    def forward(
        self, module: nn.EmbeddingBag, parameters: Mapping[str, Tensor | None], *inputs: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """See :meth:`Rule.forward`."""
        indices, offsets, sample_weights = (*inputs, None, None)[:3]
        weight = parameters["weight"]
        if indices is None or weight is None:
            raise TypeError("nn.EmbeddingBag needs its input and weight")
        output = F.embedding_bag(
            indices,
            weight,
            offsets,
            mode=module.mode,
            per_sample_weights=sample_weights,
            include_last_offset=module.include_last_offset,
            padding_idx=module.padding_idx,
        )
        rows, amounts = _bags(module, indices, offsets, sample_weights, weight.dtype)
        return output, (rows, amounts)

    def contributions(
        self,
        module: nn.EmbeddingBag,
        kept: tuple[Tensor, Tensor],
        output_gradient: Tensor,
        names: frozenset[str],
    ) -> dict[str, Contribution]:
        """See :meth:`Rule.contributions`."""
        rows, amounts = kept
        pair = Pair(rows, amounts.unsqueeze(2) * output_gradient.unsqueeze(1))
        shape = (module.num_embeddings, module.embedding_dim)
        return {"weight": Outer([pair], shape)} if "weight" in names else {}


def _bags(
    module: nn.EmbeddingBag,
    indices: Tensor,
    offsets: Tensor | None,
    sample_weights: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Return row numbers and weights of every bag, both ``(B, longest bag)``."""
    weights = torch.ones_like(indices, dtype=dtype) if sample_weights is None else sample_weights.detach()
    if indices.dim() == 1:
        if offsets is None:
            raise TypeError("nn.EmbeddingBag needs offsets for a 1-D input")
        starts = offsets if module.include_last_offset else torch.cat([offsets, offsets.new_tensor([len(indices)])])
        lengths = starts.diff()
        bag = torch.repeat_interleave(torch.arange(len(lengths), device=indices.device), lengths)
        place = torch.arange(len(bag), device=indices.device) - starts[:-1][bag]
        size = (len(lengths), int(lengths.max()) if len(lengths) else 0)
        used = int(starts[-1])
        rows = indices.new_zeros(size).index_put_((bag, place), indices[:used])
        weights = weights.new_zeros(size).index_put_((bag, place), weights[:used])
    else:
        rows = indices
    if module.padding_idx is not None:
        weights = weights.masked_fill(rows == module.padding_idx, 0)
    if module.mode == "mean":
        present = (weights != 0).sum(1, keepdim=True).clamp_min(1)
        weights = weights / present
    return rows.long(), weights
