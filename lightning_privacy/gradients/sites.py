"""The places where a network's layers are listened to.

A site stands in for the forward of one layer with parameters. While gradients are recorded it runs the layer on
detached parameters and hooks the output's gradient; the hook turns input and output gradient into contributions.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
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
from lightning_privacy.gradients.contributions import Contribution, Dense
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
from lightning_privacy.gradients.recorder import Recorder
from lightning_privacy.gradients.rules import RULES, Rule, rule_for

__all__ = ["install"]


def _hook(tensor: Tensor, hook: Callable[[Tensor], None]) -> None:
    tensor.register_hook(hook)  # type: ignore[no-untyped-call]


class _Use:
    """One call of one layer."""

    __slots__ = ("fired", "generation", "kept", "versions")

    def __init__(self, generation: int, kept: Any) -> None:
        self.generation = generation
        self.kept = kept
        self.fired = False
        self.versions = [leaf._version for leaf in tree_leaves(kept) if isinstance(leaf, Tensor)]


def _in_dtype(kept: Any, dtype: torch.dtype) -> Any:
    """Return a tensor or tuple with its floating point tensors in ``dtype``."""
    if isinstance(kept, Tensor):
        return kept.to(dtype) if kept.is_floating_point() else kept
    return tuple(_in_dtype(item, dtype) for item in kept) if isinstance(kept, tuple) else kept


class _Site:
    """Base of the sites: which layer, which of its parameters train."""

    def __init__(self, name: str, layer: nn.Module, recorder: Recorder, parameters: dict[str, nn.Parameter]) -> None:
        self.name = name or type(layer).__name__
        self.layer = layer
        self.recorder = recorder
        self.parameters = parameters
        # Norms are summed over thousands of values, and over all parameters: never in half precision.
        self.dtype = torch.promote_types(next(iter(parameters.values())).dtype, torch.float32)

    def count_use(self) -> None:
        uses = self.recorder.uses
        for parameter in self.parameters.values():
            uses[id(parameter)] = uses.get(id(parameter), 0) + 1

    def collect(self, name: str, contribution: Contribution) -> None:
        parameter = self.parameters[name]
        only = self.recorder.uses.get(id(parameter), 0) == 1
        self.recorder.collector.collect(parameter, contribution, only_use=only)

    def hooked(self, output: Tensor, kept: Any) -> Tensor:
        """Return the output, its gradient hooked."""
        if output._is_view():
            # An in-place activation on a view would rewrite the history under the hook.
            output = output.clone()
        if not output.requires_grad:
            output = grow_root(self.recorder.root, output)
        self.count_use()
        _hook(output, partial(self.receive, _Use(self.recorder.generation, kept)))
        return output

    def __call__(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Stand in for the layer's forward."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its layer is called")

    def receive(self, use: _Use, gradient: Tensor) -> None:
        """Turn the output's gradient into contributions."""
        raise NotImplementedError(f"{type(self).__name__} does not hook outputs")

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


class _RuleSite(_Site):
    """A layer with a rule."""

    def __init__(
        self, name: str, layer: nn.Module, recorder: Recorder, parameters: dict[str, nn.Parameter], rule: Rule
    ) -> None:
        super().__init__(name, layer, recorder, parameters)
        self.rule = rule
        self.names = frozenset(parameters)
        self.dimensions = rule.batched_dimensions(layer)
        self.signature = inspect.signature(type(layer).forward)

    def __call__(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        recorder = self.recorder
        if not recorder.listening():
            return original(*args, **kwargs)
        if kwargs:
            bound = self.signature.bind(self.layer, *args, **kwargs)
            bound.apply_defaults()  # without them, arguments behind an omitted one would be lost
            args = bound.args[1:]
        detached = {key: None if p is None else p.detach() for key, p in self.layer._parameters.items()}
        output, kept = self.rule.forward(self.layer, detached, *args)
        recorder.check_batch(self.name, output.shape, self.dimensions)
        return self.hooked(output, kept)

    def receive(self, use: _Use, gradient: Tensor) -> None:
        self.begin(use)
        kept, use.kept = use.kept, None
        kept, gradient = _in_dtype(kept, self.dtype), gradient.to(self.dtype)
        for name, contribution in self.rule.contributions(self.layer, kept, gradient, self.names).items():
            self.collect(name, contribution)


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
        if not recorder.listening():
            return original(*args, **kwargs)
        detached = {id(p): p.detach() for p in self.layer.parameters(recurse=False)}
        with recorder.bypassed(), swapped_parameters(self.layer, detached):
            output = original(*args, **kwargs)
        if not isinstance(output, Tensor):
            raise UnsupportedError(f"layer '{self.name}' has an Opacus sampler and returns {type(output).__name__}")
        recorder.check_batch(self.name, output.shape, 2)
        return self.hooked(output, [leaf.detach() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)])

    def receive(self, use: _Use, gradient: Tensor) -> None:
        self.begin(use)
        kept, use.kept = use.kept, None
        sampled = {id(p): values for p, values in self.sampler(self.layer, kept, gradient).items()}
        for name, parameter in self.parameters.items():
            values = sampled.get(id(parameter))
            if values is None or values.shape != (gradient.shape[0], *parameter.shape):
                found = None if values is None else tuple(values.shape)
                raise UnsupportedError(
                    f"the Opacus sampler of layer '{self.name}' returned shape {found} for '{name}'; expected "
                    f"{(gradient.shape[0], *parameter.shape)}"
                )
            self.collect(name, Dense(values.to(self.dtype)))


class _FallbackSite(_Site):
    """Any other module: run on one view of its parameters per example."""

    def __init__(self, name: str, layer: nn.Module, recorder: Recorder, parameters: dict[str, nn.Parameter]) -> None:
        super().__init__(name, layer, recorder, parameters)
        self.looped = False

    def __call__(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        recorder = self.recorder
        if not recorder.listening():
            return original(*args, **kwargs)
        size = recorder.expected_batch_size(self.name) if recorder.armed else first_batch_size((args, kwargs))
        expanded: dict[int, Tensor] = {}
        for name, parameter in self.parameters.items():
            view = expand_parameter(recorder.root, parameter.detach(), size)
            _hook(view, partial(self.receive_parameter, _Use(recorder.generation, None), name))
            expanded[id(parameter)] = view
        self.count_use()
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

    def receive_parameter(self, use: _Use, name: str, gradient: Tensor) -> None:
        self.begin(use)
        self.collect(name, Dense(gradient.contiguous().to(self.dtype)))


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
        if listening and self.recorder.batch_size is None:
            self.recorder.batch_size = first_batch_size((args, kwargs))
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


def _site(name: str, layer: nn.Module, recorder: Recorder) -> _Site | None:
    parametrized = nn.utils.parametrize.is_parametrized(layer)
    own = {key: p for key, p in layer.named_parameters(recurse=False) if p.requires_grad}
    if not own and not parametrized:
        return None
    rule = rule_for(layer)
    if rule is not None:
        return _RuleSite(name, layer, recorder, own, rule)
    # Where a rule declines a layer of its class, Opacus's sampler for that class doesn't know better.
    sampler = None if type(layer) in RULES else opacus_sampler(layer)
    if sampler is not None:
        return _SamplerSite(name, layer, recorder, own, sampler)
    everything = {key: p for key, p in layer.named_parameters() if p.requires_grad}
    return _FallbackSite(name, layer, recorder, everything) if everything else None


def install(module: nn.Module, recorder: Recorder) -> None:
    """Put a site at every layer of ``module`` that has trainable parameters.

    Args:
        module: the network.
        recorder: their shared state.
    """
    for name, layer in module.named_modules():
        site = _site(name, layer, recorder)
        if layer is module:
            intercept(layer, _RootSite(module, recorder, site))
        elif site is not None:
            intercept(layer, site)
