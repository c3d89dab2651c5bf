"""The backward that is due: what its layers find is collected, and at its end handed to the sum of the step.

Gradients arrive in the hooks of the layers, one by one. With the first of them a call is queued that autograd makes
when the backward is over, before it returns; there the findings are clipped, summed and, if the step ends, released.

Example:
    >>> import torch, weakref
    >>> from torch import nn
    >>> from lightning_privacy.gradients.clipping import FlatClipping
    >>> from lightning_privacy.gradients.contributions import Dense
    >>> from lightning_privacy.mechanisms.noise import NoiseSource
    >>> model = nn.Linear(2, 1, bias=False)
    >>> trained, total = TrainedParameters(model, public=()), StepSum(FlatClipping(1.0), NoiseSource())
    >>> backward = DueBackward(model, trained, total, renew=print)
    >>> trained.track(weakref.WeakMethod(backward.discard))
    >>> total.hold(trained.private, {id(model.weight): 0})
    >>> backward.hold({id(model.weight): 0})
    >>> backward.expect(Announcement(step=0, noise_multiplier=0.0, expected_batch_size=1.0), batch_size=1)
    >>> backward.collect(model.weight, Dense(torch.tensor([[[3.0, 4.0]]])), only_use=True)
    >>> backward.finish()
    >>> model.weight.grad, backward.pending
    (tensor([[0.6000, 0.8000]]), False)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from lightning_privacy.errors import PrivacyViolation
from lightning_privacy.gradients.announcement import Announcement
from lightning_privacy.gradients.contributions import Contribution
from lightning_privacy.gradients.findings import Findings
from lightning_privacy.gradients.inspection import refuse_coupling_layers
from lightning_privacy.gradients.precision import full_precision
from lightning_privacy.gradients.recorder import Recorder
from lightning_privacy.gradients.step_sum import StepSum
from lightning_privacy.gradients.trained import TrainedParameters

__all__ = ["DueBackward"]


class DueBackward:
    """Collects from the layers of ``module`` in a backward that was announced, and refuses one that was not.

    Args:
        module: the network.
        trained: its parameters that train.
        total: the sum of the step.
        views: rows of a batch that belong to one example.
        renew: called with what was announced, where other parameters train once the network starts to run.
    """

    def __init__(
        self,
        module: nn.Module,
        trained: TrainedParameters,
        total: StepSum,
        *,
        views: int = 1,
        renew: Callable[[Announcement], None],
    ) -> None:
        self.due: Announcement | None = None
        """What was announced; None when nothing is due."""
        self.recorder = Recorder(self, views=views)
        """What the sites of the network share."""
        self._module = module
        self._trained = trained
        self._total = total
        self._renew = renew
        self._groups: Mapping[int, int] = {}
        self._findings = Findings({})
        self._collecting = False
        self._last_examples: int | None = None

    @property
    def pending(self) -> bool:
        """Whether a backward is expected and has not happened."""
        return self.due is not None and not self.due.repeats

    def hold(self, groups: Mapping[int, int]) -> None:
        """Collect for other parameters.

        Args:
            groups: number of the group of each, by its ``id``.
        """
        self._groups = groups
        self._findings = Findings(groups)

    def expect(self, due: Announcement, batch_size: int | None) -> None:
        """Expect one backward, of a micro-batch that comes now.

        Args:
            due: what it is about.
            batch_size: number of examples; None takes it from the network's first argument.
        """
        self.forget()
        self.due = due
        self.recorder.start(batch_size)

    def forget(self) -> None:
        """Drop what was collected; graphs made until now can't release anything later."""
        self._forget_findings()
        self._trained.take_public_gradient()
        self.recorder.stop()

    def discard(self) -> None:
        """Expect nothing any more, and forget an unfinished step."""
        self.forget()
        self.due = None
        self._total.discard()

    def drop_gradients(self) -> None:
        """Take ``grad`` away from all parameters, frozen or not: optimizers step on what they find there."""
        for parameter in self._module.parameters():
            parameter.grad = None

    def finish(self) -> None:
        """Hand what was found to the sum of the step, and close that if it was announced so.

        Raises:
            PrivacyViolation: no backward was expected, or it can't be accounted for.
        """
        if self._trained.take_public_gradient():
            # A loss that trains what never sees private data: what it says about the private part is not wanted.
            self._forget_findings()
            return
        due = self.due
        if due is None:
            self._forget_findings()
            raise PrivacyViolation(_NOT_DUE)
        self._last_examples = self.recorder.examples
        try:
            with full_precision(self._trained.private[0].device.type):
                self._total.add(self._findings, due)
                if due.closes_step:
                    self._total.release(due)
        except BaseException:
            self.discard()
            raise
        self.forget()
        if due.again and due.closes_step:
            self.due = due.repeated()
            self.recorder.start(self._last_examples)
        else:
            self.due = None
            if self._trained.has_public:
                # A loss of the public part may follow, through layers of the private one.
                self.recorder.start(self._last_examples)

    # What follows is called by the recorder.

    def renew(self) -> bool:
        """Take in what began to train after the micro-batch was announced, if its forward has not begun yet.

        Returns:
            Whether the layers are listened to anew.

        Raises:
            PrivacyViolation: the step has another micro-batch already.
        """
        due = self.due
        if due is None or self.recorder.uses or (self._total.buffers.fits() and not self._trained.changed()):
            return False
        self._renew(due.anew())
        return True

    def begin_backward(self) -> None:
        """Note that gradients start to arrive.

        Raises:
            PrivacyViolation: no backward was expected, or other parameters train than when the batch was announced.
            UnsupportedError: a layer in a mode that mixes examples.
        """
        if self._collecting:
            return
        if self.due is None and not self._trained.has_public:
            raise PrivacyViolation(_NOT_DUE)
        if self._trained.changed():
            self.discard()
            self.drop_gradients()
            self._total.published = False
            raise PrivacyViolation(
                "the set of trainable parameters changed between the announcement of this batch and its backward (a "
                "layer was unfrozen, added or replaced), so gradients of some would be neither clipped nor "
                "noised; do it between two steps: in on_train_epoch_start, or before zero_grad() and the forward"
            )
        refuse_coupling_layers(self._module)
        self._collecting = True
        self._trained.take_public_gradient()  # of a backward before, in which no private layer took part
        # Runs when this backward is over, before it returns: the same mechanism gradient reducers use.
        torch.autograd.Variable._execution_engine.queue_callback(self.finish)

    def collect(self, parameter: nn.Parameter, contribution: Contribution, *, only_use: bool) -> None:
        """Take in what a layer found for one parameter.

        Args:
            parameter: the parameter.
            contribution: its per-example gradients from one use.
            only_use: no other use in this step's forward; then the norm is due now, while data is in cache.
        """
        self._findings.add(parameter, contribution, only_use=only_use)

    def _forget_findings(self) -> None:
        self._collecting = False
        self._findings = Findings(self._groups)


_NOT_DUE = (
    "backward ran when no private step was due: a second backward for the same batch (several losses, "
    "torch.autograd.grad in the training step, a closure called twice, reentrant checkpointing) or one "
    "outside the training step. Add the losses up and call backward once; declare a part that never sees the data, "
    "such as the generator of a GAN, with public=...; checkpoint with use_reentrant=False."
)
