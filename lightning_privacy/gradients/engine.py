"""One backward pass turned into one private gradient (DP-SGD, Abadi et al. 2016, Algorithm 1, by book-keeping).

While attached, every layer with parameters runs on detached ones, so autograd carries gradients from layer to layer
and none to a parameter. Each layer's output gradient arrives in a hook; with the layer's input it gives the
per-example norms, and at the end of the same backward the clipped sum (book-keeping: Bu et al. 2023, "Differentially
Private Optimization on Large Model at Small Cost", Algorithm 1). Before anything outside can look, the result has
been charged, noised and divided by the expected batch size: ``p.grad`` is private from the moment it exists.

A parameter that receives a gradient any other way stops training: nothing bounds that gradient.

Example:
    >>> import torch
    >>> from torch import nn
    >>> from lightning_privacy.mechanisms.noise import NoiseSource
    >>> model = nn.Linear(3, 1)
    >>> engine = PrivateGradients(
    ...     model, max_grad_norm=1.0, noise_multiplier=1.0, expected_batch_size=8, noise=NoiseSource()
    ... )
    >>> engine.attach()
    >>> engine.arm(batch_size=8, step=0)
    >>> model(torch.randn(8, 3)).mean().backward()
    >>> engine.released, model.weight.grad.shape
    (1, torch.Size([1, 3]))
    >>> engine.detach()
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lightning_privacy._validate import non_negative, one_of, positive, positive_int
from lightning_privacy.errors import PrivacyViolation
from lightning_privacy.gradients.buffers import GradientBuffers
from lightning_privacy.gradients.clipping import ClippingPolicy, clipping_policy
from lightning_privacy.gradients.contributions import Contribution, has_cheap_sync
from lightning_privacy.gradients.findings import Findings
from lightning_privacy.gradients.inspection import refuse_coupling_layers, refuse_unfit
from lightning_privacy.gradients.interception import is_intercepted, release
from lightning_privacy.gradients.layout import Layouts
from lightning_privacy.gradients.precision import full_precision
from lightning_privacy.gradients.recorder import Recorder
from lightning_privacy.gradients.single_entries import add_single_entries, entries_at
from lightning_privacy.gradients.sites import install
from lightning_privacy.gradients.trained import TrainedParameters
from lightning_privacy.mechanisms.noise import NoiseSource

__all__ = ["PrivateGradients"]

# Streams of noise that one release may use: one for each precision and device, and one for counts.
_STREAMS = 64


@dataclass(frozen=True, slots=True)
class _Expected:
    """What the next backward is about."""

    step: int
    loss_scale: float
    gradient_scale: float
    closes_step: bool
    empty: bool
    again: bool
    example_weights: Tensor | None = None
    entries: Tensor | None = None
    release: int = 0


class PrivateGradients:
    """Clips, sums and noises the gradient of ``module`` inside backward.

    Args:
        module: the network. Its own layers stay what they are; copies of it are free of this object.
        max_grad_norm: clipping norm C, over all trainable parameters; what else a policy asked for by name takes.
        noise_multiplier: standard deviation of the noise on the sum, in units of C; 0 adds none.
        expected_batch_size: what the noisy sum is divided by. A constant that doesn't depend on the draw.
        clipping: the name of a clipping policy, or one.
        views: rows of a batch that belong to one example, next to each other; their gradients are averaged before
            clipping.
        loss_reduction: ``"mean"`` when the loss averages over the micro-batch, ``"sum"`` when it adds up.
        noise: where noise comes from.
        charge: called before each release; what it raises keeps the release from happening.
        public: names of parameters whose gradients never depend on private data; autograd trains them as ever.
        reduce: called with each flat sum of a step, to add up in place what several processes have.
        leader: whether this process is the one that adds the noise.

    Raises:
        ConfigurationError: a number out of range, or no trainable parameter.
        UnsupportedError: a layer that voids the guarantee, by name.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        max_grad_norm: float | Sequence[float] | Mapping[str, float],
        noise_multiplier: float,
        expected_batch_size: float,
        clipping: str | ClippingPolicy = "flat",
        views: int = 1,
        loss_reduction: str = "mean",
        noise: NoiseSource,
        charge: Callable[[], None] | None = None,
        public: Collection[str] = (),
        reduce: Callable[[Tensor], None] | None = None,
        leader: bool = True,
    ) -> None:
        self.policy = clipping_policy(clipping, max_grad_norm)
        self.noise_multiplier = non_negative(noise_multiplier=noise_multiplier)
        self.expected_batch_size = positive(expected_batch_size=expected_batch_size)
        self.views = positive_int(views=views)
        one_of(("mean", "sum"), loss_reduction=loss_reduction)
        refuse_unfit(module)
        self.policy.prepare(self.expected_batch_size)
        # A policy that can't share this much noise out says so now.
        self.policy.gradient_noise_multiplier(self.noise_multiplier)
        self._module = module
        self._mean = loss_reduction == "mean"
        self._noise = noise
        self._charge = charge
        self._reduce = reduce
        self._leader = leader
        self._released = 0
        self._attached = False
        self._trained = TrainedParameters(module, public)
        self._groups: dict[int, int] = {}
        self._expected: _Expected | None = None
        self._collecting = False
        self._open_step: int | None = None
        self._published = False
        self._findings = Findings({})
        self._buffers = GradientBuffers([])
        self._counts: Tensor | None = None
        self._last_examples: int | None = None
        self._noise_std = 0.0
        self._open_bound = 0.0
        self._recorder = Recorder(self, views=self.views)

    @property
    def released(self) -> int:
        """Number of private gradients written so far."""
        return self._released

    @property
    def pending(self) -> bool:
        """Whether a backward is expected and has not happened."""
        expected = self._expected
        return expected is not None and not (expected.again and expected.release)

    @property
    def accumulating(self) -> bool:
        """Whether a step has micro-batches and was not closed."""
        return self._open_step is not None

    @property
    def module(self) -> nn.Module:
        """The network."""
        return self._module

    @property
    def num_entries(self) -> int:
        """Entries of the private gradient, over all parameters that train privately; 0 before it is attached."""
        return sum(parameter.numel() for parameter in self._trained.private)

    def entries(self, positions: Tensor) -> Tensor:
        """Return some entries of the private gradient that was released last.

        Args:
            positions: int64, shape ``(K,)``, counted over all parameters one after the other.

        Returns:
            float64, shape ``(K,)``, on the CPU.

        Raises:
            PrivacyViolation: none was released, or an unfinished step has taken its place.
            ConfigurationError: a position that there is not.
        """
        if not self._published:
            raise PrivacyViolation("there is no private gradient to look at: none was released since the last step")
        return entries_at(positions, self._trained.private, self._buffers)

    def use_layouts(self, layouts: Layouts) -> None:
        """Say where the examples are in the outputs of layers that don't have them in the first dimension.

        Args:
            layouts: as found by running the step on batches of two sizes.
        """
        self._recorder.layouts = layouts

    def attach(self) -> None:
        """Start intercepting; does nothing when already attached.

        Raises:
            PrivacyViolation: another engine is attached to the module, or to a part of it.
        """
        if self._attached:
            return
        for name, layer in self._module.named_modules():
            if is_intercepted(layer):
                raise PrivacyViolation(
                    f"layer '{name}' ({type(layer).__name__}) has private gradients from elsewhere already, so each "
                    "would see only part of a step; call detach() on the DPOptimizer or engine that was attached before"
                )
        self._trained.track(weakref.WeakMethod(self.discard))
        numbers = self.policy.groups(self._trained.private_names)
        self._groups = {id(p): number for p, number in zip(self._trained.private, numbers, strict=True)}
        self._findings = Findings(self._groups)
        self._buffers = GradientBuffers(self._trained.private)
        self._drop_gradients()
        install(self._module, self._recorder, self._groups)
        self._attached = True

    def detach(self) -> None:
        """Leave the module as it was, without gradients; does nothing when not attached."""
        if not self._attached:
            return
        for layer in self._module.modules():
            release(layer)
        self._trained.forget()
        self.discard()
        self._buffers.withdraw()
        self._attached = False

    def arm(
        self,
        *,
        batch_size: int | None,
        step: int,
        loss_scale: float = 1.0,
        gradient_scale: float = 1.0,
        closes_step: bool = True,
        empty: bool = False,
        again: bool = False,
        example_weights: Tensor | None = None,
        entries: Tensor | None = None,
    ) -> None:
        """Expect exactly one backward, of the micro-batch that comes now.

        Args:
            batch_size: number of examples in it; None takes it from the network's first argument.
            step: number of the step it belongs to.
            loss_scale: factor on the loss, such as 1 / accumulated batches; it is undone.
            gradient_scale: factor on the gradient that is released, for a gradient scaler that divides by it.
            closes_step: release at the end of this backward. Otherwise the clipped sum is kept, under noise.
            empty: the batch is a placeholder for an empty draw, and its contribution is zero.
            again: let further backwards over the same batch make a release each, as optimizers need that evaluate
                their closure several times. Each is charged.
            example_weights: factors on the losses of the examples, shape ``(batch_size,)``, at least 0. Each gradient
                is multiplied by its factor and then clipped, so the bound is what it is without.
            entries: further examples of the step, whose gradient is a single entry and longer than the bound: the
                canaries of an audit. int64, shape ``(K,)``, the entry of each. They are clipped and counted like
                those of the batch, and must have been drawn like those.

        Raises:
            PrivacyViolation: a layer in a mode that mixes examples, or not attached.
        """
        if not self._attached:
            raise PrivacyViolation("gradients are not attached to the module; call attach() first")
        positive(loss_scale=loss_scale)
        positive(gradient_scale=gradient_scale)
        if self._open_step is not None and step != self._open_step:
            raise PrivacyViolation(
                f"step {self._open_step} was not closed before step {step} began, so its examples could count twice in "
                "one release; close it (closes_step=True) or call discard()"
            )
        if self._trained.changed() or not self._buffers.fits():
            if self._open_step is not None:
                raise PrivacyViolation("the set of trainable parameters changed between micro-batches of one step")
            self.detach()
            refuse_unfit(self._module)
            self.attach()
        refuse_coupling_layers(self._module)
        self._forget_micro_batch()
        self._expected = _Expected(
            step, loss_scale, gradient_scale, closes_step, empty, again, example_weights, entries
        )
        self._recorder.start(batch_size)

    def release_noise(self, *, step: int) -> None:
        """Release the gradient of an empty batch: noise alone.

        Args:
            step: number of the step.

        Raises:
            PrivacyViolation: not attached, or the step has a micro-batch already.
        """
        if not self._attached or self._open_step is not None:
            raise PrivacyViolation("noise alone can be released between steps only, while gradients are attached")
        self._expected = _Expected(step, 1.0, 1.0, closes_step=True, empty=True, again=False)
        self._finish()

    def discard(self) -> None:
        """Forget an unfinished step; what it had collected is overwritten."""
        self._forget_micro_batch()
        self._expected = None
        if self._open_step is not None:
            self._buffers.clear()
            self._counts = None
        self._open_step = None

    def is_private(self) -> bool:
        """Return whether what the parameters hold in ``grad`` is the last private gradient.

        It may have been changed in place, which is post-processing; a ``grad`` that is another tensor is refused, and
        so is one that a frozen parameter has.
        """
        return (
            self._attached
            and self._published
            and self._buffers.published()
            and all(p.grad is None for p in self._module.parameters() if not self._trained.tracks(p))
        )

    def consume(self) -> None:
        """Say that an optimizer used the gradient: the same one must not count as private for the next step."""
        self._published = False

    def knows(self, parameter: nn.Parameter) -> bool:
        """Return whether ``parameter`` is one of the network's."""
        return self._trained.knows(parameter)

    def is_public(self, parameter: nn.Parameter) -> bool:
        """Return whether ``parameter`` was declared to never depend on private data."""
        return self._trained.is_public(parameter)

    # What follows is called by the recorder.

    def renew(self) -> bool:
        """Take in what began to train after the micro-batch was announced, if its forward has not begun yet.

        Returns:
            Whether the layers are listened to anew.

        Raises:
            PrivacyViolation: the step has another micro-batch already.
        """
        expected = self._expected
        if expected is None or self._recorder.uses or (self._buffers.fits() and not self._trained.changed()):
            return False
        self.arm(
            batch_size=self._recorder.examples,
            step=expected.step,
            loss_scale=expected.loss_scale,
            gradient_scale=expected.gradient_scale,
            closes_step=expected.closes_step,
            empty=expected.empty,
            again=expected.again,
            example_weights=expected.example_weights,
            entries=expected.entries,
        )
        return True

    def collect(self, parameter: nn.Parameter, contribution: Contribution, *, only_use: bool) -> None:
        """Take in what a layer found for one parameter.

        Args:
            parameter: the parameter.
            contribution: its per-example gradients from one use.
            only_use: no other use in this step's forward; then the norm is due now, while data is in cache.
        """
        self._findings.add(parameter, contribution, only_use=only_use)

    def begin_backward(self) -> None:
        """Note that gradients start to arrive.

        Raises:
            PrivacyViolation: no backward was expected, or other parameters train than when the batch was announced.
            UnsupportedError: a layer in a mode that mixes examples.
        """
        if self._collecting:
            return
        if self._expected is None and not self._trained.has_public:
            raise PrivacyViolation(_NOT_DUE)
        if self._trained.changed():
            self.discard()
            self._drop_gradients()
            self._published = False
            raise PrivacyViolation(
                "the set of trainable parameters changed between the announcement of this batch and its backward (a "
                "layer was unfrozen, added or replaced), so gradients of some would be neither clipped nor "
                "noised; do it between two steps: in on_train_epoch_start, or before zero_grad() and the forward"
            )
        refuse_coupling_layers(self._module)
        self._collecting = True
        self._trained.take_public_gradient()  # of a backward before, in which no private layer took part
        # Runs when this backward is over, before it returns: the same mechanism gradient reducers use.
        torch.autograd.Variable._execution_engine.queue_callback(self._finish)

    def _finish(self) -> None:
        if self._trained.take_public_gradient():
            # A loss that trains what never sees private data: what it says about the private part is not wanted.
            self._forget_findings()
            return
        expected = self._expected
        if expected is None:
            self._forget_findings()
            raise PrivacyViolation(_NOT_DUE)
        try:
            with full_precision(self._trained.private[0].device.type):
                self._accumulate(expected)
                if expected.closes_step:
                    self._release(expected)
        except BaseException:
            self.discard()
            raise
        self._forget_micro_batch()
        if expected.again and expected.closes_step:
            self._expected = replace(expected, release=expected.release + 1)
            self._recorder.start(self._last_examples)
        else:
            self._expected = None
            if self._trained.has_public:
                # A loss of the public part may follow, through layers of the private one.
                self._recorder.start(self._last_examples)

    def _accumulate(self, expected: _Expected) -> None:
        norms = self._findings.squared_norms()
        self._last_examples = self._recorder.examples
        if self._open_step is None:
            self._open(expected)
        self._check_bound()
        if expected.entries is not None:
            self._add_entries(expected.entries, expected.gradient_scale)
        if norms is None or expected.empty:
            return
        # Autograd saw loss_scale * (sum of losses) / rows: undo both to get the gradients of the examples, each the
        # mean over its views.
        examples = norms.shape[0]
        scale = (examples if self._mean else 1 / self.views) / expected.loss_scale
        norms = norms * scale**2
        example_weights = self._example_weights(expected, norms)
        if example_weights is not None:
            norms = norms * example_weights.square().unsqueeze(1)
        factors = self.policy.bounded_factors(norms)
        rejected = ~norms.isfinite().all(1)
        # Where a look would wait for the device, they are always masked: that costs a copy of each layer's input.
        if not has_cheap_sync(rejected.device) or bool(rejected.any()):
            self._findings.reject(rejected)
        factors = factors * (expected.gradient_scale * scale / self.expected_batch_size)
        if example_weights is not None:
            factors = factors * example_weights.unsqueeze(1)
        weights = factors.unbind(1)
        for parameter in self._trained.private:
            group = self._groups[id(parameter)]
            self._findings.add_weighted_sum(parameter, self._buffers.view(parameter), weights[group])
        self._add_counts(self.policy.counts(norms))

    def _check_bound(self) -> None:
        if self.policy.norm_bound != self._open_bound:
            raise PrivacyViolation(
                f"the bound of {self.policy!r} changed from {self._open_bound:g} to {self.policy.norm_bound:g} within "
                "a step, whose noise is for the first; give every DPOptimizer a policy of its own"
            )

    def _add_entries(self, entries: Tensor, gradient_scale: float) -> None:
        scale = gradient_scale / self.expected_batch_size
        trained = self._trained.private
        self._add_counts(add_single_entries(entries, trained, self._groups, self._buffers, self.policy, scale=scale))

    def _add_counts(self, counts: Tensor | None) -> None:
        if counts is not None:
            self._counts = counts.float() if self._counts is None else self._counts + counts.to(self._counts.device)

    def _example_weights(self, expected: _Expected, norms: Tensor) -> Tensor | None:
        """The factors on the examples' losses, where the norms are; None where all are 1."""
        given = expected.example_weights
        if given is None:
            return None
        if given.shape != norms.shape[:1]:
            raise PrivacyViolation(
                f"there are weights for {tuple(given.shape)} examples and gradients of {norms.shape[0]}: the batch "
                "does not hold the examples that were drawn, so weights would go to others; let collate_fn and "
                "training_step keep every example in its place"
            )
        return given.to(norms.device, norms.dtype)

    def _open(self, expected: _Expected) -> None:
        self._buffers.withdraw()
        self._published = False
        share = self.policy.gradient_noise_multiplier(self.noise_multiplier)
        self._open_bound = self.policy.norm_bound
        self._noise_std = share * self._open_bound / self.expected_batch_size * expected.gradient_scale
        begins = self._leader and not self._noise.secure
        self._buffers.begin(
            self._noise, std=self._noise_std if begins else 0.0, step=expected.step, stream=expected.release * _STREAMS
        )
        self._open_step = expected.step

    def _release(self, expected: _Expected) -> None:
        if self._charge is not None:
            self._charge()
        for number, flat in enumerate(self._buffers.flat):
            if self._reduce is not None:
                self._reduce(flat)
            if self._noise.secure and self._noise_std > 0:
                # The sum itself is rounded to a grid, so noise is added to what all processes have together.
                self._add_securely(flat, expected, std=self._noise_std, stream=number)
        self._buffers.publish()
        self._published = True
        self._open_step = None
        self._released += 1
        self._release_counts(expected)

    def _release_counts(self, expected: _Expected) -> None:
        nothing = self.policy.counts(torch.zeros(0, max(self._groups.values()) + 1))
        if nothing is None:
            return
        counts = (nothing.float() if self._counts is None else self._counts).to(self._trained.private[0].device)
        self._counts = None
        std = self.policy.count_std if self.noise_multiplier > 0 else 0.0
        stream = expected.release * _STREAMS + _STREAMS - 1
        if self._leader and not self._noise.secure:
            counts += self._noise.normals(counts.numel(), std=std, step=expected.step, stream=stream).to(counts.device)
        if self._reduce is not None:
            self._reduce(counts)
        if self._noise.secure and std > 0:
            self._add_securely(counts, expected, std=std, stream=_STREAMS - 1)
        self.policy.observe(counts.cpu(), self.expected_batch_size)

    def _add_securely(self, total: Tensor, expected: _Expected, *, std: float, stream: int) -> None:
        """Add noise to a sum that all processes have, by the leader alone, and give every process the result."""
        if self._leader:
            self._noise.add_(total, std=std, step=expected.step, stream=expected.release * _STREAMS + stream)
        else:
            total.zero_()
        if self._reduce is not None:
            self._reduce(total)

    def _forget_micro_batch(self) -> None:
        self._forget_findings()
        self._trained.take_public_gradient()
        self._recorder.stop()

    def _forget_findings(self) -> None:
        self._collecting = False
        self._findings = Findings(self._groups)

    def _drop_gradients(self) -> None:
        # Optimizers step on what they find in grad, whether the parameter is frozen or not.
        for parameter in self._module.parameters():
            parameter.grad = None


_NOT_DUE = (
    "backward ran when no private step was due: a second backward for the same batch (several losses, "
    "torch.autograd.grad in the training step, a closure called twice, reentrant checkpointing) or one "
    "outside the training step. Add the losses up and call backward once; declare a part that never sees the data, "
    "such as the generator of a GAN, with public=...; checkpoint with use_reentrant=False."
)
