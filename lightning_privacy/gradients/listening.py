"""What the places where a network is listened to have in common.

A site runs something on detached parameters, and a hook on the gradient of the result turns it into contributions.

Example:
    >>> import torch
    >>> from torch import nn
    >>> layer = nn.Linear(3, 2)
    >>> site = Site("0", layer, Recorder(collector=None), dict(layer.named_parameters()))
    >>> sorted(site.training())
    ['bias', 'weight']
    >>> _ = layer.bias.requires_grad_(False)
    >>> sorted(site.training())
    ['weight']
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_privacy.errors import PrivacyViolation, UnsupportedError
from lightning_privacy.gradients.contributions import Contribution, Dense
from lightning_privacy.gradients.interception import grow_root
from lightning_privacy.gradients.layout import Layout, fold, spread
from lightning_privacy.gradients.outer import Outer
from lightning_privacy.gradients.recorder import Recorder

__all__ = ["Site", "Use", "hook"]


def hook(tensor: Tensor, receive: Callable[[Tensor], None]) -> None:
    """Have ``receive`` called with the gradient of ``tensor``."""
    tensor.register_hook(receive)  # type: ignore[no-untyped-call]


class Use:
    """One call of one layer."""

    __slots__ = ("fired", "generation", "kept", "layout", "names", "versions")

    def __init__(self, generation: int, kept: Any, layout: Layout, names: frozenset[str]) -> None:
        self.generation = generation
        self.kept = kept
        self.layout = layout
        self.names = names
        self.fired = False
        self.versions = _versions(kept)


def _versions(kept: Any) -> list[int]:
    """How often each tensor that was kept has been modified in place."""
    leaves = (kept,) if isinstance(kept, Tensor) else tree_leaves(kept)
    return [leaf._version for leaf in leaves if isinstance(leaf, Tensor)]


def _each(values: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a tensor or tuple with its tensors changed."""
    if isinstance(values, Tensor):
        return change(values)
    return tuple(_each(item, change) for item in values) if isinstance(values, tuple) else values


def _rows_first(values: Any, layout: Layout) -> Any:
    """Return a tensor or tuple with the batch in the first dimension."""
    place = layout.dimension
    return _each(values, lambda tensor: tensor.movedim(place, 0)) if place else values


class Site:
    """Base of the sites: which layer, which of its parameters train.

    Attributes:
        unseen: whether :meth:`run` calls nothing but functions on detached parameters, which nobody need watch.
        served_by: what finds the gradients of single examples here, in a word or two.
    """

    unseen: ClassVar[bool] = False
    served_by: str = ""

    def __init__(self, name: str, layer: nn.Module, recorder: Recorder, parameters: dict[str, nn.Parameter]) -> None:
        self.name = name or type(layer).__name__
        self.layer = layer
        self.recorder = recorder
        self.parameters = parameters
        self.names = frozenset(parameters)
        # Norms are summed over thousands of values, and over all parameters: never in half precision.
        self.dtype = torch.promote_types(next(iter(parameters.values())).dtype, torch.float32)

    def training(self) -> frozenset[str]:
        """Return the names of the parameters that train at the moment: some may be switched off for one loss."""
        if all(parameter.requires_grad for parameter in self.parameters.values()):
            return self.names
        return frozenset(name for name, parameter in self.parameters.items() if parameter.requires_grad)

    def count_use(self, names: frozenset[str]) -> None:
        """Count one more use of each of these parameters."""
        uses = self.recorder.uses
        for name in names:
            key = id(self.parameters[name])
            uses[key] = uses.get(key, 0) + 1

    def collect(self, use: Use, contributions: Mapping[str, Contribution], rows: int) -> None:
        """Hand over what the rows of one call contribute, put together for each example."""
        recorder = self.recorder
        examples = recorder.expected_examples(self.name)
        for name, contribution in contributions.items():
            if name not in use.names:
                continue
            parameter = self.parameters[name]
            _check_shape(self.name, name, contribution, (rows, *parameter.shape))
            only = recorder.uses.get(id(parameter), 0) == 1
            recorder.collector.collect(parameter, fold(contribution, examples, rows), only_use=only)

    def hooked(self, output: Tensor, use: Use, receive: Callable[[Use, Tensor], None]) -> Tensor:
        """Return the output, its gradient hooked."""
        if use.layout.shared:
            output = spread(output, use.layout, self.recorder.expected_rows(self.name))
        if output._is_view():
            # An in-place activation on a view would rewrite the history under the hook.
            output = output.clone()
        if not output.requires_grad:
            output = grow_root(self.recorder.root, output)
        self.count_use(use.names)
        hook(output, partial(receive, use))
        return output

    def __call__(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Stand in for the layer's forward."""
        recorder, watch = self.recorder, self.recorder.watch
        if not self.unseen or watch is None or not watch.rest():
            return self._seen(original, args, kwargs)
        try:
            names = self.training()
            if names and recorder.listening() and (not recorder.armed or watch.only_data(args, kwargs)):
                output = self.run(original, args, kwargs, names)
                if recorder.armed and recorder.seen is not None:
                    watch.note_output(output)
                return output
        finally:
            watch.wake()
        return self._seen(original, args, kwargs)

    def _seen(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Stand in for the layer's forward; what it calls is watched, where something watches."""
        names = self.training()
        if not names or not self.recorder.listening():
            return original(*args, **kwargs)
        watch = self.recorder.watch
        if watch is None or not watch.active:
            return self.run(original, args, kwargs, names)
        if watch.without_data((args, kwargs)):
            # A layer of constants, or of parameters, makes one more tensor of parameters: positions looked up once
            # for all examples. It is told apart by example where it meets the batch.
            return original(*args, **kwargs)
        if watch.follows((args, kwargs)):
            args, kwargs = watch.with_rows(self.name, args, kwargs)
        output = self.run(original, args, kwargs, names)
        if self.recorder.seen is not None:
            watch.note_output(output)
        return output

    def run(
        self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], names: frozenset[str]
    ) -> Any:
        """Run the layer so that the gradients of its examples can be had.

        Args:
            original: the layer's forward.
            args: positional arguments of the call.
            kwargs: keyword arguments of the call.
            names: of the parameters that train, at least one.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how its layer is called")

    def begin(self, use: Use) -> None:
        """Check that this gradient belongs to the micro-batch at hand."""
        if torch.is_grad_enabled():
            raise PrivacyViolation(
                f"layer '{self.name}' is differentiated twice (create_graph=True, such as a gradient penalty); the "
                "second derivative has no per-example bound here"
            )
        self.recorder.collector.begin_backward()
        if use.fired or use.generation != self.recorder.generation:
            raise PrivacyViolation(
                f"layer '{self.name}' received a gradient for an earlier batch: a graph was kept beyond its step. "
                "Detach what you carry from batch to batch, and call backward once per batch."
            )
        use.fired = True
        if use.versions != _versions(use.kept):
            raise PrivacyViolation(
                f"the input of layer '{self.name}' was modified in place after the layer ran, so its per-example "
                "gradient can't be known; use the out-of-place operation"
            )

    def arrived(self, use: Use, gradient: Tensor) -> tuple[Any, Tensor]:
        """Return what was kept and the gradient: rows first, in the precision of norms."""
        kept, use.kept = use.kept, None
        if use.layout.shared:
            kept = spread(kept, use.layout, gradient.shape[0])
        kept, gradient = _rows_first(kept, use.layout), _rows_first(gradient, use.layout)
        dtype = self.dtype
        return _each(kept, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor), gradient.to(
            dtype
        )


def _check_shape(layer: str, name: str, contribution: Contribution, expected: tuple[int, ...]) -> None:
    """Refuse a rule that misunderstood its task, before wrong numbers come of it."""
    if isinstance(contribution, Dense):
        found: tuple[int, ...] = tuple(contribution.values.shape)
    elif isinstance(contribution, Outer) and contribution.pairs:
        pair = contribution.pairs[0]
        found = (pair.right.shape[0], *contribution.shape)
    else:
        return
    if found != expected:
        raise UnsupportedError(
            f"the rule of layer '{layer}' returned a contribution of shape {found} for '{name}'; it must be "
            f"{expected}, one gradient for each example"
        )
