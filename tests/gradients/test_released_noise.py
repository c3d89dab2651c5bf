"""The noise in ``p.grad``: its mean, its size, and that it is independent from everything else.

The thresholds follow from one computation. The sample standard deviation of n normals has a relative standard error
of 1 / sqrt(2 n). Half way to an error of 3% lies 1.5%. With n = 90,000 that is 1.5% * sqrt(180,000) = 6.4 standard
errors for the right noise (probability 2e-10 to fail) and 1.5% * 424 / 1.03 = 6.2 for noise 3% too large, 6.5 for 3%
too small (probability below 1e-9 to pass). A mean or a correlation is 6 standard errors off with probability 2e-9.
"""

from __future__ import annotations

import math

import pytest
import torch
from brute_force import engine_for, grads, outputs_loss, trainable
from torch import Tensor, nn

MULTIPLIER, NORM, EXPECTED = 1.3, 0.7, 16.0
STD = MULTIPLIER * NORM / EXPECTED
ENOUGH = 90_000


class Network(nn.Module):
    """Parameters of several kinds of layers, among them one that is never used and a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 30)
        self.convolution = nn.Conv1d(30, 20, 5, padding=2)
        self.prelu = nn.PReLU()
        self.norm = nn.LayerNorm(20)
        self.head = nn.Linear(20, 150)
        self.idle = nn.Linear(50, 60)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.prelu(self.convolution(self.embedding(x).transpose(1, 2))).transpose(1, 2)
        return self.head(self.norm(hidden))


def _noise(dtype: torch.dtype, micro_batches: int, steps: int) -> list[Tensor]:
    """Return, for each parameter, the noise of every step, ``(steps, numel)``."""
    torch.manual_seed(70)
    model = Network().to(dtype)
    parts = [torch.randint(0, 100, (3, 6)) for _ in range(micro_batches)]
    engine = engine_for(model, max_grad_norm=NORM, expected_batch_size=EXPECTED, noise_multiplier=0.0)

    def step(number: int) -> list[Tensor]:
        for place, part in enumerate(parts):
            engine.arm(batch_size=3, step=number, closes_step=place == micro_batches - 1)
            outputs_loss(model, part).mean().backward()
        return grads(model)

    clean = step(0)
    engine.noise_multiplier = MULTIPLIER
    noise = [[(noisy - exact).flatten() for noisy, exact in zip(step(t), clean, strict=True)] for t in range(steps)]
    return [torch.stack([found[i] for found in noise]).double() for i in range(len(trainable(model)))]


def _check_mean_and_size(values: Tensor) -> None:
    assert values.numel() >= ENOUGH
    assert abs(float(values.mean())) < 6 * STD / math.sqrt(values.numel())
    assert float(values.std()) == pytest.approx(STD, rel=0.015)


@pytest.mark.parametrize(("dtype", "micro_batches"), [(torch.float32, 1), (torch.float32, 3), (torch.float64, 1)])
def test_p07_noise_of_every_parameter_has_mean_0_and_the_size_that_is_accounted(
    dtype: torch.dtype, micro_batches: int
) -> None:
    """Four parameters of 3,000 numbers over 30 steps each, and the small ones together: five checks.

    By the computation above the test fails for right noise with probability below 1e-8, and passes with noise 3% off
    with probability below 1e-9. However many micro-batches a step has, noise is added once.
    """
    noise = _noise(dtype, micro_batches, 30)
    large = [values for values in noise if values.shape[1] == 3000]
    small = [values for values in noise if values.shape[1] != 3000]
    assert (len(large), len(small)) == (4, 6)
    for values in large:
        _check_mean_and_size(values)
    pooled = torch.cat([values.flatten() for values in small])
    # 271 numbers x 30 steps: 4.8% is 6 standard errors.
    assert float(pooled.std()) == pytest.approx(STD, rel=6 / math.sqrt(2 * pooled.numel()))
    assert abs(float(pooled.mean())) < 6 * STD / math.sqrt(pooled.numel())
    for values in small:
        assert bool((values != 0).all()), "a number without noise"


def test_noise_of_parameters_and_steps_is_uncorrelated() -> None:
    """All pairs of four parameters, and of each parameter's neighbouring steps and numbers.

    Each of 14 correlations has standard error 1 / sqrt(n), n >= 87,000: 6 of them fail with probability 3e-8.
    Noise that is shared has correlation 1; a correlation of 4% passes with probability below 1e-6.
    """
    large = [values / STD for values in _noise(torch.float32, 1, 30) if values.shape[1] == 3000]
    pairs = [(a, b) for i, a in enumerate(large) for b in large[i + 1 :]]
    pairs += [(values[1:], values[:-1]) for values in large]
    pairs += [(values[:, 1:], values[:, :-1]) for values in large]
    assert len(pairs) == 14
    for first, second in pairs:
        assert abs(float((first * second).mean())) < 6 / math.sqrt(first.numel())


def test_noise_is_normal() -> None:
    """Fourth moment and tails: 3 for a normal, with standard error sqrt(96 / n); 6 of them fail 2e-9 of the time."""
    values = torch.cat([v.flatten() for v in _noise(torch.float32, 1, 30) if v.shape[1] == 3000]) / STD
    assert abs(float(values.pow(4).mean()) - 3) < 6 * math.sqrt(96 / values.numel())
    share = 0.0026998  # of a normal beyond three standard deviations
    found = float((values.abs() > 3).double().mean())
    assert abs(found - share) < 6 * math.sqrt(share / values.numel())
