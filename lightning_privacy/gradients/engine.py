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
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lightning_privacy._validate import non_negative, one_of, positive
from lightning_privacy.errors import PrivacyViolation
from lightning_privacy.gradients.buffers import GradientBuffers
from lightning_privacy.gradients.clipping import flat_clip_factors
from lightning_privacy.gradients.contributions import Contribution
from lightning_privacy.gradients.findings import Findings
from lightning_privacy.gradients.inspection import refuse_coupling_layers, refuse_unfit
from lightning_privacy.gradients.interception import is_intercepted, release
from lightning_privacy.gradients.raw_gradients import refuse_raw_gradient
from lightning_privacy.gradients.recorder import Recorder
from lightning_privacy.gradients.sites import install
from lightning_privacy.mechanisms.noise import NoiseSource

__all__ = ["PrivateGradients"]


@dataclass(frozen=True, slots=True)
class _Expected:
    """What the next backward is about."""

    step: int
    loss_scale: float
    closes_step: bool
    empty: bool


class PrivateGradients:
    """Clips, sums and noises the gradient of ``module`` inside backward.

    Args:
        module: the network. Its own layers stay what they are; copies of it are free of this object.
        max_grad_norm: clipping norm C, over all trainable parameters.
        noise_multiplier: standard deviation of the noise on the sum, in units of C; 0 adds none.
        expected_batch_size: what the noisy sum is divided by. A constant that doesn't depend on the draw.
        clipping: ``"flat"``.
        loss_reduction: ``"mean"`` when the loss averages over the micro-batch, ``"sum"`` when it adds up.
        noise: where noise comes from.
        charge: called before each release; what it raises keeps the release from happening.

    Raises:
        ConfigurationError: a number out of range, or no trainable parameter.
        UnsupportedError: a layer that voids the guarantee, by name.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        max_grad_norm: float,
        noise_multiplier: float,
        expected_batch_size: float,
        clipping: str = "flat",
        loss_reduction: str = "mean",
        noise: NoiseSource,
        charge: Callable[[], None] | None = None,
    ) -> None:
        self.max_grad_norm = positive(max_grad_norm=max_grad_norm)
        self.noise_multiplier = non_negative(noise_multiplier=noise_multiplier)
        self.expected_batch_size = positive(expected_batch_size=expected_batch_size)
        one_of(("flat",), clipping=clipping)
        one_of(("mean", "sum"), loss_reduction=loss_reduction)
        refuse_unfit(module)
        self._module = module
        self._mean = loss_reduction == "mean"
        self._noise = noise
        self._charge = charge
        self._released = 0
        self._attached = False
        self._parameters: list[nn.Parameter] = []
        self._names: dict[int, str] = {}
        self._handles: list[RemovableHandle] = []
        self._expected: _Expected | None = None
        self._collecting = False
        self._step_open = False
        self._open_step = 0
        self._published = False
        self._findings = Findings()
        self._buffers = GradientBuffers([])
        self._recorder = Recorder(self)

    @property
    def released(self) -> int:
        """Number of private gradients written so far."""
        return self._released

    @property
    def pending(self) -> bool:
        """Whether a backward is expected and has not happened."""
        return self._expected is not None

    @property
    def accumulating(self) -> bool:
        """Whether a step has micro-batches and was not closed."""
        return self._step_open

    @property
    def module(self) -> nn.Module:
        """The network."""
        return self._module

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
        self._parameters = [p for p in self._module.parameters() if p.requires_grad]
        self._names = {id(p): name for name, p in self._module.named_parameters()}
        self._buffers = GradientBuffers(self._parameters)
        self._drop_gradients()
        install(self._module, self._recorder)
        discard = weakref.WeakMethod(self.discard)
        for parameter in self._parameters:
            self._handles.append(refuse_raw_gradient(parameter, self._names[id(parameter)], discard))
        self._attached = True

    def detach(self) -> None:
        """Leave the module as it was, without gradients; does nothing when not attached."""
        if not self._attached:
            return
        for layer in self._module.modules():
            release(layer)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.discard()
        self._buffers.withdraw()
        self._attached = False

    def arm(
        self,
        *,
        batch_size: int | None,
        step: int,
        loss_scale: float = 1.0,
        closes_step: bool = True,
        empty: bool = False,
    ) -> None:
        """Expect exactly one backward, of the micro-batch that comes now.

        Args:
            batch_size: number of examples in it; None takes it from the network's first argument.
            step: number of the step it belongs to.
            loss_scale: factor on the loss, such as 1 / accumulated batches; it is undone.
            closes_step: release at the end of this backward. Otherwise the clipped sum is kept, under noise.
            empty: the batch is a placeholder for an empty draw, and its contribution is zero.

        Raises:
            PrivacyViolation: a layer in a mode that mixes examples, or not attached.
        """
        if not self._attached:
            raise PrivacyViolation("gradients are not attached to the module; call attach() first")
        positive(loss_scale=loss_scale)
        if self._step_open and step != self._open_step:
            raise PrivacyViolation(
                f"step {self._open_step} was not closed before step {step} began, so its examples could count twice in "
                "one release; close it (closes_step=True) or call discard()"
            )
        if self._trained_set_changed():
            if self._step_open:
                raise PrivacyViolation("the set of trainable parameters changed between micro-batches of one step")
            self.detach()
            refuse_unfit(self._module)
            self.attach()
        refuse_coupling_layers(self._module)
        self._forget_micro_batch()
        self._expected = _Expected(step, loss_scale, closes_step, empty)
        self._recorder.start(batch_size)

    def release_noise(self, *, step: int) -> None:
        """Release the gradient of an empty batch: noise alone.

        Args:
            step: number of the step.

        Raises:
            PrivacyViolation: not attached, or the step has a micro-batch already.
        """
        if not self._attached or self._step_open:
            raise PrivacyViolation("noise alone can be released between steps only, while gradients are attached")
        self._expected = _Expected(step, 1.0, closes_step=True, empty=True)
        self._finish()

    def discard(self) -> None:
        """Forget an unfinished step; what it had collected is overwritten."""
        self._forget_micro_batch()
        self._expected = None
        if self._step_open:
            self._buffers.clear()
        self._step_open = False

    def is_private(self) -> bool:
        """Return whether what the parameters hold in ``grad`` is the last private gradient.

        It may have been changed in place, which is post-processing; a ``grad`` that is another tensor is refused, and
        so is one that a frozen parameter has.
        """
        if not (self._attached and self._published and self._buffers.published()):
            return False
        own = {id(parameter) for parameter in self._parameters}
        return all(p.grad is None for p in self._module.parameters() if id(p) not in own)

    def consume(self) -> None:
        """Say that an optimizer used the gradient: the same one must not count as private for the next step."""
        self._published = False

    def knows(self, parameter: nn.Parameter) -> bool:
        """Return whether ``parameter`` is one whose gradient is made here."""
        return id(parameter) in self._names

    # What follows is called by the recorder.

    def renew(self) -> bool:
        """Take in what began to train after the micro-batch was announced, if its forward has not begun yet.

        Returns:
            Whether the layers are listened to anew.

        Raises:
            PrivacyViolation: the step has another micro-batch already.
        """
        expected = self._expected
        if expected is None or self._recorder.uses or not self._trained_set_changed():
            return False
        self.arm(
            batch_size=self._recorder.batch_size,
            step=expected.step,
            loss_scale=expected.loss_scale,
            closes_step=expected.closes_step,
            empty=expected.empty,
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
        if self._expected is None:
            raise PrivacyViolation(
                "backward ran when no private step was due: a second backward for the same batch (several losses, "
                "torch.autograd.grad in the training step, a closure called twice, reentrant checkpointing) or one "
                "outside the training step. Add the losses up and call backward once; checkpoint with "
                "use_reentrant=False."
            )
        if torch.is_autocast_enabled(self._parameters[0].device.type):
            raise PrivacyViolation(
                "backward ran inside torch.autocast, which would compute the norms of the examples in half precision; "
                "call backward after the with block"
            )
        if self._trained_set_changed():
            self.discard()
            self._drop_gradients()
            self._published = False
            raise PrivacyViolation(
                "the set of trainable parameters changed between the announcement of this batch and its backward (a "
                "layer was frozen, unfrozen, added or replaced), so gradients of some would be neither clipped nor "
                "noised; do it between two steps: in on_train_epoch_start, or before zero_grad() and the forward"
            )
        refuse_coupling_layers(self._module)
        self._collecting = True
        # Runs when this backward is over, before it returns: the same mechanism gradient reducers use.
        torch.autograd.Variable._execution_engine.queue_callback(self._finish)

    def _finish(self) -> None:
        expected = self._expected
        if expected is None:
            raise PrivacyViolation("a private gradient was finished twice in one backward")
        try:
            self._accumulate(expected)
            if expected.closes_step:
                if self._charge is not None:
                    self._charge()
                self._buffers.publish()
                self._published = True
                self._step_open = False
                self._released += 1
        except BaseException:
            self.discard()
            raise
        self._forget_micro_batch()
        self._expected = None

    def _accumulate(self, expected: _Expected) -> None:
        norms = self._findings.squared_norms()
        if not self._step_open:
            self._buffers.withdraw()
            self._published = False
            std = self.noise_multiplier * self.max_grad_norm / self.expected_batch_size
            self._buffers.begin(self._noise, std=std, step=expected.step)
            self._step_open = True
            self._open_step = expected.step
        if norms is None or expected.empty:
            return
        # Autograd saw loss_scale * (sum of losses) / B: undo both to get the gradients of the examples.
        scale = (norms.shape[0] if self._mean else 1) / expected.loss_scale
        factors = flat_clip_factors(norms * scale**2, max_grad_norm=self.max_grad_norm)
        rejected = ~norms.isfinite()
        if bool(rejected.any()):
            self._findings.reject(rejected)
        weights = factors * (scale / self.expected_batch_size)
        for parameter in self._parameters:
            self._findings.add_weighted_sum(parameter, self._buffers.view(parameter), weights)

    def _forget_micro_batch(self) -> None:
        self._collecting = False
        self._findings = Findings()
        self._recorder.stop()

    def _trained_set_changed(self) -> bool:
        return [id(p) for p in self._module.parameters() if p.requires_grad] != [id(p) for p in self._parameters]

    def _drop_gradients(self) -> None:
        # Optimizers step on what they find in grad, whether the parameter is frozen or not.
        for parameter in self._module.parameters():
            parameter.grad = None
