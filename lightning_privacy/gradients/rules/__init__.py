"""A rule per layer family: how to get clipped gradients out of it in one backward."""

from __future__ import annotations

from torch import nn

from lightning_privacy.gradients.interception import has_own_forward
from lightning_privacy.gradients.rules.attention import AttentionRule
from lightning_privacy.gradients.rules.base import CompositeRule, Rule, Tap
from lightning_privacy.gradients.rules.bilinear import BilinearRule
from lightning_privacy.gradients.rules.cells import ElmanCellRule, GRUCellRule, LSTMCellRule
from lightning_privacy.gradients.rules.conv import ConvRule
from lightning_privacy.gradients.rules.embedding import EmbeddingBagRule, EmbeddingRule
from lightning_privacy.gradients.rules.hf_conv1d import TransposedLinearRule, is_transposed_linear
from lightning_privacy.gradients.rules.linear import LinearRule
from lightning_privacy.gradients.rules.norms import ChannelNormRule, TrailingNormRule
from lightning_privacy.gradients.rules.parametrized import ParametrizedRule, has_parametrizations
from lightning_privacy.gradients.rules.prelu import PReLURule
from lightning_privacy.gradients.rules.recurrent import ElmanRule, GRURule, LSTMRule
from lightning_privacy.gradients.rules.transposed_conv import TransposedConvRule

__all__ = ["COMPOSITE_RULES", "RULES", "CompositeRule", "Rule", "Tap", "composite_rule_for", "rule_for"]

RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: LinearRule(),
    nn.modules.linear.NonDynamicallyQuantizableLinear: LinearRule(),
    nn.Conv1d: ConvRule(),
    nn.Conv2d: ConvRule(),
    nn.Conv3d: ConvRule(),
    nn.ConvTranspose1d: TransposedConvRule(),
    nn.ConvTranspose2d: TransposedConvRule(),
    nn.ConvTranspose3d: TransposedConvRule(),
    nn.Bilinear: BilinearRule(),
    nn.PReLU: PReLURule(),
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

_TRANSPOSED_LINEAR = TransposedLinearRule()

COMPOSITE_RULES: dict[type[nn.Module], CompositeRule] = {
    nn.MultiheadAttention: AttentionRule(),
    nn.RNN: ElmanRule(),
    nn.LSTM: LSTMRule(),
    nn.GRU: GRURule(),
    nn.RNNCell: ElmanCellRule(),
    nn.LSTMCell: LSTMCellRule(),
    nn.GRUCell: GRUCellRule(),
}
"""Layer classes with several hooks or outputs, and their rules; exact classes here too."""


def rule_for(module: nn.Module) -> Rule | None:
    """Return the rule of exactly this layer, or None when the fallback must serve."""
    if nn.utils.parametrize.is_parametrized(module) or has_own_forward(module):
        return None
    if isinstance(module, nn.EmbeddingBag) and module.mode == "max":
        return None
    return _TRANSPOSED_LINEAR if is_transposed_linear(module) else RULES.get(type(module))


def composite_rule_for(module: nn.Module) -> CompositeRule | None:
    """Return the composite rule of exactly this layer, or None when there is none or the fallback must serve."""
    if any(has_own_forward(each) for each in module.modules()):
        return None
    if not has_parametrizations(module):
        return COMPOSITE_RULES.get(type(module))
    if isinstance(module, nn.EmbeddingBag) and module.mode == "max":
        return None
    kind = nn.utils.parametrize.type_before_parametrizations(module)
    rule = COMPOSITE_RULES.get(kind) or RULES.get(kind)
    return None if rule is None else ParametrizedRule(rule)
