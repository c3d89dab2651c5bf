"""The policies that can be asked for by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.gradients.clipping.adaptive import AdaptiveClipping
from lightning_privacy.gradients.clipping.automatic import AutomaticClipping
from lightning_privacy.gradients.clipping.flat import FlatClipping
from lightning_privacy.gradients.clipping.global_adapt import GlobalAdaptClipping
from lightning_privacy.gradients.clipping.per_layer import PerLayerClipping
from lightning_privacy.gradients.clipping.policy import ClippingPolicy

__all__ = ["POLICIES", "clipping_policy"]

POLICIES: dict[str, Callable[[Any], ClippingPolicy]] = {
    "flat": FlatClipping,
    "per_layer": PerLayerClipping,
    "automatic": AutomaticClipping,
    "adaptive": AdaptiveClipping,
    "global_adapt": GlobalAdaptClipping,
}


def clipping_policy(
    clipping: str | ClippingPolicy, max_grad_norm: float | Sequence[float] | Mapping[str, float]
) -> ClippingPolicy:
    """Return the policy asked for.

    Args:
        clipping: a name, or a policy, which is returned as it is.
        max_grad_norm: the bound or bounds for a policy asked for by name; a policy that was made already has its own.

    Returns:
        The policy.

    Raises:
        ConfigurationError: an unknown name, or bounds that don't suit the policy.

    Example:
        >>> clipping_policy("flat", 1.5)
        FlatClipping(max_grad_norm=1.5)
    """
    if isinstance(clipping, ClippingPolicy):
        return clipping
    if not isinstance(clipping, str) or clipping not in POLICIES:
        raise ConfigurationError(
            f"clipping must be one of {', '.join(map(repr, POLICIES))} or a ClippingPolicy, got {clipping!r}"
        )
    return POLICIES[clipping](max_grad_norm)
