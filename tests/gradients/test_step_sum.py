"""The sum of one step, against a loop over the examples and noise drawn beside it."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from brute_force import normal
from torch import Tensor, nn

from lightning_privacy.errors import PrivacyBudgetExceeded, PrivacyViolation
from lightning_privacy.gradients.announcement import Announcement
from lightning_privacy.gradients.clipping import AdaptiveClipping, FlatClipping
from lightning_privacy.gradients.contributions import Dense
from lightning_privacy.gradients.findings import Findings
from lightning_privacy.gradients.step_sum import StepSum
from lightning_privacy.mechanisms.noise import NoiseSource, SeededNoiseWarning

BOUND, SIZE = 1.5, 4.0
SHAPES = ((2, 3), (4,))


def seeded(*, secure: bool = False) -> NoiseSource:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeededNoiseWarning)
        return NoiseSource(seed=11, secure=secure)


class Step:
    """A sum over two parameters, and the gradients of six examples to put into it."""

    def __init__(self, policy: Any = None, noise: NoiseSource | None = None, **options: Any) -> None:
        torch.manual_seed(5)
        self.parameters = [nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in SHAPES]
        self.gradients = [normal(6, *shape) * torch.linspace(0.1, 2, 6).view(6, *[1] * len(shape)) for shape in SHAPES]
        self.groups = {id(parameter): 0 for parameter in self.parameters}
        self.total = StepSum(policy or FlatClipping(BOUND), noise or NoiseSource(), **options)
        self.total.hold(self.parameters, self.groups)

    def findings(self, factor: float = 1 / 6) -> Findings:
        """As a loss leaves them that multiplies the gradient of each example; a mean over them unless told."""
        found = Findings(self.groups)
        for parameter, values in zip(self.parameters, self.gradients, strict=True):
            found.add(parameter, Dense(values * factor), only_use=True)
        return found

    def expected(self, weights: Tensor | None = None, bound: float = BOUND) -> list[Tensor]:
        """The clipped sum over the expected batch size, example by example."""
        sums = [torch.zeros(shape, dtype=torch.float64) for shape in SHAPES]
        for number in range(6):
            each = [values[number] * (1.0 if weights is None else float(weights[number])) for values in self.gradients]
            length = float(torch.cat([value.flatten() for value in each]).norm())
            for total, value in zip(sums, each, strict=True):
                total += value * min(1.0, bound / max(length, 1e-300)) / SIZE
        return sums

    def held(self) -> list[Tensor]:
        return [self.total.buffers.view(parameter).clone() for parameter in self.parameters]

    def grads(self) -> list[Tensor]:
        return [parameter.grad.clone() for parameter in self.parameters if parameter.grad is not None]


def due(**changes: Any) -> Announcement:
    return Announcement(**{"step": 2, "noise_multiplier": 0.0, "expected_batch_size": SIZE, **changes})


def check(found: list[Tensor], expected: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("gradient_scale", [1.0, 64.0])
@pytest.mark.parametrize("loss_scale", [1.0, 0.5])
@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("mean", [True, False], ids=["mean", "sum"])
def test_p11_the_sum_is_that_of_the_clipped_gradients(
    mean: bool, views: int, loss_scale: float, gradient_scale: float
) -> None:
    step = Step(mean=mean, views=views)
    announced = due(loss_scale=loss_scale, gradient_scale=gradient_scale)
    # A mean over the rows has each view's gradient divided by examples times views; the gradients here are their means.
    step.total.add(step.findings(loss_scale * (1 / 6 if mean else views)), announced)
    assert step.total.open_step == 2
    assert step.grads() == []
    step.total.release(announced)
    check(step.grads(), [gradient_scale * value for value in step.expected()])
    assert (step.total.released, step.total.open_step, step.total.published) == (1, None, True)


def test_weights_of_examples_come_before_the_bound() -> None:
    step, weights = Step(), torch.tensor([2.0, 0.0, 0.5, 3.0, 1.0, 0.1])
    step.total.add(step.findings(), due(example_weights=weights))
    check(step.held(), step.expected(weights))
    with pytest.raises(PrivacyViolation, match=r"weights for \(5,\) examples and gradients of 6"):
        step.total.add(step.findings(), due(example_weights=weights[:5]))


def test_p12_micro_batches_add_up_and_a_placeholder_adds_nothing() -> None:
    step = Step()
    step.total.add(step.findings(), due())
    step.total.add(step.findings(), due(empty=True))
    step.total.add(Findings(step.groups), due())
    check(step.held(), step.expected())
    step.total.add(step.findings(), due())
    check(step.held(), [2 * value for value in step.expected()])


@pytest.mark.parametrize("release", [0, 3])
def test_p17_the_noise_is_there_from_the_first_micro_batch(release: int) -> None:
    step = Step(noise=seeded())
    announced = due(noise_multiplier=0.7, gradient_scale=8.0, release=release)
    step.total.add(Findings(step.groups), announced)
    std = 0.7 * BOUND / SIZE * 8.0
    drawn = seeded().normals(10, std=std, step=2, stream=64 * release, dtype=torch.float64)
    check(step.held(), [drawn[:6].view(2, 3), drawn[6:]])
    step.total.add(step.findings(), announced)
    noise = [drawn[:6].view(2, 3), drawn[6:]]
    check(step.held(), [8.0 * value + more for value, more in zip(step.expected(), noise, strict=True)])


def test_another_process_adds_no_noise_and_sums_are_put_together_once_each() -> None:
    reduced: list[Tensor] = []
    step = Step(noise=seeded(), leader=False, reduce=lambda flat: reduced.append(flat.clone()))
    step.total.add(step.findings(), due(noise_multiplier=0.7))
    check(step.held(), step.expected())
    step.total.release(due(noise_multiplier=0.7))
    assert [len(flat) for flat in reduced] == [10]
    check(step.grads(), step.expected())


@pytest.mark.parametrize("leader", [True, False])
def test_p29_secure_noise_is_added_to_what_all_processes_have(leader: bool) -> None:
    reduced: list[Tensor] = []

    def reduce(flat: Tensor) -> None:
        reduced.append(flat.clone())

    step = Step(noise=seeded(secure=True), leader=leader, reduce=reduce)
    announced = due(noise_multiplier=0.7)
    step.total.add(step.findings(), announced)
    check(step.held(), step.expected())
    whole = torch.cat([value.flatten() for value in step.held()])
    step.total.release(announced)
    assert len(reduced) == 2
    check([reduced[0]], [whole])
    added = seeded(secure=True).add_(whole.clone(), std=0.7 * BOUND / SIZE, step=2, stream=0)
    assert torch.equal(reduced[1], added if leader else torch.zeros(10, dtype=torch.float64))


def test_p30_what_can_not_be_charged_is_not_released() -> None:
    def charge() -> None:
        raise PrivacyBudgetExceeded("no budget left")

    step = Step(charge=charge)
    step.total.add(step.findings(), due())
    with pytest.raises(PrivacyBudgetExceeded):
        step.total.release(due())
    assert (step.grads(), step.total.released, step.total.published) == ([], 0, False)
    step.total.discard()
    assert step.total.open_step is None
    check(step.held(), [torch.zeros(shape, dtype=torch.float64) for shape in SHAPES])


def test_a_step_that_opens_takes_the_gradient_before_it_away() -> None:
    step = Step()
    step.total.add(step.findings(), due())
    step.total.release(due())
    check([step.total.entries(torch.tensor([7, 0]))], [torch.stack([step.grads()[1][1], step.grads()[0][0, 0]])])
    step.total.add(step.findings(), due(step=3))
    assert step.grads() == []
    with pytest.raises(PrivacyViolation, match="no private gradient to look at"):
        step.total.entries(torch.tensor([0]))


def test_p10_an_example_that_is_not_finite_adds_exactly_nothing() -> None:
    step = Step()
    step.gradients[1][3, 2] = float("inf")
    step.total.add(step.findings(), due())
    found = step.held()
    step = Step()
    step.gradients = [values.clone() for values in step.gradients]
    for values in step.gradients:
        values[3] = 0
    check(found, step.expected())


def test_a_bound_that_changes_within_a_step_is_refused() -> None:
    policy = AdaptiveClipping(BOUND, count_noise_std=3.0)
    policy.prepare(SIZE)
    step = Step(policy)
    announced = due(noise_multiplier=1.0)
    step.total.add(step.findings(), announced)
    policy.observe(torch.tensor([2.0]), SIZE)
    with pytest.raises(PrivacyViolation, match=r"changed from 1\.5 to"):
        step.total.add(step.findings(), announced)


@pytest.mark.parametrize("backwards", [1, 2])
def test_what_the_policy_counts_is_told_once_a_step(backwards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = AdaptiveClipping(BOUND)
    policy.prepare(SIZE)
    told: list[tuple[Tensor, float]] = []
    monkeypatch.setattr(policy, "observe", lambda counts, size: told.append((counts.clone(), size)))
    step = Step(policy)
    norms = torch.cat([values.flatten(1) for values in step.gradients], 1).norm(dim=1)
    within = [float((norms <= BOUND).double().sub(0.5).sum())]  # as AdaptiveClipping counts: a half less than one each
    for _ in range(backwards):
        step.total.add(step.findings(), due())
    assert told == []
    step.total.release(due())
    ((counts, size),) = told
    assert size == SIZE
    assert counts.tolist() == pytest.approx([backwards * value for value in within])


def test_p08_findings_that_changed_open_no_step() -> None:
    step = Step()
    values = torch.ones(6, 4, dtype=torch.float64)
    found = Findings(step.groups)
    found.add(step.parameters[1], Dense(values), only_use=True)
    values.mul_(2)
    with pytest.raises(PrivacyViolation, match="modified in place"):
        step.total.add(found, due())
    assert step.total.open_step is None
