"""Rule of ``nn.MultiheadAttention``: the projections are linear maps, what lies between has no parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_privacy.errors import UnsupportedError
from lightning_privacy.gradients.arrangements import Blocks
from lightning_privacy.gradients.contributions import Contribution, Dense
from lightning_privacy.gradients.outer import Outer, Pair
from lightning_privacy.gradients.rules.base import CompositeRule, Tap

__all__ = ["AttentionRule"]

Parameters = Mapping[str, Tensor | None]


@dataclass(frozen=True, slots=True)
class _Projection:
    """A linear map of one of the inputs: of queries, of keys, of values, or of several of them at once."""

    name: str
    weight: Tensor
    source: Tensor
    uses: int  # how many of queries, keys and values come out of it

    @property
    def width(self) -> int:
        return self.weight.shape[0]


class AttentionRule(CompositeRule):
    """Self- and cross-attention with every option of the layer, but no unbatched input and no nested tensors.

    Queries, keys and values are hooked as one tensor, so that the packed ``in_proj_weight`` gets one contribution.
    Where ``key is value``, or all three are one tensor, that is one product, as in the layer itself.
    """

    def forward(
        self, module: nn.MultiheadAttention, parameters: Parameters, tap: Tap, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """See :meth:`CompositeRule.forward`."""
        return self._forward(module, parameters, tap, *args, **kwargs)

    def _forward(
        self,
        module: nn.MultiheadAttention,
        parameters: Parameters,
        tap: Tap,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        self._check(module, query, key, value)
        causal_kernel = is_causal and key_padding_mask is None and not need_weights
        if is_causal and attn_mask is None:
            raise ValueError(
                "is_causal=True is a hint and needs the mask as well; pass attn_mask="
                "nn.Transformer.generate_square_subsequent_mask(length)"
            )
        padding = _additive(key_padding_mask, query.dtype, "key_padding_mask")
        mask = None if causal_kernel else _additive(attn_mask, query.dtype, "attn_mask")

        if not module.batch_first:
            # The "is" property decides which products are one.
            turned = {id(source): source.transpose(0, 1) for source in (query, key, value)}
            query, key, value = (turned[id(source)] for source in (query, key, value))
        batch, steps, _ = query.shape
        q, k, v = self._projected(parameters, tap, query, key, value)
        mask = _checked_mask(mask, batch, module.num_heads, steps, k.shape[1])
        if padding is not None and padding.shape != (batch, key.shape[1]):
            raise ValueError(f"key_padding_mask must have shape {(batch, key.shape[1])}, got {tuple(padding.shape)}")

        extra = 0
        if module.bias_k is not None:
            bias_k, bias_v = self._extra_position(parameters, tap, batch)
            k, v = torch.cat([k, bias_k.to(k.dtype)], 1), torch.cat([v, bias_v.to(v.dtype)], 1)
            extra += 1
        if module.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
            extra += 1
        if mask is not None:
            mask = F.pad(mask, (0, extra))
        if padding is not None:
            padding = F.pad(padding, (0, extra)).unsqueeze(1).unsqueeze(1)
            mask = padding if mask is None else mask + padding

        q, k, v = (x.reshape(batch, x.shape[1], module.num_heads, module.head_dim).transpose(1, 2) for x in (q, k, v))
        dropout = module.dropout if module.training else 0.0
        weights = None
        if need_weights:
            attended, weights = _explicit(q, k, v, mask, dropout)
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            attended = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal_kernel)
        attended = attended.transpose(1, 2).reshape(batch, steps, module.embed_dim)
        output = self._output(parameters, tap, attended)
        return output if module.batch_first else output.transpose(0, 1), weights

    @staticmethod
    def _check(module: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> None:
        if query.is_nested or key.is_nested or value.is_nested:
            raise UnsupportedError(
                "nn.MultiheadAttention got a nested tensor; to be trained privately it needs padded sequences and a "
                "key_padding_mask (in nn.TransformerEncoder, enable_nested_tensor=False)"
            )
        shapes = [tuple(source.shape) for source in (query, key, value)]
        if any(len(shape) != 3 for shape in shapes):
            raise UnsupportedError(
                f"nn.MultiheadAttention got inputs of shape {', '.join(map(str, shapes))}; to be trained privately "
                "it needs a batch of sequences, three dimensions each"
            )
        widths = (module.embed_dim, module.kdim, module.vdim)
        if tuple(shape[2] for shape in shapes) != widths:
            raise ValueError(f"query, key and value must be {widths} wide, got shapes {', '.join(map(str, shapes))}")
        examples = [shape[0 if module.batch_first else 1] for shape in shapes]
        if len(set(examples)) > 1 or shapes[1][:2] != shapes[2][:2]:
            raise ValueError(
                "query, key and value must be over one batch, keys and values of one length, got shapes "
                + ", ".join(map(str, shapes))
            )

    def _projected(
        self, parameters: Parameters, tap: Tap, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, ``(B, T, E)`` each, hooked."""
        projections = _projections(parameters, query, key, value)
        bias = parameters.get("in_proj_bias")
        parts, first = [], 0
        for projection in projections:
            own = None if bias is None else bias[first : first + projection.width]
            parts.append(F.linear(projection.source, projection.weight, own))
            first += projection.width
        names = tuple(projection.name for projection in projections)
        widths = tuple(projection.width for projection in projections)
        sizes = [part.shape[1] * part.shape[2] for part in parts]

        def contributions(kept: tuple[Tensor, ...], gradient: Tensor) -> dict[str, Contribution]:
            pieces = (gradient,) if len(kept) == 1 else torch.split(gradient, sizes, 1)
            gradients = [
                piece.reshape(piece.shape[0], source.shape[1], width)
                for piece, source, width in zip(pieces, kept, widths, strict=True)
            ]
            return _input_contributions(names, gradients, kept)

        sources = tuple(projection.source.detach() for projection in projections)
        if len(parts) == 1:
            q, k, v = tap(parts[0], sources, contributions).chunk(3, 2)
            return q, k, v
        flat = tap(torch.cat([part.flatten(1) for part in parts], 1), sources, contributions)
        hooked = [piece.reshape(part.shape) for piece, part in zip(torch.split(flat, sizes, 1), parts, strict=True)]
        q, k, v = (x for h, p in zip(hooked, projections, strict=True) for x in h.chunk(p.uses, 2))
        return q, k, v

    @staticmethod
    def _extra_position(parameters: Parameters, tap: Tap, batch: int) -> tuple[Tensor, Tensor]:
        """Return ``bias_k`` and ``bias_v`` of every example, ``(B, 1, E)`` each, hooked."""
        bias_k, bias_v = parameters["bias_k"], parameters["bias_v"]
        if bias_k is None or bias_v is None:
            raise TypeError("nn.MultiheadAttention has one of bias_k and bias_v without the other")

        def contributions(_kept: tuple[()], gradient: Tensor) -> dict[str, Contribution]:
            first, second = gradient.unsqueeze(1).chunk(2, 3)
            return {"bias_k": Dense(first), "bias_v": Dense(second)}

        both = tap(torch.cat([bias_k, bias_v], 2).repeat(batch, 1, 1), (), contributions)
        first, second = both.chunk(2, 2)
        return first, second

    @staticmethod
    def _output(parameters: Parameters, tap: Tap, attended: Tensor) -> Tensor:
        weight = parameters["out_proj.weight"]
        if weight is None:
            raise TypeError("nn.MultiheadAttention has no out_proj.weight")

        def contributions(kept: tuple[Tensor], gradient: Tensor) -> dict[str, Contribution]:
            return {"out_proj.weight": _outer(gradient, kept[0]), "out_proj.bias": Dense(gradient.sum(1))}

        return tap(F.linear(attended, weight, parameters.get("out_proj.bias")), (attended.detach(),), contributions)


def _projections(parameters: Parameters, query: Tensor, key: Tensor, value: Tensor) -> list[_Projection]:
    packed = parameters.get("in_proj_weight")
    sources = {"q_proj_weight": query, "k_proj_weight": key, "v_proj_weight": value}
    if packed is None:
        projections = []
        for name, source in sources.items():
            weight = parameters[name]
            if weight is None:
                raise TypeError(f"nn.MultiheadAttention has neither in_proj_weight nor {name}")
            projections.append(_Projection(name, weight, source, 1))
        return projections
    size = packed.shape[0] // 3
    name = "in_proj_weight"
    if query is key and key is value:
        return [_Projection(name, packed, query, 3)]
    if key is value:
        return [_Projection(name, packed[:size], query, 1), _Projection(name, packed[size:], key, 2)]
    chunks = zip(packed.chunk(3), sources.values(), strict=True)
    return [_Projection(name, weight, source, 1) for weight, source in chunks]


def _input_contributions(
    names: Sequence[str], gradients: Sequence[Tensor], sources: Sequence[Tensor]
) -> dict[str, Contribution]:
    outers = [_outer(gradient, source) for gradient, source in zip(gradients, sources, strict=True)]
    bias = Dense(torch.cat([gradient.sum(1) for gradient in gradients], 1))
    if len(set(names)) > 1:
        return {**dict(zip(names, outers, strict=True)), "in_proj_bias": bias}
    weight = outers[0] if len(outers) == 1 else Blocks(outers, [outer.shape[0] for outer in outers])
    return {names[0]: weight, "in_proj_bias": bias}


def _outer(left: Tensor, right: Tensor) -> Outer:
    return Outer([Pair(left, right)], (left.shape[2], right.shape[2]))


def _additive(mask: Tensor | None, dtype: torch.dtype, name: str) -> Tensor | None:
    """Return a mask that is added to the scores; True stands for positions that are left out."""
    if mask is None or mask.is_floating_point():
        return mask
    if mask.dtype != torch.bool:
        raise ValueError(f"{name} must be bool or floating point, got {mask.dtype}")
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))


def _checked_mask(mask: Tensor | None, batch: int, heads: int, steps: int, positions: int) -> Tensor | None:
    """Return the mask of positions in a shape that fits ``(B, heads, T, S)``."""
    if mask is None:
        return None
    if mask.shape == (steps, positions):
        return mask.unsqueeze(0).unsqueeze(0)
    if mask.shape == (batch * heads, steps, positions):
        return mask.view(batch, heads, steps, positions)
    raise ValueError(
        f"attn_mask must have shape {(steps, positions)} or {(batch * heads, steps, positions)}, got "
        f"{tuple(mask.shape)}"
    )


def _explicit(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> tuple[Tensor, Tensor]:
    """Return what is attended to and with which weights, ``(B, heads, T, S)``."""
    scores = torch.matmul(q * math.sqrt(1.0 / q.shape[3]), k.transpose(2, 3))
    weights = (scores if mask is None else scores + mask).softmax(3)
    if dropout > 0:
        weights = F.dropout(weights, dropout)
    return torch.matmul(weights, v), weights
