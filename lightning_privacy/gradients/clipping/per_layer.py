"""Per-layer clipping: the gradient of each layer, or of each named group of parameters, has its own bound.

Example:
    >>> import torch
    >>> from lightning_privacy.gradients.clipping import PerLayerClipping
    >>> policy = PerLayerClipping({"body": 3.0, "head": 4.0})
    >>> policy.groups(["body.0.weight", "body.0.bias", "head.weight"])
    [0, 0, 1]
    >>> policy.norm_bound
    5.0
    >>> policy.factors(torch.tensor([[36.0, 1.0]]))
    tensor([[0.5000, 1.0000]])
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_privacy.errors import ConfigurationError, PrivacyViolation
from lightning_privacy.gradients.clipping.flat import min_factors
from lightning_privacy.gradients.clipping.policy import ClippingPolicy, one_bound, zero_unless_finite

__all__ = ["PerLayerClipping"]


class PerLayerClipping(ClippingPolicy):
    """``c_ig = min(1, C_g / ||g_ig||)`` for each group g of parameters.

    McMahan et al., "Learning Differentially Private Recurrent Language Models", 2018, section 2 (per-layer clipping);
    McMahan et al., "A General Approach to Adding Differential Privacy to Iterative Training Procedures", 2018.

    What it costs is what flat clipping costs. The groups are the parts of one vector, so what example i adds to the
    sum has the squared norm ``sum_g ||c_ig g_ig||^2 <= sum_g C_g^2 = C^2``. Noise with the standard deviation
    ``noise_multiplier * C`` on every coordinate is therefore the Gaussian mechanism for a sum of sensitivity C, with
    that noise multiplier, whatever the single bounds are.

    Args:
        max_grad_norm: a number C: the parameters of one module are a group, and each of the G groups gets
            ``C / sqrt(G)``, so that C bounds the whole. A sequence: the bound of each such group, in the order of
            the module. A mapping from a name, the beginning of a dotted name, or a pattern (``"encoder.*.bias"``) to
            a bound: the trainable parameters that match one key are a group; each must match exactly one. Keys whose
            parameters are all frozen don't count.

    Raises:
        ConfigurationError: a bound is not a finite number of at least 1e-10, or there is none.

    Example:
        >>> policy = PerLayerClipping(2.0)
        >>> policy.groups(["0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "3.weight"])
        [0, 0, 1, 1, 2, 3]
        >>> policy.bounds
        (1.0, 1.0, 1.0, 1.0)
    """

    def __init__(self, max_grad_norm: float | Sequence[float] | Mapping[str, float] = 1.0) -> None:
        self._given = _read(max_grad_norm)
        if self._given in ([], {}):
            raise ConfigurationError(
                f"max_grad_norm must be a bound, one for each layer, or one for each group, got {max_grad_norm!r}"
            )
        self._bounds: tuple[float, ...] = ()

    @property
    def bounds(self) -> tuple[float, ...]:
        """The bound of each group; empty before :meth:`groups`."""
        return self._bounds

    @property
    @override
    def norm_bound(self) -> float:
        if isinstance(self._given, float):
            return self._given
        listed = self._given.values() if isinstance(self._given, dict) else self._given
        return math.hypot(*(self._bounds or listed))

    @override
    def groups(self, names: Sequence[str]) -> list[int]:
        """Group the parameters by layer, or as the mapping says.

        Args:
            names: names of the trainable parameters, in the module's order.

        Returns:
            The group of each.

        Raises:
            ConfigurationError: not one bound for each layer, or a parameter that matches no key or several.
        """
        if isinstance(self._given, dict):
            labels = _matched(names, self._given)
        else:
            labels = [name.rpartition(".")[0] for name in names]
        order = list(dict.fromkeys(labels))
        if isinstance(self._given, dict):
            self._bounds = tuple(self._given[key] for key in order)
        elif isinstance(self._given, list):
            if len(self._given) != len(order):
                raise ConfigurationError(
                    f"max_grad_norm must have {len(order)} bounds, one for each layer with trainable parameters "
                    f"({', '.join(label or 'the module itself' for label in order)}), got {len(self._given)}: "
                    f"{self._given!r}; or pass a mapping from names to bounds"
                )
            self._bounds = tuple(self._given)
        else:
            self._bounds = (self._given / math.sqrt(max(1, len(order))),) * len(order)
        number = {label: index for index, label in enumerate(order)}
        return [number[label] for label in labels]

    @override
    def factors(self, squared_norms: Tensor) -> Tensor:
        if squared_norms.shape[1] != len(self._bounds):
            raise PrivacyViolation(
                f"norms of {squared_norms.shape[1]} groups came to a policy with {len(self._bounds)}; call groups() "
                "first, and give each module a policy of its own"
            )
        bounds = torch.tensor(self._bounds, dtype=squared_norms.dtype, device=squared_norms.device)
        return zero_unless_finite(min_factors(squared_norms, bounds), squared_norms)

    @override
    def describe(self) -> dict[str, Any]:
        given = self._given
        copied = dict(given) if isinstance(given, dict) else list(given) if isinstance(given, list) else given
        return {**super().describe(), "max_grad_norm": copied}


def _read(given: object) -> float | list[float] | dict[str, float]:
    if isinstance(given, Mapping):
        return {_pattern(key): one_bound(**{f"max_grad_norm[{key!r}]": bound}) for key, bound in given.items()}
    if isinstance(given, Sequence) and not isinstance(given, str):
        return [one_bound(**{f"max_grad_norm[{index}]": bound}) for index, bound in enumerate(given)]
    return one_bound(max_grad_norm=given)


def _pattern(key: object) -> str:
    if not isinstance(key, str) or not key:
        raise ConfigurationError(
            "keys of max_grad_norm must be names of parameters or modules, or patterns such as 'encoder.*.bias', got "
            f"{key!r}"
        )
    return key


def _matches(name: str, key: str) -> bool:
    return name == key or name.startswith(f"{key}.") or fnmatchcase(name, key)


def _matched(names: Sequence[str], bounds: Mapping[str, float]) -> list[str]:
    """Return the key that each name matches."""
    found = [[key for key in bounds if _matches(name, key)] for name in names]
    wrong = [
        f"{name} ({'none' if not keys else ' and '.join(map(repr, keys))})"
        for name, keys in zip(names, found, strict=True)
        if len(keys) != 1
    ]
    if wrong:
        raise ConfigurationError(
            f"max_grad_norm must have exactly one key for each trainable parameter, got the keys "
            f"{', '.join(map(repr, bounds))}; the parameters and the keys they match: {'; '.join(wrong)}"
        )
    return [key for (key,) in found]
