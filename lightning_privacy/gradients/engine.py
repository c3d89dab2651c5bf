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

from torch import Tensor, nn

from lightning_privacy._validate import non_negative, one_of, positive, positive_int
from lightning_privacy.errors import PrivacyViolation
from lightning_privacy.gradients.announcement import Announcement
from lightning_privacy.gradients.backward import DueBackward
from lightning_privacy.gradients.clipping import ClippingPolicy, clipping_policy
from lightning_privacy.gradients.inspection import refuse_coupling_layers, refuse_unfit
from lightning_privacy.gradients.interception import is_intercepted, release
from lightning_privacy.gradients.layout import Layouts
from lightning_privacy.gradients.sites import install
from lightning_privacy.gradients.step_sum import StepSum
from lightning_privacy.gradients.trained import TrainedParameters
from lightning_privacy.mechanisms.noise import NoiseSource

__all__ = ["PrivateGradients"]


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
        self._attached = False
        self._trained = TrainedParameters(module, public)
        self._total = StepSum(
            self.policy,
            noise,
            views=self.views,
            mean=loss_reduction == "mean",
            charge=charge,
            reduce=reduce,
            leader=leader,
        )
        self._backward = DueBackward(module, self._trained, self._total, views=self.views, renew=self._renew)

    @property
    def released(self) -> int:
        """Number of private gradients written so far."""
        return self._total.released

    @property
    def pending(self) -> bool:
        """Whether a backward is expected and has not happened."""
        return self._backward.pending

    @property
    def accumulating(self) -> bool:
        """Whether a step has micro-batches and was not closed."""
        return self._total.open_step is not None

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
        return self._total.entries(positions)

    def use_layouts(self, layouts: Layouts) -> None:
        """Say where the examples are in the outputs of layers that don't have them in the first dimension.

        Args:
            layouts: as found by running the step on batches of two sizes.
        """
        self._backward.recorder.layouts = layouts

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
        groups = {id(p): number for p, number in zip(self._trained.private, numbers, strict=True)}
        self._total.hold(self._trained.private, groups)
        self._backward.hold(groups)
        self._backward.drop_gradients()
        install(self._module, self._backward.recorder, groups)
        self._attached = True

    def detach(self) -> None:
        """Leave the module as it was, without gradients; does nothing when not attached."""
        if not self._attached:
            return
        for layer in self._module.modules():
            release(layer)
        self._trained.forget()
        self.discard()
        self._total.buffers.withdraw()
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
        due = Announcement(
            step=step,
            noise_multiplier=self.noise_multiplier,
            expected_batch_size=self.expected_batch_size,
            loss_scale=loss_scale,
            gradient_scale=gradient_scale,
            closes_step=closes_step,
            empty=empty,
            again=again,
            example_weights=example_weights,
            entries=entries,
        )
        self._announce(due, batch_size)

    def release_noise(self, *, step: int) -> None:
        """Release the gradient of an empty batch: noise alone.

        Args:
            step: number of the step.

        Raises:
            PrivacyViolation: not attached, or the step has a micro-batch already.
        """
        if not self._attached or self.accumulating:
            raise PrivacyViolation("noise alone can be released between steps only, while gradients are attached")
        self._backward.due = Announcement(step, self.noise_multiplier, self.expected_batch_size, empty=True)
        self._backward.finish()

    def discard(self) -> None:
        """Forget an unfinished step; what it had collected is overwritten."""
        self._backward.discard()

    def is_private(self) -> bool:
        """Return whether what the parameters hold in ``grad`` is the last private gradient.

        It may have been changed in place, which is post-processing; a ``grad`` that is another tensor is refused, and
        so is one that a frozen parameter has.
        """
        return (
            self._attached
            and self._total.published
            and self._total.buffers.published()
            and all(p.grad is None for p in self._module.parameters() if not self._trained.tracks(p))
        )

    def consume(self) -> None:
        """Say that an optimizer used the gradient: the same one must not count as private for the next step."""
        self._total.published = False

    def knows(self, parameter: nn.Parameter) -> bool:
        """Return whether ``parameter`` is one of the network's."""
        return self._trained.knows(parameter)

    def is_public(self, parameter: nn.Parameter) -> bool:
        """Return whether ``parameter`` was declared to never depend on private data."""
        return self._trained.is_public(parameter)

    def _announce(self, due: Announcement, batch_size: int | None) -> None:
        open_step = self._total.open_step
        if open_step is not None and due.step != open_step:
            raise PrivacyViolation(
                f"step {open_step} was not closed before step {due.step} began, so its examples could count twice in "
                "one release; close it (closes_step=True) or call discard()"
            )
        if self._trained.changed() or not self._total.buffers.fits():
            if open_step is not None:
                raise PrivacyViolation("the set of trainable parameters changed between micro-batches of one step")
            self.detach()
            refuse_unfit(self._module)
            self.attach()
        refuse_coupling_layers(self._module)
        self._backward.expect(due, batch_size)

    def _renew(self, due: Announcement) -> None:
        self._announce(due, self._backward.recorder.examples)
