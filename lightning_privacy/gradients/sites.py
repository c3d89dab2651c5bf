"""The places where a network's layers are listened to.

A site stands in for the forward of one layer with parameters. While gradients are recorded it runs the layer on
detached parameters and hooks the output's gradient; the hook turns input and output gradient into contributions.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Container, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_privacy.errors import (
    ConfigurationError,
    LightningPrivacyError,
    PrivacyViolation,
    UnsupportedError,
)
from lightning_privacy.gradients.contributions import Contribution, Dense, Outer
from lightning_privacy.gradients.fallback import (
    OpacusSampler,
    call_empty,
    call_looped,
    call_vectorised,
    expand_parameter,
    opacus_sampler,
    swapped_parameters,
)
from lightning_privacy.gradients.interception import grow_root, intercept
from lightning_privacy.gradients.layout import FIRST, Layout, fold, spread
from lightning_privacy.gradients.precision import full_precision
from lightning_privacy.gradients.recorder import Recorder
from lightning_privacy.gradients.rules import RULES, CompositeRule, Rule, composite_rule_for, rule_for

__all__ = ["install"]

Contributions = Callable[[Any, Tensor], Mapping[str, Contribution]]


def _hook(tensor: Tensor, hook: Callable[[Tensor], None]) -> None:
    tensor.register_hook(hook)  # type: ignore[no-untyped-call]


class _Use:
    """One call of one layer."""

    __slots__ = ("fired", "generation", "kept", "layout", "names", "versions")

    def __init__(self, generation: int, kept: Any, layout: Layout, names: frozenset[str]) -> None:
        self.generation = generation
        self.kept = kept
        self.layout = layout
        self.names = names
        self.fired = False
        self.versions = [leaf._version for leaf in tree_leaves(kept) if isinstance(leaf, Tensor)]


def _each(values: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a tensor or tuple with its tensors changed."""
    if isinstance(values, Tensor):
        return change(values)
    return tuple(_each(item, change) for item in values) if isinstance(values, tuple) else values


def _rows_first(values: Any, layout: Layout) -> Any:
    """Return a tensor or tuple with the batch in the first dimension."""
    place = layout.dimension
    return _each(values, lambda tensor: tensor.movedim(place, 0)) if place else values


class _Site:
    """Base of the sites: which layer, which of its parameters train."""

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
        uses = self.recorder.uses
        for name in names:
            key = id(self.parameters[name])
            uses[key] = uses.get(key, 0) + 1

    def collect(self, use: _Use, contributions: Mapping[str, Contribution], rows: int) -> None:
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

    def hooked(self, output: Tensor, use: _Use, hook: Callable[[_Use, Tensor], None]) -> Tensor:
        """Return the output, its gradient hooked."""
        if use.layout.shared:
            output = spread(output, use.layout, self.recorder.expected_rows(self.name))
        if output._is_view():
            # An in-place activation on a view would rewrite the history under the hook.
            output = output.clone()
        if not output.requires_grad:
            output = grow_root(self.recorder.root, output)
        self.count_use(use.names)
        _hook(output, partial(hook, use))
        return output

    def __call__(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Stand in for the layer's forward."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its layer is called")

    def begin(self, use: _Use) -> None:
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
        if use.versions != [leaf._version for leaf in tree_leaves(use.kept) if isinstance(leaf, Tensor)]:
            raise PrivacyViolation(
                f"the input of layer '{self.name}' was modified in place after the layer ran, so its per-example "
                "gradient can't be known; use the out-of-place operation"
            )

    def arrived(self, use: _Use, gradient: Tensor) -> tuple[Any, Tensor]:
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


class _RuleSite(_Site):
    """A layer with a rule."""

    def __init__(
        self, name: str, layer: nn.Module, recorder: Recorder, parameters: dict[str, nn.Parameter], rule: Rule
    ) -> None:
        super().__init__(name, layer, recorder, parameters)
        self.rule = rule
        self.dimensions = rule.batched_dimensions(layer)
        self.signature = inspect.signature(type(layer).forward)

    def __call__(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        recorder = self.recorder
        names = self.training()
        if not names or not recorder.listening():
            return original(*args, **kwargs)
        if kwargs:
            bound = self.signature.bind(self.layer, *args, **kwargs)
            bound.apply_defaults()  # without them, arguments behind an omitted one would be lost
            args = bound.args[1:]
        detached = {key: None if p is None else p.detach() for key, p in self.layer._parameters.items()}
        output, kept = self.rule.forward(self.layer, detached, *args)
        layout = recorder.place(self.name, output.shape, self.dimensions)
        if layout is None:
            return output
        return self.hooked(output, _Use(recorder.generation, kept, layout, names), self.receive)

    def receive(self, use: _Use, gradient: Tensor) -> None:
        """Turn the output's gradient into contributions."""
        self.begin(use)
        with full_precision(gradient.device.type):
            kept, gradient = self.arrived(use, gradient)
            self.collect(use, self.rule.contributions(self.layer, kept, gradient, use.names), gradient.shape[0])


class _CompositeSite(_Site):
    """A layer whose rule listens to several tensors inside it."""

    def __init__(
        self, name: str, layer: nn.Module, recorder: Recorder, parameters: dict[str, nn.Parameter], rule: CompositeRule
    ) -> None:
        super().__init__(name, layer, recorder, parameters)
        self.rule = rule

    def __call__(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        recorder = self.recorder
        names = self.training()
        if not names or not recorder.listening():
            return original(*args, **kwargs)
        detached = {key: p.detach() for key, p in self.layer.named_parameters(remove_duplicate=False)}
        with recorder.bypassed():
            return self.rule.forward(self.layer, detached, partial(self.tap, names), *args, **kwargs)

    def tap(self, names: frozenset[str], output: Tensor, kept: Any, contributions: Contributions) -> Tensor:
        """Listen to one tensor of the layer; see :class:`~lightning_privacy.gradients.rules.base.Tap`."""
        layout = self.recorder.place(self.name, output.shape, 1)
        if layout is None:
            return output
        use = _Use(self.recorder.generation, kept, layout, names)
        return self.hooked(output, use, partial(self.receive, contributions))

    def receive(self, contributions: Contributions, use: _Use, gradient: Tensor) -> None:
        """Turn the tensor's gradient into contributions."""
        self.begin(use)
        with full_precision(gradient.device.type):
            kept, gradient = self.arrived(use, gradient)
            self.collect(use, contributions(kept, gradient), gradient.shape[0])


class _SamplerSite(_Site):
    """A layer served by a gradient sampler registered with Opacus."""

    def __init__(
        self,
        name: str,
        layer: nn.Module,
        recorder: Recorder,
        parameters: dict[str, nn.Parameter],
        sampler: OpacusSampler,
    ) -> None:
        super().__init__(name, layer, recorder, parameters)
        self.sampler = sampler

    def __call__(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        recorder = self.recorder
        names = self.training()
        if not names or not recorder.listening():
            return original(*args, **kwargs)
        detached = {id(p): p.detach() for p in self.layer.parameters(recurse=False)}
        with recorder.bypassed(), swapped_parameters(self.layer, detached):
            output = original(*args, **kwargs)
        if not isinstance(output, Tensor):
            raise UnsupportedError(f"layer '{self.name}' has an Opacus sampler and returns {type(output).__name__}")
        layout = recorder.place(self.name, output.shape, 2)
        if layout is None:
            return output
        kept = tuple(leaf.detach() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        return self.hooked(output, _Use(recorder.generation, kept, layout, names), self.receive)

    def receive(self, use: _Use, gradient: Tensor) -> None:
        """Turn the output's gradient into contributions."""
        self.begin(use)
        with full_precision(gradient.device.type):
            kept, gradient = self.arrived(use, gradient)
            sampled = {id(p): values for p, values in self.sampler(self.layer, list(kept), gradient).items()}
            contributions = {}
            for name in use.names:
                parameter = self.parameters[name]
                values = sampled.get(id(parameter))
                expected = (gradient.shape[0], *parameter.shape)
                if values is None or values.shape != expected:
                    found = None if values is None else tuple(values.shape)
                    raise UnsupportedError(
                        f"the Opacus sampler of layer '{self.name}' returned shape {found} for '{name}'; expected "
                        f"{expected}"
                    )
                contributions[name] = Dense(values.to(self.dtype))
            self.collect(use, contributions, gradient.shape[0])


class _FallbackSite(_Site):
    """Any other module: run on one view of its parameters per row."""

    def __init__(self, name: str, layer: nn.Module, recorder: Recorder, parameters: dict[str, nn.Parameter]) -> None:
        super().__init__(name, layer, recorder, parameters)
        self.looped = False

    def __call__(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        recorder = self.recorder
        names = self.training()
        if not names or not recorder.listening():
            return original(*args, **kwargs)
        if recorder.seen is not None:
            with recorder.bypassed():
                return original(*args, **kwargs)
        size = recorder.expected_rows(self.name) if recorder.armed else first_batch_size((args, kwargs))
        expanded: dict[int, Tensor] = {}
        for name in sorted(names):
            parameter = self.parameters[name]
            view = expand_parameter(recorder.root, parameter.detach(), size)
            use = _Use(recorder.generation, None, FIRST, frozenset([name]))
            _hook(view, partial(self.receive, use))
            expanded[id(parameter)] = view
        self.count_use(names)
        call = (self.name, self.layer, original, expanded, (args, kwargs), size)
        with recorder.bypassed():
            if size == 0:
                return call_empty(self.layer, original, expanded, (args, kwargs))
            if not self.looped:
                try:
                    return call_vectorised(*call)
                except LightningPrivacyError:
                    raise
                except (RuntimeError, NotImplementedError) as error:
                    self.looped = True
                    warnings.warn(
                        f"layer '{self.name}' ({type(self.layer).__name__}) has no rule and can't be vectorised, so it "
                        f"runs example by example, which is slow ({str(error).splitlines()[0]})",
                        stacklevel=2,
                    )
            return call_looped(*call)

    def receive(self, use: _Use, gradient: Tensor) -> None:
        """Take the gradient of one parameter's views, one for each row."""
        self.begin(use)
        (name,) = use.names
        self.collect(use, {name: Dense(gradient.contiguous().to(self.dtype))}, gradient.shape[0])


class _RootSite:
    """The network itself, where its own input tells the batch size when nobody else does."""

    def __init__(self, network: nn.Module, recorder: Recorder, inner: _Site | None) -> None:
        self.network = network
        self.recorder = recorder
        self.inner = inner

    def __call__(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        listening = self.recorder.armed and self.recorder.listening()
        if listening and self.recorder.collector.renew():
            return self.network.forward(*args, **kwargs)
        if listening and self.recorder.examples is None:
            self.recorder.take_examples(first_batch_size((args, kwargs)))
        if self.inner is not None:
            return self.inner(original, args, kwargs)
        return original(*args, **kwargs)


def first_batch_size(arguments: object) -> int:
    """Return the first dimension of the first tensor found in ``arguments``.

    Args:
        arguments: nested arguments of the network's forward.

    Raises:
        ConfigurationError: there is no tensor with a batch dimension.
    """
    for leaf in tree_leaves(arguments):
        if isinstance(leaf, Tensor) and leaf.dim() > 0:
            return int(leaf.shape[0])
    raise ConfigurationError("the network was called without a tensor that has a batch dimension; pass one first")


def _site(name: str, layer: nn.Module, recorder: Recorder, private: Container[int]) -> _Site | None:
    parametrized = nn.utils.parametrize.is_parametrized(layer)
    own = _trainable(name, layer, private, recurse=False)
    composite = composite_rule_for(layer)
    if composite is not None:
        everything = _trainable(name, layer, private)
        return _CompositeSite(name, layer, recorder, everything, composite) if everything else None
    if not own and not parametrized:
        return None
    rule = rule_for(layer)
    if rule is not None:
        return _RuleSite(name, layer, recorder, own, rule)
    # Where a rule declines a layer of its class, Opacus's sampler for that class doesn't know better.
    sampler = None if type(layer) in RULES else opacus_sampler(layer)
    if sampler is not None:
        return _SamplerSite(name, layer, recorder, own, sampler)
    everything = _trainable(name, layer, private)
    return _FallbackSite(name, layer, recorder, everything) if everything else None


def _trainable(
    name: str, layer: nn.Module, private: Container[int], *, recurse: bool = True
) -> dict[str, nn.Parameter]:
    """Return the private parameters, and refuse to run a layer on detached weights of which others must train."""
    named = {key: p for key, p in layer.named_parameters(recurse=recurse) if p.requires_grad}
    own = {key: p for key, p in named.items() if id(p) in private}
    if own and len(own) < len(named):
        raise UnsupportedError(
            f"layer '{name}' has private parameters ({', '.join(own)}) and public ones; declare all of a layer's "
            "parameters public, or none"
        )
    return own


def install(module: nn.Module, recorder: Recorder, private: Container[int]) -> None:
    """Put a site at every layer of ``module`` that has private parameters.

    Args:
        module: the network.
        recorder: their shared state.
        private: ``id`` of the parameters to listen for.
    """
    inner: set[nn.Module] = set()
    for name, layer in module.named_modules():
        site = None if layer in inner else _site(name, layer, recorder, private)
        if isinstance(site, _CompositeSite):
            inner.update(layer.modules())
        if layer is module:
            intercept(layer, _RootSite(module, recorder, site))
        elif site is not None:
            intercept(layer, site)
