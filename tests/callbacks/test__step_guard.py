from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_privacy.callbacks._step_guard import StepGuard
from lightning_privacy.errors import PrivacyViolation
from lightning_privacy.gradients.engine import PrivateGradients
from lightning_privacy.mechanisms.noise import NoiseSource


class Setup:
    def __init__(self) -> None:
        self.model = nn.Linear(3, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.engine = PrivateGradients(
            self.model, max_grad_norm=1.0, noise_multiplier=1.0, expected_batch_size=4, noise=NoiseSource()
        )
        self.engine.attach()
        self.guard = StepGuard(self.engine)
        self.guard.watch([self.optimizer])

    def backward(self) -> None:
        self.model(torch.ones(4, 3)).mean().backward()

    def closure(self) -> torch.Tensor:
        self.engine.arm(batch_size=4, step=0)
        loss = self.model(torch.ones(4, 3)).mean()
        loss.backward()
        return loss


def test_p21_step_on_a_private_gradient_passes_and_only_once() -> None:
    setup = Setup()
    setup.optimizer.step(setup.closure)
    with pytest.raises(PrivacyViolation, match="used twice"):
        setup.optimizer.step()


def test_p21_closure_given_by_name_or_by_position_is_checked_after_it_ran() -> None:
    for call in (lambda s, c: s.optimizer.step(c), lambda s, c: s.optimizer.step(closure=c)):
        setup = Setup()
        before = setup.model.weight.detach().clone()

        def raw(setup: Setup = setup) -> None:
            setup.closure()
            setup.model.weight.grad = torch.ones(1, 3)

        with pytest.raises(PrivacyViolation, match="assigned anew"):
            call(setup, raw)
        assert torch.equal(before, setup.model.weight.detach())


def test_p22_gradient_changed_in_place_is_post_processing() -> None:
    setup = Setup()
    setup.closure()
    torch.nn.utils.clip_grad_norm_(setup.model.parameters(), 0.01)
    setup.optimizer.step()


def test_p21_closure_without_backward_is_refused() -> None:
    setup = Setup()
    with pytest.raises(PrivacyViolation, match="no backward happened"):
        setup.optimizer.step(lambda: setup.engine.arm(batch_size=4, step=0))


def test_p21_parameter_added_to_the_optimizer_is_refused() -> None:
    setup = Setup()
    setup.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    with pytest.raises(PrivacyViolation, match=r"shape \(2,\)"):
        setup.optimizer.step(setup.closure)


def test_p27_removed_guard_leaves_no_hook() -> None:
    setup = Setup()
    setup.guard.remove()
    setup.guard.remove()
    assert not setup.optimizer._optimizer_step_pre_hooks
    assert not setup.optimizer._optimizer_step_post_hooks
