"""Per-example gradients of a module nobody wrote a rule for.

The module runs once, vectorised over the batch, with a copy of its parameters for every example (an expanded view,
no memory). Ordinary backward then delivers, as the gradient of the expanded parameters, exactly the per-example
gradients; dropout and every other random choice are those of the one forward that was run. What ``torch.func.vmap``
can't vectorise runs example by example, slower and equally right.

A layer with a gradient sampler registered with Opacus is served by that sampler instead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils._pytree import tree_flatten, tree_unflatten

from lightning_privacy.errors import UnsupportedError

__all__ = [
    "LayerCall",
    "call_empty",
    "call_looped",
    "call_vectorised",
    "expand_parameter",
    "opacus_sampler",
    "swapped_parameters",
]

OpacusSampler = Callable[[nn.Module, list[Tensor], Tensor], dict[nn.Parameter, Tensor]]


@dataclass(frozen=True, slots=True)
class LayerCall:
    """A layer that is called.

    Args:
        name: the layer's name, for messages.
        module: the layer.
        original: its forward.
        arguments: positional and keyword arguments.
    """

    name: str
    module: nn.Module
    original: Callable[..., Any]
    arguments: tuple[tuple[Any, ...], dict[str, Any]]


class _Expand(Function):
    """``parameter`` seen once per example; backward ends here, a hook on the output takes the gradient."""

    @staticmethod
    def forward(_ctx: Any, _root: Tensor, parameter: Tensor, batch_size: int) -> Tensor:
        return parameter.unsqueeze(0).expand(batch_size, *parameter.shape)

    @staticmethod
    def backward(_ctx: Any, *_gradients: Any) -> tuple[None, None, None]:
        return None, None, None


def expand_parameter(root: Tensor, parameter: Tensor, batch_size: int) -> Tensor:
    """Return ``(batch_size, *parameter.shape)``, one view of the parameter per example, that requires grad.

    Args:
        root: scalar leaf that requires grad; never receives a gradient.
        parameter: detached.
        batch_size: number of examples.
    """
    expanded: Tensor = _Expand.apply(root, parameter, batch_size)
    return expanded


@contextmanager
def swapped_parameters(module: nn.Module, replacements: Mapping[int, Tensor]) -> Iterator[None]:
    """Let ``module`` and its children compute with other tensors in place of their parameters.

    Args:
        module: the module.
        replacements: tensors by ``id`` of the parameter they stand for.
    """
    swapped: list[tuple[dict[str, Any], str, Any]] = []
    flat: list[tuple[nn.RNNBase, list[Any]]] = []
    try:
        for child in module.modules():
            if isinstance(child, nn.RNNBase):
                # Recurrent layers compute with a list made at construction, not with their attributes.
                flat.append((child, child._flat_weights))
                child._flat_weights = [
                    None if weight is None else replacements.get(id(weight), weight) for weight in child._flat_weights
                ]
            for name, parameter in child._parameters.items():
                if parameter is not None and id(parameter) in replacements:
                    swapped.append((child._parameters, name, parameter))
                    child._parameters[name] = replacements[id(parameter)]  # type: ignore[assignment]
        yield
    finally:
        for parameters, name, parameter in reversed(swapped):
            parameters[name] = parameter
        for layer, weights in flat:
            layer._flat_weights = weights


def _batched(leaf: Any, batch_size: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == batch_size


def _example_leaves(module: nn.Module, arguments: tuple[tuple[Any, ...], dict[str, Any]], batch_size: int) -> list[int]:
    """Return which leaves of ``arguments`` hold one entry per example."""
    args, kwargs = arguments
    shared = None
    if isinstance(module, nn.MultiheadAttention):
        # A mask of positions by positions is for all examples, also when there are as many of these as positions.
        mask = args[5] if len(args) > 5 else kwargs.get("attn_mask")
        shared = mask if isinstance(mask, Tensor) and mask.dim() == 2 else None
    leaves = tree_flatten(arguments)[0]
    return [index for index, leaf in enumerate(leaves) if leaf is not shared and _batched(leaf, batch_size)]


def _check_inputs(name: str, leaves: list[Any], batch_size: int) -> None:
    if not any(_batched(leaf, batch_size) for leaf in leaves):
        shapes = [tuple(leaf.shape) for leaf in leaves if isinstance(leaf, Tensor)]
        raise UnsupportedError(
            f"layer '{name}' has no rule and got tensors of shape {shapes}, none with the {batch_size} examples of "
            "the batch as first dimension; put the batch first (batch_first=True)"
        )


def _batch_dimension(module: nn.Module, place: int) -> int:
    """Return where the batch is in the output number ``place``: the final states of recurrent layers have it second."""
    return 1 if isinstance(module, nn.RNNBase) and place > 0 else 0


def _check_output(name: str, leaf: Tensor, dimension: int) -> None:
    if leaf.dim() <= dimension or leaf.shape[dimension] != 1:
        raise UnsupportedError(
            f"layer '{name}' returned shape {tuple(leaf.shape)} for a single example; its outputs must have the batch "
            "as first dimension"
        )


def call_vectorised(call: LayerCall, parameters: Mapping[int, Tensor], batch_size: int) -> Any:
    """Run a layer on every example with that example's parameters, in one ``vmap``.

    Args:
        call: the layer and its arguments; tensors whose first dimension is B are split.
        parameters: expanded parameters, ``(B, *shape)``, by ``id`` of the parameter.
        batch_size: B.

    Returns:
        What the layer returns for the whole batch.

    Raises:
        UnsupportedError: nothing, or the output, is not batch first.
        RuntimeError: the module can't be vectorised.
    """
    name, module = call.name, call.module
    leaves, spec = tree_flatten(call.arguments)
    _check_inputs(name, leaves, batch_size)
    mapped = _example_leaves(module, call.arguments, batch_size)
    output_spec: list[Any] = []

    def single(weights: dict[int, Tensor], *tensors: Tensor) -> list[Tensor]:
        filled = list(leaves)
        for index, tensor in zip(mapped, tensors, strict=True):
            filled[index] = tensor.unsqueeze(0)
        args, kwargs = tree_unflatten(filled, spec)
        with swapped_parameters(module, weights):
            outputs, structure = tree_flatten(call.original(*args, **kwargs))
        places = [index for index, leaf in enumerate(outputs) if isinstance(leaf, Tensor)]
        for place in places:
            _check_output(name, outputs[place], 0)
        output_spec[:] = [places, structure, outputs]
        return [outputs[place].squeeze(0) for place in places]

    results = torch.func.vmap(single, randomness="different")(dict(parameters), *(leaves[i] for i in mapped))
    places, structure, outputs = output_spec
    for place, result in zip(places, results, strict=True):
        outputs[place] = result
    return tree_unflatten(outputs, structure)


def call_looped(call: LayerCall, parameters: Mapping[int, Tensor], batch_size: int) -> Any:
    """Run a layer example by example; arguments and result as in :func:`call_vectorised`."""
    name, module = call.name, call.module
    leaves, spec = tree_flatten(call.arguments)
    _check_inputs(name, leaves, batch_size)
    unbound = {key: value.unbind(0) for key, value in parameters.items()}
    mapped = set(_example_leaves(module, call.arguments, batch_size))
    collected: list[list[Any]] = []
    structure: Any = None
    for example in range(batch_size):
        filled = [leaf[example : example + 1] if at in mapped else leaf for at, leaf in enumerate(leaves)]
        args, kwargs = tree_unflatten(filled, spec)
        with swapped_parameters(module, {key: values[example] for key, values in unbound.items()}):
            outputs, structure = tree_flatten(call.original(*args, **kwargs))
        for place, leaf in enumerate(outputs):
            if isinstance(leaf, Tensor):
                _check_output(name, leaf, _batch_dimension(module, place))
        collected.append(outputs)
    joined = [
        torch.cat(list(column), _batch_dimension(module, place)) if isinstance(column[0], Tensor) else column[0]
        for place, column in enumerate(zip(*collected, strict=True))
    ]
    return tree_unflatten(joined, structure)


def call_empty(call: LayerCall, parameters: Mapping[int, Tensor]) -> Any:
    """Run a layer on a batch of no examples; arguments as in :func:`call_vectorised`, with B = 0."""
    # There is no example to take parameters from. What they are doesn't matter, but they keep the graph connected.
    args, kwargs = call.arguments
    with swapped_parameters(call.module, {key: value.sum(0) for key, value in parameters.items()}):
        return call.original(*args, **kwargs)


def opacus_sampler(module: nn.Module) -> OpacusSampler | None:
    """Return the gradient sampler registered with Opacus for exactly this class, if Opacus is loaded.

    Args:
        module: the layer.
    """
    opacus = sys.modules.get("opacus.grad_sample.grad_sample_module")
    if opacus is None:
        return None
    sampler: OpacusSampler | None = opacus.GradSampleModule.GRAD_SAMPLERS.get(type(module))
    return sampler
