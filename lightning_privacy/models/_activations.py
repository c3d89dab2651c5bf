"""The activations the networks of this room can be built with, by name."""

from __future__ import annotations

from torch import nn

from lightning_privacy._validate import one_of

__all__ = ["make_activation"]

# Bounded activations keep per-example gradients small, so clipping costs less signal: Papernot et al.,
# "Tempered Sigmoid Activations for Deep Learning with Differential Privacy", AAAI 2021.
_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


def make_activation(name: str) -> nn.Module:
    """Build one activation module.

    Args:
        name: ``"tanh"`` or ``"relu"``.

    Raises:
        ConfigurationError: The name is neither.

    Example:
        >>> make_activation("tanh")
        Tanh()
    """
    one_of(_ACTIVATIONS, activation=name)
    return _ACTIVATIONS[name]()
