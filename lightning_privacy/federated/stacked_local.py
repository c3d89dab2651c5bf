"""Local training of several clients at once: their weights are stacked, and one step is taken in all of them.

The step is mapped over the clients by ``torch.vmap``; the gradient of the sum of their losses has in each row the
gradient of one of them, and an optimizer that works entry by entry steps all rows as it would step each. So the result
is that of training one after the other, to rounding. Batches of different sizes go through the step in groups of one
size each, so no loss sees padding; a client that is done leaves the stack.

Example:
    >>> import torch
    >>> from torch import nn
    >>> from lightning_privacy.federated.algorithms import Algorithm, LocalTraining
    >>> from lightning_privacy.federated.flat import FlatModel
    >>> layer = nn.Linear(1, 1, bias=False)
    >>> model, optimizer = FlatModel(layer), torch.optim.SGD(layer.parameters(), lr=0.5)
    >>> loop = StackedLoop(layer, optimizer, lambda batch, index: (layer(batch) - 1).square().mean())
    >>> locals = [LocalTraining(client, 0, 4, model, optimizer) for client in range(2)]
    >>> start = [[p.detach() for p in layer.parameters()]] * 2
    >>> trained = loop.run(locals, [[(0, torch.ones(4, 1))], [(0, torch.ones(2, 1))]], start, Algorithm())
    >>> [round(float(rows[0]), 3) for rows in trained.weights]
    [1.0, 1.0]
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from lightning_privacy.errors import UnsupportedError
from lightning_privacy.federated.algorithms.algorithm import Algorithm, LocalTraining
from lightning_privacy.federated.flat import FlatModel
from lightning_privacy.federated.row_model import RowModel
from lightning_privacy.federated.stacked_weights import StackedWeights

__all__ = ["StackedLoop", "StackedResult"]

_ENTRY_BY_ENTRY = (SGD, Adam, AdamW, NAdam, RAdam, Adamax, Adagrad, Adadelta, RMSprop)
_WAY_OUT = "; set vectorize=False, and clients are trained one after the other"

Numbered = tuple[int, Any]
"""A batch with its number in its epoch."""


@dataclass(frozen=True)
class StackedResult:
    """What several clients have learned.

    Args:
        weights: Of each client, the trained parameters in the order of the optimizer.
        losses: Mean loss of each client over its batches.
    """

    weights: list[list[Tensor]]
    losses: list[Tensor]


class StackedLoop:
    """The local loop for several clients at once.

    Args:
        module: The model, whose parameters the optimizer holds.
        optimizer: The clients'; its groups are those of each client.
        loss_of: Maps (batch, its number) to the loss, or to the loss and a list of tensors that are handed to ``seen``.
        stack: Makes one batch of many of one size; the first dimension of every tensor is new.
        seen: Called with (place of the client, number of its step, tensors) after each step, where there are any.
        clip: Called with the optimizer before each step of each client.

    Raises:
        UnsupportedError: A layer draws random numbers or keeps statistics, or the optimizer looks at whole tensors.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        loss_of: Callable[[Any, int], Any],
        *,
        stack: Callable[[list[Any]], Any] | None = None,
        seen: Callable[[int, int, list[Tensor]], None] | None = None,
        clip: Callable[[Optimizer], None] | None = None,
    ) -> None:
        if type(optimizer) not in _ENTRY_BY_ENTRY:
            raise UnsupportedError(
                f"vectorize: {type(optimizer).__name__} is not known to step every entry of a parameter by itself, so "
                f"it would mix clients; use one of {', '.join(kind.__name__ for kind in _ENTRY_BY_ENTRY)}{_WAY_OUT}"
            )
        self._module = module
        self._optimizer = optimizer
        self._stack = _stacked if stack is None else stack
        self._seen = seen
        self._clip = clip
        names = {id(p): name for name, p in module.named_parameters()}
        self.parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        self._names = [f"module.{names[id(p)]}" for p in self.parameters]
        self._call = _Call(module, loss_of)

    def run(
        self,
        locals_: Sequence[LocalTraining],
        batches: Sequence[Sequence[Numbered]],
        starts: Sequence[Sequence[Tensor]],
        algorithm: Algorithm,
    ) -> StackedResult:
        """Train.

        Args:
            locals_: The clients; their ``num_steps`` count up.
            batches: Of each client, one for each step.
            starts: Weights of each client, as :attr:`parameters`.
            algorithm: May change gradients before a step.

        Raises:
            UnsupportedError: The step can't be taken in several clients at once; the message says why.
        """
        _refuse_layers(self._module)
        buffers = _versions(self._module)
        order = sorted(range(len(locals_)), key=lambda place: -len(batches[place]))
        stack = StackedWeights(self._optimizer, self.parameters, [starts[place] for place in order])
        sums = torch.zeros(len(order), dtype=torch.float64, device=self.parameters[0].device)
        final: list[list[Tensor]] = [[] for _ in order]
        for step in range(len(batches[order[0]])):
            active = sum(len(batches[place]) > step for place in order)
            for row in range(active, stack.rows):
                final[order[row]] = stack.take(row)
            stack.shrink(active)
            sums[:active] += self._gradients(stack, [batches[order[row]][step] for row in range(active)], order, step)
            if step == 0:
                _refuse_leaks(self._module, buffers)
            for row in range(active):
                self._adjust(stack, row, locals_[order[row]], algorithm)
                locals_[order[row]].num_steps += 1
            stack.step()
        for row in range(stack.rows):
            final[order[row]] = stack.take(row)
        _refuse_leaks(self._module, buffers)
        means = {place: sums[row] / len(batches[place]) for row, place in enumerate(order)}
        return StackedResult(final, [means[place] for place in range(len(order))])

    def _gradients(self, stack: StackedWeights, batches: list[Numbered], order: list[int], step: int) -> Tensor:
        """Write the gradients of all rows; returns their losses."""
        losses = torch.zeros(len(batches), dtype=torch.float64, device=self.parameters[0].device)
        groups: dict[Hashable, list[int]] = {}
        for row, (index, batch) in enumerate(batches):
            groups.setdefault((index, *_signature(batch)), []).append(row)
        total: Tensor | None = None
        for rows in groups.values():
            index, everyone = batches[rows[0]][0], len(rows) == stack.rows
            chosen = torch.tensor(rows, device=losses.device)
            weights: list[Tensor] = [p if everyone else p[chosen] for p in stack.parameters]
            batch = self._stack([batches[row][1] for row in rows])
            found, extra = self._mapped(dict(zip(self._names, weights, strict=True)), batch, index)
            total = found.sum() if total is None else total + found.sum()
            losses[chosen] = found.detach().double()
            if self._seen is not None and extra:
                for place, row in enumerate(rows):
                    self._seen(order[row], step, [tensor[place] for tensor in extra])
        if total is not None:
            total.backward()  # type: ignore[no-untyped-call]
        return losses

    def _mapped(self, weights: dict[str, Tensor], batch: Any, index: int) -> tuple[Tensor, list[Tensor]]:
        leaves, spec = tree_flatten(batch)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]

        def one(own: dict[str, Tensor], *mine: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            loss, extra = functional_call(self._call, own, (_filled(leaves, list(mine), spec), index))
            return loss, tuple(extra)

        name = type(self._module).__name__
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "There is a performance drop")
                loss, extra = torch.vmap(one, randomness="error")(weights, *tensors)
        except (RuntimeError, NotImplementedError) as error:
            if isinstance(error, UnsupportedError):
                raise
            raise UnsupportedError(
                f"vectorize: the step of {name} can't be taken in several clients at once: "
                f"{str(error).partition(chr(10))[0]} A step must not draw random numbers, write to buffers, decide by "
                f"values or take numbers out of tensors (.item()){_WAY_OUT}"
            ) from error
        return loss, list(extra)

    def _adjust(self, stack: StackedWeights, row: int, local: LocalTraining, algorithm: Algorithm) -> None:
        """Clip a client's gradients, and let the algorithm change them."""
        changes = type(algorithm).before_step is not Algorithm.before_step
        if self._clip is None and not changes:
            return
        gradients = [None if p.grad is None else p.grad[row] for p in stack.parameters]
        if self._clip is not None:
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.grad = gradient
            self._clip(self._optimizer)
            for parameter in self.parameters:
                parameter.grad = None
        if changes:
            places = {id(p): place for place, p in enumerate(self.parameters)}
            rows = {key: stack.parameters[place].detach()[row] for key, place in places.items()}
            for key, weights in rows.items():
                weights.grad = gradients[places[key]]
            algorithm.before_step(replace(local, model=cast(FlatModel, RowModel(local.model, rows))))


class _Call(nn.Module):
    """The step as a module, so that it can be called with other parameters.

    Args:
        module: Which the step uses.
        loss_of: The step.
    """

    def __init__(self, module: nn.Module, loss_of: Callable[[Any, int], Any]) -> None:
        super().__init__()
        self.module = module
        self._loss_of = loss_of

    def forward(self, batch: Any, index: int) -> tuple[Tensor, list[Tensor]]:
        """Return the loss, and what else the step gives."""
        found = self._loss_of(batch, index)
        loss, extra = found if isinstance(found, tuple) else (found, [])
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            raise UnsupportedError(
                f"vectorize: a step must return a loss that is one number for every batch, got {type(loss).__name__}"
                f"{_WAY_OUT}"
            )
        return loss, extra


def _stacked(batches: list[Any]) -> Any:
    flat = [tree_flatten(batch) for batch in batches]
    leaves = [
        torch.stack(list(column)) if isinstance(column[0], Tensor) else column[0]
        for column in zip(*(leaves for leaves, _ in flat), strict=True)
    ]
    return tree_unflatten(leaves, flat[0][1])


def _filled(leaves: list[Any], tensors: list[Tensor], spec: TreeSpec) -> Any:
    remaining = iter(tensors)
    return tree_unflatten([next(remaining) if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)


def _signature(batch: Any) -> tuple[Hashable, ...]:
    """What batches that go through the step together must have in common."""
    leaves, spec = tree_flatten(batch)
    parts: list[Hashable] = [str(spec)]
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            parts.append((leaf.shape, leaf.dtype))
        elif isinstance(leaf, str | int | float | bool | None):
            parts.append(leaf)
        else:
            raise UnsupportedError(
                f"vectorize: a batch holds a {type(leaf).__name__}, which can't be stacked{_WAY_OUT}"
            )
    return tuple(parts)


def _refuse_layers(module: nn.Module) -> None:
    """Refuse layers that are known not to work, with their names."""
    for name, layer in module.named_modules():
        if isinstance(layer, _NormBase) and layer.training and layer.track_running_stats:
            raise UnsupportedError(
                f"vectorize: layer '{name}' ({type(layer).__name__}) keeps running statistics, and there is one set of "
                f"them for all clients that train at once; use GroupNorm or LayerNorm{_WAY_OUT}"
            )
        if isinstance(layer, _DropoutNd) and layer.training and layer.p > 0:
            raise UnsupportedError(
                f"vectorize: layer '{name}' ({type(layer).__name__}) draws random numbers, which are keyed by client "
                f"and would be others here; set p=0{_WAY_OUT}"
            )


def _versions(module: nn.Module) -> dict[str, tuple[Tensor, int]]:
    return {name: (buffer, buffer._version) for name, buffer in module.named_buffers()}


def _refuse_leaks(module: nn.Module, buffers: dict[str, tuple[Tensor, int]]) -> None:
    """Refuse a step that left something in the module, which would be of all clients at once."""
    for name, (buffer, version) in _versions(module).items():
        known = buffers.get(name)
        if known is None or known[0] is not buffer or known[1] != version:
            raise UnsupportedError(f"vectorize: the step wrote to the buffer '{name}'{_WAY_OUT}")
    for part_name, part in module.named_modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(value):
                place = f"{part_name}.{name}" if part_name else name
                raise UnsupportedError(
                    f"vectorize: the step keeps a tensor in the attribute '{place}', which would be of all clients at "
                    f"once; return it or log it instead{_WAY_OUT}"
                )
