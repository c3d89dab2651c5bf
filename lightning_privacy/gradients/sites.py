"""The places where a network's layers are listened to.

A site stands in for the forward of one layer with parameters. While gradients are recorded it runs the layer on
detached parameters and hooks the output's gradient; the hook turns input and output gradient into contributions.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Container, Mapping
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_privacy.errors import (
    LightningPrivacyError,
    UnsupportedError,
)
from lightning_privacy.gradients.bystanders import (
    CalledPlainly,
    LossSite,
    PublicSite,
    RootSite,
    WatchedSite,
    first_batch_size,
)
from lightning_privacy.gradients.contributions import Contribution, Dense
from lightning_privacy.gradients.fallback import (
    LayerCall,
    OpacusSampler,
    call_empty,
    call_looped,
    call_vectorised,
    expand_parameter,
    opacus_sampler,
    swapped_parameters,
)
from lightning_privacy.gradients.functional import FollowedParameters
from lightning_privacy.gradients.inspection import loss_problem
from lightning_privacy.gradients.interception import Handler, intercept
from lightning_privacy.gradients.layout import FIRST
from lightning_privacy.gradients.listening import Site, Use, hook
from lightning_privacy.gradients.precision import full_precision
from lightning_privacy.gradients.recorder import Recorder
from lightning_privacy.gradients.rules import RULES, CompositeRule, Rule, composite_rule_for, rule_for

__all__ = ["install"]

# Methods in which a network's own code computes a loss from a batch.
_STEPS = ("training_step",)

Contributions = Callable[[Any, Tensor], Mapping[str, Contribution]]


class _RuleSite(Site):
    """A layer with a rule."""

    unseen: ClassVar[bool] = True

    def __init__(
        self, name: str, layer: nn.Module, recorder: Recorder, parameters: dict[str, nn.Parameter], rule: Rule
    ) -> None:
        super().__init__(name, layer, recorder, parameters)
        self.rule = rule
        self.served_by = type(rule).__name__
        self.dimensions = rule.batched_dimensions(layer)
        self.signature = inspect.signature(type(layer).forward)

    def run(
        self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], names: frozenset[str]
    ) -> Any:
        """See :meth:`Site.run`."""
        recorder = self.recorder
        if kwargs:
            bound = self.signature.bind(self.layer, *args, **kwargs)
            bound.apply_defaults()  # without them, arguments behind an omitted one would be lost
            args = bound.args[1:]
        detached = {key: None if p is None else p.detach() for key, p in self.layer._parameters.items()}
        output, kept = self.rule.forward(self.layer, detached, *args)
        layout = recorder.place(self.name, output.shape, self.dimensions)
        if layout is None:
            return output
        return self.hooked(output, Use(recorder.generation, kept, layout, names), self.receive)

    def receive(self, use: Use, gradient: Tensor) -> None:
        """Turn the output's gradient into contributions."""
        self.begin(use)
        with full_precision(gradient.device.type):
            kept, gradient = self.arrived(use, gradient)
            self.collect(use, self.rule.contributions(self.layer, kept, gradient, use.names), gradient.shape[0])


class _CompositeSite(Site):
    """A layer whose rule listens to several tensors inside it."""

    def __init__(
        self, name: str, layer: nn.Module, recorder: Recorder, parameters: dict[str, nn.Parameter], rule: CompositeRule
    ) -> None:
        super().__init__(name, layer, recorder, parameters)
        self.rule = rule
        self.served_by = type(rule).__name__

    def run(
        self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], names: frozenset[str]
    ) -> Any:
        """See :meth:`Site.run`."""
        recorder = self.recorder
        unknown = recorder.armed and recorder.seen is None and self.name not in recorder.layouts
        packed = bool(args) and isinstance(args[0], nn.utils.rnn.PackedSequence)  # which knows its examples
        if unknown and not packed and getattr(self.layer, "batch_first", True) is False:
            raise UnsupportedError(
                f"layer '{self.name}' ({type(self.layer).__name__}) takes time first, and whether the batch really is "
                "in the second dimension of what it gets can't be told here: a batch put first would be mixed along "
                "time. Set batch_first=True, or train with DifferentialPrivacy(probe=True), which finds out"
            )
        detached = {key: p.detach() for key, p in self.layer.named_parameters(remove_duplicate=False)}
        with self.recorder.bypassed():
            return self.rule.forward(self.layer, detached, partial(self.tap, names), *args, **kwargs)

    def tap(self, names: frozenset[str], output: Tensor, kept: Any, contributions: Contributions) -> Tensor:
        """Listen to one tensor of the layer; see :class:`~lightning_privacy.gradients.rules.base.Tap`."""
        layout = self.recorder.place(self.name, output.shape, 1)
        if layout is None:
            return output
        if layout.dimension not in (0, None):
            raise UnsupportedError(
                f"layer '{self.name}' ({type(self.layer).__name__}) has the examples of the batch where it expects "
                "time: what it gets doesn't agree with its batch_first, so it would mix them; set batch_first, or swap "
                "the first two dimensions of its input"
            )
        use = Use(self.recorder.generation, kept, layout, names)
        return self.hooked(output, use, partial(self.receive, contributions))

    def receive(self, contributions: Contributions, use: Use, gradient: Tensor) -> None:
        """Turn the tensor's gradient into contributions."""
        self.begin(use)
        with full_precision(gradient.device.type):
            kept, gradient = self.arrived(use, gradient)
            self.collect(use, contributions(kept, gradient), gradient.shape[0])


class _SamplerSite(Site):
    """A layer served by a gradient sampler registered with Opacus."""

    served_by = "sampler of Opacus"

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

    def run(
        self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], names: frozenset[str]
    ) -> Any:
        """See :meth:`Site.run`."""
        recorder = self.recorder
        detached = {id(p): p.detach() for p in self.layer.parameters(recurse=False)}
        with recorder.bypassed(), swapped_parameters(self.layer, detached):
            output = original(*args, **kwargs)
        if not isinstance(output, Tensor):
            raise UnsupportedError(f"layer '{self.name}' has an Opacus sampler and returns {type(output).__name__}")
        layout = recorder.place(self.name, output.shape, 2)
        if layout is None:
            return output
        kept = tuple(leaf.detach() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        return self.hooked(output, Use(recorder.generation, kept, layout, names), self.receive)

    def receive(self, use: Use, gradient: Tensor) -> None:
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


class _FallbackSite(Site):
    """Any other module: run on one view of its parameters per row."""

    served_by = "a view per example"

    def __init__(self, name: str, layer: nn.Module, recorder: Recorder, parameters: dict[str, nn.Parameter]) -> None:
        super().__init__(name, layer, recorder, parameters)
        self.looped = False
        self.followed = True

    def run(
        self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], names: frozenset[str]
    ) -> Any:
        """See :meth:`Site.run`."""
        recorder = self.recorder
        # By itself this module sees one example at a time, so it can't mix them. Once a probe has looked for that,
        # following its parameters through the functions it calls is faster and knows every place of the batch.
        if self.followed and recorder.watch is not None and recorder.watch.active:
            if recorder.seen is not None:
                return original(*args, **kwargs)
            if recorder.layouts:
                try:
                    return original(*args, **kwargs)
                except UnsupportedError:
                    self.followed = False
        if recorder.seen is not None:
            with recorder.bypassed():
                return original(*args, **kwargs)
        size = recorder.expected_rows(self.name) if recorder.armed else first_batch_size((args, kwargs))
        expanded: dict[int, Tensor] = {}
        for name in sorted(names):
            parameter = self.parameters[name]
            view = expand_parameter(recorder.root, parameter.detach(), size)
            use = Use(recorder.generation, None, FIRST, frozenset([name]))
            hook(view, partial(self.receive, use))
            expanded[id(parameter)] = view
        self.count_use(names)
        call = LayerCall(self.name, self.layer, original, (args, kwargs))
        with recorder.bypassed():
            if size == 0:
                return call_empty(call, expanded)
            if not self.looped:
                try:
                    return call_vectorised(call, expanded, size)
                except LightningPrivacyError:
                    raise
                except (RuntimeError, NotImplementedError) as error:
                    self.looped = True
                    warnings.warn(
                        f"layer '{self.name}' ({type(self.layer).__name__}) has no rule and can't be vectorised, so it "
                        f"runs example by example, which is slow ({str(error).splitlines()[0]})",
                        stacklevel=2,
                    )
            return call_looped(call, expanded, size)

    def receive(self, use: Use, gradient: Tensor) -> None:
        """Take the gradient of one parameter's views, one for each row."""
        self.begin(use)
        (name,) = use.names
        self.collect(use, {name: Dense(gradient.contiguous().to(self.dtype))}, gradient.shape[0])


def _site(name: str, layer: nn.Module, recorder: Recorder, private: Container[int]) -> Site | None:
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


def _warn_uncompiled(name: str) -> None:
    warnings.warn(
        f"layer '{name}' is compiled by torch.compile; while its gradients are private it runs uncompiled",
        stacklevel=4,
    )


def install(module: nn.Module, recorder: Recorder, private: Container[int]) -> None:
    """Put a site at every layer of ``module`` that has private parameters.

    Args:
        module: the network.
        recorder: their shared state.
        private: ``id`` of the parameters to listen for.
    """
    watch = FollowedParameters(module, recorder, private)
    recorder.watch = watch
    inner: set[nn.Module] = set()
    for name, layer in module.named_modules():
        site = None if layer in inner else _site(name, layer, recorder, private)
        if isinstance(site, _CompositeSite):
            inner.update(layer.modules())
        handler: Handler | None = site
        own = [p for p in layer.parameters(recurse=False) if p.requires_grad]
        if site is None and layer not in inner and own and not any(id(p) in private for p in own):
            handler = PublicSite(recorder, watch)
        if isinstance(site, _FallbackSite) and next(layer.children(), None) is not None:
            handler = WatchedSite(watch)
        problem = loss_problem(layer)
        if problem is not None:
            handler = LossSite(name, layer, recorder, problem)
        if "_orig_mod" in layer._modules:  # torch.compile(layer)
            _warn_uncompiled(name)
            handler = CalledPlainly(layer._modules["_orig_mod"])
        if layer is module:
            intercept(layer, RootSite(module, recorder, handler, "forward"))
        elif handler is not None:
            intercept(layer, handler)
        if layer._compiled_call_impl is not None:  # layer.compile()
            _warn_uncompiled(name)
            intercept(layer, CalledPlainly(layer._call_impl), "_compiled_call_impl")
    for method in _STEPS:
        if callable(getattr(module, method, None)):
            intercept(module, RootSite(module, recorder, None, method), method)
