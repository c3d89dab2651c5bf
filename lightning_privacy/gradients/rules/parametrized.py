"""Layers whose weights are computed from others by ``torch.nn.utils.parametrize``.

Weight normalisation, spectral normalisation, orthogonal weights: ``W = f(V)``, where f sees no example. So f is run
once per call, as in the layer itself (spectral normalisation counts its power iterations), the layer's ordinary rule
finds each example's gradient with respect to W, and one vector-Jacobian product per example carries it over to V.

Recurrent and attention layers of torch look a weight up several times in one call, and each time f runs again; here
it runs once. That is the same unless f changes its buffers, as spectral normalisation does in training mode: then it
takes fewer power iterations.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized, type_before_parametrizations

from lightning_privacy.gradients.contributions import Contribution, Dense
from lightning_privacy.gradients.rules.base import CompositeRule, Rule, Tap

__all__ = ["ParametrizedRule", "has_parametrizations"]

Contributions = Callable[[Any, Tensor], Mapping[str, Contribution]]


def has_parametrizations(module: nn.Module) -> bool:
    """Return whether a weight of this layer, or of a child of it, is computed from others."""
    return next(_parametrized(module), None) is not None


class ParametrizedRule(CompositeRule):
    """The rule of a layer class, for layers of it with parametrizations.

    Args:
        rule: of the class before parametrization.
    """

    def __init__(self, rule: Rule | CompositeRule) -> None:
        self.rule = rule

    def unsupported(self, module: Any) -> str | None:
        """See :meth:`CompositeRule.unsupported`."""
        return self.rule.unsupported(module)

    def forward(
        self, module: nn.Module, parameters: Mapping[str, Tensor | None], tap: Tap, *args: Any, **kwargs: Any
    ) -> Any:
        """See :meth:`CompositeRule.forward`."""
        remade = {name: _Remade(module, parameters, name, start, f) for name, start, f in _parametrized(module)}
        starts = tuple(each.start for each in remade.values())
        plain = {name: p for name, p in parameters.items() if not name.startswith(starts)}
        plain.update({name: each.value.detach() for name, each in remade.items()})
        stand_in = _stand_in(module, plain)

        def tap_remade(output: Tensor, kept: Any, contributions: Contributions) -> Tensor:
            def to_originals(kept: Any, gradient: Tensor) -> dict[str, Contribution]:
                found: dict[str, Contribution] = {}
                for name, contribution in contributions(kept, gradient).items():
                    found.update(remade[name].originals(contribution) if name in remade else {name: contribution})
                return found

            return tap(output, kept, to_originals)

        if isinstance(self.rule, CompositeRule):
            return self.rule.forward(stand_in, plain, tap_remade, *args, **kwargs)
        bound = inspect.signature(type(stand_in).forward).bind(stand_in, *args, **kwargs)
        bound.apply_defaults()
        rule, own = self.rule, {name: plain.get(name) for name in stand_in._parameters}
        output, kept = rule.forward(stand_in, own, *bound.args[1:])
        names = frozenset(name for name, p in own.items() if p is not None)
        return tap_remade(output, kept, lambda kept, gradient: rule.contributions(stand_in, kept, gradient, names))


class _Remade:
    """A weight computed from others in one call, and the way back."""

    def __init__(
        self, module: nn.Module, parameters: Mapping[str, Tensor | None], name: str, start: str, f: ParametrizationList
    ) -> None:
        self.start = start
        given = {key: p for key, p in parameters.items() if key.startswith(start) and p is not None}
        # Leaves of a graph of their own: nothing may reach the parameters themselves.
        self.leaves = {
            key: parameter.detach().requires_grad_()
            for key, parameter in given.items()
            if module.get_parameter(key).requires_grad
        }
        state = {key.removeprefix(start): value for key, value in {**given, **self.leaves}.items()}
        with torch.enable_grad():
            self.value: Tensor = functional_call(f, state, ())

    def originals(self, contribution: Contribution) -> dict[str, Contribution]:
        """Return the contributions to the parameters the weight is computed from."""
        if not self.leaves or not self.value.requires_grad:
            return {}
        gradients = contribution.per_example().to(self.value.dtype)
        leaves = list(self.leaves.values())
        if gradients.shape[0] == 0:
            found: tuple[Tensor, ...] = tuple(leaf.new_zeros(0, *leaf.shape) for leaf in leaves)
        else:
            found = torch.autograd.grad(
                self.value,
                leaves,
                gradients,
                retain_graph=True,
                is_grads_batched=True,
                allow_unused=True,
                materialize_grads=True,
            )
        wide = torch.promote_types(gradients.dtype, torch.float32)
        return {key: Dense(values.to(wide)) for key, values in zip(self.leaves, found, strict=True)}


def _parametrized(module: nn.Module) -> Iterator[tuple[str, str, ParametrizationList]]:
    """Return name, start of the names of its originals, and parametrization, of each weight that is computed."""
    pending = [("", module)]
    while pending:
        prefix, owner = pending.pop()
        if is_parametrized(owner):
            for name, f in owner.parametrizations.items():  # type: ignore[union-attr, operator]
                yield f"{prefix}{name}", f"{prefix}parametrizations.{name}.", f
        # What is inside a parametrization is its own affair.
        children = [(f"{prefix}{name}.", child) for name, child in owner.named_children() if name != "parametrizations"]
        pending.extend(children)


def _stand_in(module: nn.Module, plain: Mapping[str, Tensor | None]) -> nn.Module:
    """Return a module of the class before parametrization, where to look at a weight computes nothing."""
    kind = type_before_parametrizations(module)
    stand_in: nn.Module = object.__new__(kind)
    own = {name: value for name, value in plain.items() if "." not in name}
    state = {key: value for key, value in vars(module).items() if key != "forward"}
    state["_parameters"] = {**module._parameters, **own}
    state["_modules"] = {name: child for name, child in module._modules.items() if name != "parametrizations"}
    vars(stand_in).update(state)
    return stand_in
