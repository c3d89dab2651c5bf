"""The layers and parameters of a network, as often as they are looked through: several times in each step.

``nn.Module.parameters`` spells a name for each, which is most of what it costs.

Example:
    >>> network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1, bias=False))
    >>> [type(layer).__name__ for layer in each_layer(network)]
    ['Sequential', 'Linear', 'ReLU', 'Linear']
    >>> [parameter.numel() for parameter in each_parameter(network)]
    [6, 3, 3]
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

__all__ = ["each_layer", "each_parameter"]

# What nn.Module.modules and nn.Module.parameters of a whole ask of it and, where it has children, of each of those.
_OF_LAYERS = ("modules", "named_modules")
_OF_PARAMETERS = ("parameters", "named_parameters", "_named_members", "named_modules")
_OF_CHILDREN = ("named_modules",)


def each_layer(network: nn.Module) -> list[nn.Module]:
    """Return what ``network.modules()`` gives, in its order.

    Args:
        network: itself included; each once.
    """
    return list(network.modules()) if _says_itself(network, _OF_LAYERS) else _walk(network)


def each_parameter(network: nn.Module) -> Iterator[nn.Parameter]:
    """Give what ``network.parameters()`` gives; one that is shared may come more than once.

    Args:
        network: whose parameters.
    """
    if _says_itself(network, _OF_PARAMETERS):
        yield from network.parameters()
        return
    for layer in _walk(network):
        for parameter in layer._parameters.values():
            if parameter is not None:
                yield parameter


def _walk(network: nn.Module) -> list[nn.Module]:
    found: dict[nn.Module, None] = {}
    waiting = [network]
    while waiting:
        layer = waiting.pop()
        if layer in found:
            continue
        if _says_itself(layer, _OF_CHILDREN):
            found.update(dict.fromkeys(each for _, each in layer.named_modules()))
            continue
        found[layer] = None
        children = layer._modules
        if children:
            waiting.extend(child for child in reversed(children.values()) if child is not None)
    return list(found)


def _says_itself(layer: nn.Module, words: tuple[str, ...]) -> bool:
    """Whether a class has a way of its own to answer one of these."""
    kind = type(layer)
    known = _KINDS.get((kind, words))
    if known is None:
        known = _KINDS[kind, words] = any(getattr(kind, word) is not getattr(nn.Module, word) for word in words)
    return known


# Classes are few; a weak key would cost more than it frees.
_KINDS: dict[tuple[type[nn.Module], tuple[str, ...]], bool] = {}
