"""A rule per layer family: how to get clipped gradients out of it in one backward."""

from __future__ import annotations

from torch import nn

from lightning_privacy.gradients.interception import has_own_forward
from lightning_privacy.gradients.rules.base import Rule
from lightning_privacy.gradients.rules.conv import ConvRule
from lightning_privacy.gradients.rules.embedding import EmbeddingBagRule, EmbeddingRule
from lightning_privacy.gradients.rules.linear import LinearRule
from lightning_privacy.gradients.rules.norms import ChannelNormRule, TrailingNormRule

__all__ = ["RULES", "Rule", "rule_for"]

RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: LinearRule(),
    nn.modules.linear.NonDynamicallyQuantizableLinear: LinearRule(),
    nn.Conv1d: ConvRule(),
    nn.Conv2d: ConvRule(),
    nn.Conv3d: ConvRule(),
    nn.Embedding: EmbeddingRule(),
    nn.EmbeddingBag: EmbeddingBagRule(),
    nn.LayerNorm: TrailingNormRule(),
    nn.RMSNorm: TrailingNormRule(),
    nn.GroupNorm: ChannelNormRule(),
    nn.InstanceNorm1d: ChannelNormRule(),
    nn.InstanceNorm2d: ChannelNormRule(),
    nn.InstanceNorm3d: ChannelNormRule(),
}
"""Layer classes and their rules. A subclass may compute anything, so only the exact class counts."""


def rule_for(module: nn.Module) -> Rule | None:
    """Return the rule of exactly this layer, or None when the fallback must serve."""
    if nn.utils.parametrize.is_parametrized(module) or has_own_forward(module):
        return None
    if isinstance(module, nn.EmbeddingBag) and module.mode == "max":
        return None
    return RULES.get(type(module))
