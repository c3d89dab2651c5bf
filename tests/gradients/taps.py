"""A rule on its own, without an engine: what it returns, and what it says of every example.

The reference is the layer's own forward on the whole batch and one ordinary backward for the loss of each example;
both sides start from the same random state, so that dropout is compared value by value.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only

from lightning_privacy.gradients.contributions import Contribution, merge
from lightning_privacy.gradients.interception import grow_root
from lightning_privacy.gradients.rules import composite_rule_for, rule_for

Rows = Callable[[Any], Sequence[Tensor]]
SEED = 1234


class Taps:
    """Hooks tensors as a site does, and keeps the contributions by parameter."""

    def __init__(self) -> None:
        self.root = torch.zeros((), requires_grad=True)
        self.found: dict[str, list[Contribution]] = {}

    def __call__(
        self, output: Tensor, kept: Any, contributions: Callable[[Any, Tensor], Mapping[str, Contribution]]
    ) -> Tensor:
        assert not any(leaf.requires_grad for leaf in tree_leaves(kept) if isinstance(leaf, Tensor)), "kept is detached"
        output = output.clone() if output._is_view() else output
        output = output if output.requires_grad else grow_root(self.root, output)

        def hook(gradient: Tensor) -> None:
            wide = torch.promote_types(gradient.dtype, torch.float32)
            given = tree_map_only(Tensor, lambda leaf: leaf.to(wide) if leaf.is_floating_point() else leaf, kept)
            for name, contribution in contributions(given, gradient.to(wide)).items():
                self.found.setdefault(name, []).append(contribution)

        output.register_hook(hook)
        return output

    def merged(self) -> dict[str, Contribution]:
        return {name: merge(contributions) for name, contributions in self.found.items()}


def tapped(layer: nn.Module, taps: Taps, *args: Any, **kwargs: Any) -> Any:
    composite, rule = composite_rule_for(layer), rule_for(layer)
    if composite is not None:
        detached = {name: p.detach() for name, p in layer.named_parameters()}
        return composite.forward(layer, detached, taps, *args, **kwargs)
    assert rule is not None, "this test is about a rule, not the fallback"
    bound = inspect.signature(type(layer).forward).bind(layer, *args, **kwargs)
    bound.apply_defaults()
    parameters = {name: None if p is None else p.detach() for name, p in layer._parameters.items()}
    output, kept = rule.forward(layer, parameters, *bound.args[1:])
    assert output.dim() >= rule.batched_dimensions(layer)
    names = frozenset(name for name, p in layer.named_parameters() if p.requires_grad)
    return taps(output, kept, lambda kept, gradient: rule.contributions(layer, kept, gradient, names))


def example_losses(rows: Sequence[Tensor]) -> Tensor:
    """Return a loss of each example that is not linear in any output."""
    total = torch.zeros(len(rows[0]), dtype=rows[0].dtype)
    for number, leaf in enumerate(rows):
        flat = torch.tanh(leaf.unsqueeze(-1).flatten(1))
        weights = torch.cos(1.3 * torch.arange(flat.shape[1], dtype=torch.float64) + 0.5 + number).to(flat.dtype)
        total = total + (flat * weights).sum(1)
    return total


def _close(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    assert found.shape == expected.shape, f"{what}: {tuple(found.shape)} is not {tuple(expected.shape)}"
    scale = max(1e-3, float(expected.abs().max())) if expected.numel() else 1.0
    error = float((found - expected).abs().max()) / scale if expected.numel() else 0.0
    assert error <= tolerance, f"{what}: relative error {error:.2e}"


def check_rule(
    layer: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    rows: Rows,
    tolerance: float = 1e-10,
    call: Callable[..., Any] | None = None,
) -> None:
    """Compare outputs, input gradients, and each example's gradient, its norm and the weighted sum.

    Args:
        layer: in the mode that matters; its frozen parameters are left out.
        args: of the call; floating point tensors that require grad are compared by their gradients, too.
        kwargs: of the call.
        rows: takes what the layer returned and gives tensors whose first dimension is the batch.
        tolerance: largest error, relative to the largest element.
        call: how ``run(*args, **kwargs)`` is called, by default directly.
    """
    kwargs = kwargs or {}
    call = call or (lambda run, *args, **kwargs: run(*args, **kwargs))
    names = [name for name, p in layer.named_parameters() if p.requires_grad]
    parameters = [p for p in layer.parameters() if p.requires_grad]
    inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.requires_grad]

    buffers = [buffer.clone() for buffer in layer.buffers()]
    torch.manual_seed(SEED)
    output = call(layer, *args, **kwargs)
    losses = example_losses(rows(output))
    each = [
        torch.autograd.grad(loss, parameters + inputs, retain_graph=True, allow_unused=True, materialize_grads=True)
        for loss in losses
    ]
    state = torch.get_rng_state()
    after = [buffer.clone() for buffer in layer.buffers()]
    for buffer, before in zip(layer.buffers(), buffers, strict=True):
        buffer.copy_(before)

    torch.manual_seed(SEED)
    taps = Taps()
    again = call(lambda *args, **kwargs: tapped(layer, taps, *args, **kwargs), *args, **kwargs)
    assert torch.equal(torch.get_rng_state(), state), "the layer draws other random numbers"
    for buffer, expected in zip(layer.buffers(), after, strict=True):
        _close(buffer, expected, tolerance, "buffer")
    (values, structure), (others, other_structure) = tree_flatten(output), tree_flatten(again)
    assert structure == other_structure
    for value, other in zip(values, others, strict=True):
        if isinstance(value, Tensor):
            assert value.dtype == other.dtype
            _close(other.detach(), value.detach(), tolerance, "output")
        else:
            assert value == other
    found_inputs = torch.autograd.grad(
        example_losses(rows(again)).sum(), [*inputs, taps.root], allow_unused=True, materialize_grads=True
    )[:-1]

    merged = taps.merged()
    assert set(names) <= set(merged), f"nothing was found for {set(names) - set(merged)}"
    weights = torch.linspace(-1, 2, len(losses), dtype=losses.dtype)
    for place, name in enumerate(names):
        expected = torch.stack([gradients[place] for gradients in each])
        contribution = merged[name]
        values = contribution.per_example()
        _close(values, expected, tolerance, name)
        norms = contribution.squared_norms()
        _close(norms, expected.flatten(1).square().sum(1), 10 * tolerance, f"norms of {name}")
        total = torch.zeros_like(parameters[place])
        contribution.add_weighted_sum(total, weights)
        _close(total, torch.tensordot(weights, expected, 1), 10 * tolerance, f"weighted sum of {name}")
    for place, found in enumerate(found_inputs):
        expected = torch.stack([gradients[len(names) + place] for gradients in each]).sum(0)
        _close(found, expected, tolerance, f"gradient of input {place}")
