"""Parts of a module and optimizers that are not trained by one private gradient per step.

Example:
    >>> from torch import nn
    >>> gan = nn.ModuleDict({"critic": nn.Linear(2, 1), "generator": nn.Linear(2, 1)})
    >>> public_parameters(gan, ["generator"])
    ['generator.weight', 'generator.bias']
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.optim import Optimizer

from lightning_privacy.errors import ConfigurationError

__all__ = ["public_parameters", "releases_per_step"]


def public_parameters(module: nn.Module, parts: Sequence[str]) -> list[str]:
    """Return the names of the parameters that belong to ``parts``.

    Args:
        module: The module.
        parts: Names of submodules or parameters, or patterns such as ``"decoder.*.bias"``.

    Raises:
        ConfigurationError: A part that the module doesn't have.
    """
    found: dict[str, None] = {}
    names = [name for name, _ in module.named_parameters()]
    for part in parts:
        matches = [name for name in names if name == part or name.startswith(part + ".") or fnmatchcase(name, part)]
        if not matches:
            children = ", ".join(repr(name) for name, _ in module.named_children())
            raise ConfigurationError(
                f"public={part!r} names no part of {type(module).__name__}: it has {children}; name a submodule, a "
                "parameter, or a pattern of parameter names"
            )
        found.update(dict.fromkeys(matches))
    return list(found)


def releases_per_step(optimizers: Iterable[Optimizer]) -> int:
    """Return how many gradients one step may need at most: several for L-BFGS."""
    return max(
        (o.param_groups[0]["max_eval"] for o in optimizers if isinstance(o, torch.optim.LBFGS)),
        default=1,
    )
