"""The backward that is due: collected once, at its end, and refused where it was not announced."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_privacy.errors import PrivacyBudgetExceeded, PrivacyViolation
from lightning_privacy.gradients.announcement import Announcement
from lightning_privacy.gradients.backward import DueBackward
from lightning_privacy.gradients.clipping import FlatClipping
from lightning_privacy.gradients.contributions import Dense
from lightning_privacy.gradients.step_sum import StepSum
from lightning_privacy.gradients.trained import TrainedParameters
from lightning_privacy.mechanisms.noise import NoiseSource


class Listened:
    """Two layers that are told from outside when a gradient arrives, as a site's hook would tell."""

    def __init__(self, *, public: tuple[str, ...] = (), charge: Any = None) -> None:
        self.model = nn.ModuleDict({"first": nn.Linear(2, 2, bias=False), "second": nn.Linear(2, 1, bias=False)})
        self.trained = TrainedParameters(self.model, public)
        self.total = StepSum(FlatClipping(1.0), NoiseSource(), mean=False, charge=charge)
        self.renewed: list[Announcement] = []
        self.backward = DueBackward(self.model, self.trained, self.total, renew=self.renewed.append)
        self.trained.track(weakref.WeakMethod(self.backward.discard))
        groups = {id(parameter): 0 for parameter in self.trained.private}
        self.total.hold(self.trained.private, groups)
        self.backward.hold(groups)
        self.open_at_arrival: list[Any] = []

    @property
    def weights(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def run(self) -> None:
        """A backward in which both layers report one example, with gradients of 3 and of 4 in one entry."""
        root = torch.zeros((), requires_grad=True)
        inner = root * 2
        outer = inner * 2
        for tensor, weight, value in ((outer, self.weights[1], 4.0), (inner, self.weights[0], 3.0)):
            tensor.register_hook(lambda _, weight=weight, value=value: self._arrived(weight, value))
        outer.backward()

    def _arrived(self, weight: nn.Parameter, value: float) -> None:
        self.backward.begin_backward()
        self.open_at_arrival.append(self.total.open_step)
        gradient = torch.zeros(1, *weight.shape)
        gradient.view(-1)[0] = value
        self.backward.collect(weight, Dense(gradient), only_use=True)

    def firsts(self) -> list[float | None]:
        return [None if weight.grad is None else float(weight.grad.view(-1)[0]) for weight in self.weights]


def due(**changes: Any) -> Announcement:
    return Announcement(**{"step": 0, "noise_multiplier": 0.0, "expected_batch_size": 1.0, **changes})


def test_the_layers_of_one_backward_are_clipped_together_when_it_is_over() -> None:
    listened = Listened()
    listened.backward.expect(due(), batch_size=1)
    assert listened.backward.pending
    listened.run()
    assert listened.open_at_arrival == [None, None], "summed before all of the backward was in"
    assert listened.firsts() == pytest.approx([0.6, 0.8])
    assert (listened.total.released, listened.backward.due, listened.backward.pending) == (1, None, False)
    assert not listened.backward.recorder.armed


def test_p07_a_backward_that_nobody_announced_is_refused() -> None:
    listened = Listened()
    with pytest.raises(PrivacyViolation, match="no private step was due"):
        listened.run()
    assert listened.open_at_arrival == [], "refused only after all of it"
    listened.backward.expect(due(), batch_size=1)
    listened.run()
    with pytest.raises(PrivacyViolation, match="no private step was due"):
        listened.run()
    with pytest.raises(PrivacyViolation, match="no private step was due"):
        listened.backward.finish()
    assert listened.total.released == 1


def test_p30_further_backwards_of_one_batch_are_releases_of_their_own() -> None:
    charged: list[int] = []
    listened = Listened(charge=lambda: charged.append(1))
    listened.backward.expect(due(again=True), batch_size=1)
    for number in range(1, 4):
        listened.run()
        assert listened.backward.due == due(again=True, release=number)
        assert not listened.backward.pending
        assert (listened.backward.recorder.armed, listened.backward.recorder.examples) == (True, 1)
        assert listened.firsts() == pytest.approx([0.6, 0.8])
    assert len(charged) == listened.total.released == 3


def test_p17_a_backward_that_does_not_close_the_step_leaves_it_open_until_it_is_discarded() -> None:
    listened = Listened()
    listened.backward.expect(due(closes_step=False), batch_size=1)
    listened.run()
    assert (listened.firsts(), listened.total.open_step, listened.backward.due) == ([None, None], 0, None)
    listened.backward.discard()
    assert listened.total.open_step is None
    assert all(bool((flat == 0).all()) for flat in listened.total.buffers.flat)


def test_p30_a_charge_that_fails_discards_the_step() -> None:
    def charge() -> None:
        raise PrivacyBudgetExceeded("no budget left")

    listened = Listened(charge=charge)
    listened.backward.expect(due(), batch_size=1)
    with pytest.raises(PrivacyBudgetExceeded):
        listened.run()
    assert (listened.firsts(), listened.total.open_step, listened.backward.pending) == ([None, None], None, False)
    assert all(bool((flat == 0).all()) for flat in listened.total.buffers.flat)


def test_what_was_found_before_a_batch_was_announced_is_no_part_of_it() -> None:
    listened = Listened()
    listened.backward.collect(listened.weights[0], Dense(torch.full((1, 2, 2), 9.0)), only_use=True)
    listened.backward.expect(due(), batch_size=1)
    listened.run()
    assert listened.firsts() == pytest.approx([0.6, 0.8])


def test_p07_what_began_to_train_after_the_announcement_stops_the_backward() -> None:
    listened = Listened()
    listened.weights[0].grad = torch.ones(2, 2)
    listened.model["third"] = nn.Linear(1, 1)
    listened.model["third"].weight.grad = torch.ones(1, 1)
    listened.backward.expect(due(), batch_size=1)
    with pytest.raises(PrivacyViolation, match="the set of trainable parameters changed"):
        listened.run()
    assert all(weight.grad is None for weight in listened.weights)
    assert (listened.backward.due, listened.total.published) == (None, False)


def test_p07_what_began_to_train_before_the_forward_is_taken_in() -> None:
    listened = Listened()
    assert not listened.backward.renew(), "nothing is due"
    listened.backward.expect(due(again=True).repeated(), batch_size=1)
    assert not listened.backward.renew(), "nothing changed"
    listened.model["third"] = nn.Linear(1, 1)
    listened.backward.recorder.uses = {0: 1}
    assert not listened.backward.renew(), "the forward has begun"
    listened.backward.recorder.uses = {}
    assert listened.backward.renew()
    assert listened.renewed == [due(again=True)]


def test_a_loss_of_the_public_part_leaves_the_private_one_as_it_is() -> None:
    listened = Listened(public=("first.weight",))

    def public_loss() -> Tensor:
        return listened.model["first"](torch.ones(1, 2)).sum()

    private = listened.weights[1]
    listened.backward.expect(due(), batch_size=1)
    public_loss().backward()  # no private layer takes part, so the announced backward is still to come
    assert listened.backward.pending
    outer = torch.zeros((), requires_grad=True) * 2
    outer.register_hook(lambda _: listened._arrived(private, 4.0))
    outer.backward()
    assert listened.firsts()[1] == pytest.approx(1.0)
    released = private.grad
    # Now through a private layer as well: its hook reports, and what it reports is dropped.
    mixed = public_loss() * 2
    mixed.register_hook(lambda _: listened._arrived(private, 9.0))
    mixed.backward()
    assert private.grad is released
    assert (listened.firsts()[1], listened.total.released) == (pytest.approx(1.0), 1)
    assert listened.backward.recorder.armed
