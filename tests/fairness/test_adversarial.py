"""The parts of adversarial debiasing: the projected gradient, the reversed one, what the adversary sees."""

from __future__ import annotations

import pytest
import torch

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.fairness.adversarial import Adversary, debiased_gradient, reverse_gradient


def test_nothing_along_the_adversary_s_gradient_is_left_but_its_reverse():
    generator = torch.Generator().manual_seed(0)
    own = [torch.randn(2, 3, generator=generator), torch.randn(4, generator=generator)]
    against = [torch.randn(2, 3, generator=generator), torch.randn(4, generator=generator)]
    step = debiased_gradient(own, against, alpha=0.7)
    flat, a = (torch.cat([part.flatten() for part in parts]) for parts in (step, against))
    assert float(flat @ a) == pytest.approx(-0.7 * float(a @ a), rel=1e-5)
    kept = flat + 0.7 * a
    g = torch.cat([part.flatten() for part in own])
    torch.testing.assert_close(kept, g - a * (g @ a) / (a @ a))


def test_an_adversary_without_a_gradient_changes_nothing():
    own = (torch.tensor([1.0, -2.0]),)
    assert debiased_gradient(own, (torch.zeros(2),), alpha=3.0)[0].tolist() == [1.0, -2.0]


def test_the_reversed_gradient_comes_back_negative():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = reverse_gradient(x, 0.5)
    assert y.tolist() == [1.0, 2.0]
    (y * torch.tensor([2.0, 4.0])).sum().backward()
    assert x.grad.tolist() == [-1.0, -2.0]


@pytest.mark.parametrize("shape", [(4, 2), (4, 1), (4,)], ids=str)
def test_one_logit_is_as_two(shape):
    adversary = Adversary(num_classes=2, num_groups=3, hidden=(5,), sees_labels=True)
    margin = torch.tensor([0.3, -1.0, 2.0, 0.0])
    logits = torch.stack([torch.zeros(4), margin], 1) if len(shape) == 2 and shape[1] == 2 else margin.view(shape)
    wanted = adversary(torch.stack([torch.zeros(4), margin], 1), torch.tensor([0, 1, 1, 0]))
    torch.testing.assert_close(adversary(logits, torch.tensor([0, 1, 1, 0])), wanted)


def test_what_it_can_t_see_is_named():
    with pytest.raises(ConfigurationError, match=r"shape \(B, num_classes=3\), got \(4, 2\)"):
        Adversary(num_classes=3, num_groups=2)(torch.zeros(4, 2))
    with pytest.raises(ConfigurationError, match="sees labels: pass labels"):
        Adversary(num_classes=2, num_groups=2, sees_labels=True)(torch.zeros(4, 2))
