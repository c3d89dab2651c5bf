"""The correction of the loss for randomised labels, against the matrix of the paper and what it promises."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.mechanisms import ForwardCorrection, randomized_response


def matrix(classes, epsilon):
    """T[i, j]: probability that a label i is answered j."""
    wrong = 1 / (math.exp(epsilon) + classes - 1)
    result = torch.full((classes, classes), wrong, dtype=torch.float64)
    result.fill_diagonal_(math.exp(epsilon) * wrong)
    return result


@pytest.mark.parametrize(("classes", "epsilon"), [(2, 0.1), (5, 1.0), (10, 6.0)])
def test_it_is_the_matrix_product_of_the_paper(classes, epsilon):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, classes, dtype=torch.float64, generator=generator) * 3
    expected = (logits.softmax(1) @ matrix(classes, epsilon)).log()
    correction = ForwardCorrection(classes, epsilon)
    torch.testing.assert_close(correction(logits), expected)
    torch.testing.assert_close(correction(logits[0]), expected[0])
    planes = logits[:, :, None].expand(-1, -1, 3)
    torch.testing.assert_close(correction(planes)[:, :, 1], expected)
    assert correction.eval()(logits) is logits


@pytest.mark.parametrize("epsilon", [0.5, 3.0])
def test_noisy_labels_with_it_lead_where_true_labels_lead(epsilon):
    """Theorem 2 of the paper: the minimiser of the expected corrected loss is the true posterior."""
    posterior = torch.tensor([[0.7, 0.2, 0.1], [0.05, 0.05, 0.9]], dtype=torch.float64)
    noisy = posterior @ matrix(3, epsilon)
    found = []
    for correction in (ForwardCorrection(3, epsilon), nn.Identity()):
        logits = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [logits], max_iter=300, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
        )

        def loss(logits=logits, correction=correction, optimizer=optimizer):
            optimizer.zero_grad()
            value = -(noisy * correction(logits).log_softmax(1)).sum()
            value.backward()
            return value

        optimizer.step(loss)
        found.append(logits.detach().softmax(1))
    torch.testing.assert_close(found[0], posterior, atol=1e-5, rtol=0)
    assert (found[1] - posterior).abs().max() > 0.03


def test_an_unmodified_network_behind_it_learns_the_true_probabilities():
    """Logistic regression on 20,000 randomised labels, by position in a Sequential and nothing else."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(20_000, 2, generator=generator)
    chance = torch.sigmoid(3 * inputs[:, 0])
    true = (torch.rand(20_000, generator=generator) < chance).long()
    noisy = randomized_response(true, num_classes=2, epsilon=1.0)
    errors = []
    for last in (ForwardCorrection(2, 1.0), nn.Identity()):
        model = nn.Sequential(nn.Linear(2, 2), last)
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=100, line_search_fn="strong_wolfe")

        def loss(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            value = cross_entropy(model(inputs), noisy)
            value.backward()
            return value

        optimizer.step(loss)
        model.eval()
        errors.append((model(inputs).softmax(1)[:, 1] - chance).abs().mean().item())
    # 0.01 and 0.2 as measured; the noise is the system's, but of 20,000 labels.
    assert errors[0] < 0.05 < 0.1 < errors[1]


@pytest.mark.parametrize("epsilon", [1e-9, 30.0, 2000.0])
def test_extreme_noise_keeps_losses_and_gradients_finite(epsilon):
    logits = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    for label in range(3):
        loss = cross_entropy(ForwardCorrection(3, epsilon)(logits), torch.tensor([label]))
        (gradient,) = torch.autograd.grad(loss, logits)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


def test_half_precision_keeps_the_small_probabilities():
    logits = torch.tensor([[20.0, 0.0]], dtype=torch.float16)
    torch.testing.assert_close(ForwardCorrection(2, 8.0)(logits), ForwardCorrection(2, 8.0)(logits.float()))


def test_it_has_no_parameters_and_no_state():
    correction = ForwardCorrection(3, 1.0)
    assert list(correction.parameters()) == []
    assert correction.state_dict() == {}
    assert repr(correction) == "ForwardCorrection(num_classes=3, epsilon=1)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ForwardCorrection(1, 1.0), "num_classes must be a whole number >= 2, got 1"),
        (lambda: ForwardCorrection(3, 0.0), "epsilon must be a finite number > 0, got 0.0"),
        (
            lambda: ForwardCorrection(3, 1.0)(torch.zeros(5, 4)),
            r"logits must be of shape \(batch, 3, ...\), got \(5, 4\)",
        ),
        (lambda: ForwardCorrection(3, 1.0).eval()(torch.zeros(())), r"got \(\)"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()
