"""What finds the gradients of single examples in each layer of a network that is trained privately.

Read from what stands at the layers, so it says what was chosen and not what would be.

Example:
    >>> from torch import nn
    >>> from lightning_privacy.gradients.engine import PrivateGradients
    >>> from lightning_privacy.mechanisms.noise import NoiseSource
    >>> network = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.LayerNorm(2))
    >>> engine = PrivateGradients(
    ...     network, max_grad_norm=1.0, noise_multiplier=1.0, expected_batch_size=8, noise=NoiseSource()
    ... )
    >>> engine.attach()
    >>> for chosen in chosen_rules(network):
    ...     print(chosen.layer, chosen.kind, chosen.parameters, chosen.rule)
    0 Linear 8 LinearRule
    2 LayerNorm 4 TrailingNormRule
    >>> engine.detach()
    >>> chosen_rules(network)
    []
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lightning_privacy.gradients.bystanders import PublicSite, RootSite, WatchedSite
from lightning_privacy.gradients.interception import handler_of
from lightning_privacy.gradients.listening import Site

__all__ = ["ChosenRule", "chosen_rules"]

_PUBLIC = "public: no privacy"


@dataclass(frozen=True, slots=True)
class ChosenRule:
    """One layer and what serves it.

    Args:
        layer: its name in the network; empty for the network itself.
        kind: its class.
        parameters: how many numbers of it are trained.
        rule: class of its rule, or what takes the place of one.
    """

    layer: str
    kind: str
    parameters: int
    rule: str


def chosen_rules(module: nn.Module) -> list[ChosenRule]:
    """Return the layers that are trained, in the order of the network; none where nothing is attached.

    Args:
        module: the network.
    """
    found = []
    for name, layer in module.named_modules():
        handler = handler_of(layer)
        if isinstance(handler, RootSite):
            handler = handler.inner
        if isinstance(handler, Site):
            parameters, rule = list(handler.parameters.values()), handler.served_by
        elif isinstance(handler, WatchedSite | PublicSite):
            parameters = list(layer.parameters(recurse=False))
            rule = _PUBLIC if isinstance(handler, PublicSite) else handler.served_by
        else:
            continue
        trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        if trained:
            found.append(ChosenRule(name, type(layer).__name__, trained, rule))
    return found
