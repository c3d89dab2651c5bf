"""Canaries that are gradients: each is one more example of the step, and moves nothing else."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from lightning_privacy.errors import ConfigurationError, PrivacyViolation
from lightning_privacy.gradients.buffers import GradientBuffers
from lightning_privacy.gradients.clipping import FlatClipping, PerLayerClipping
from lightning_privacy.gradients.engine import PrivateGradients
from lightning_privacy.gradients.single_entries import add_single_entries, entries_at
from lightning_privacy.mechanisms.noise import NoiseSource, SeededNoiseWarning

EXPECTED = 8.0
POLICIES = ["flat", "per_layer", "automatic", "adaptive", "global_adapt"]


def _engine(clipping="flat", *, noise_multiplier=0.0, released=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeededNoiseWarning)
        noise = NoiseSource(seed=1)
    engine = PrivateGradients(
        model,
        max_grad_norm=0.5,
        noise_multiplier=noise_multiplier,
        expected_batch_size=EXPECTED,
        clipping=clipping,
        noise=noise,
        charge=None if released is None else lambda: released.append(1),
    )
    engine.attach()
    return model, engine


def _gradient(model):
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def _step(clipping, entries, *, step=0, empty=False, **options):
    model, engine = _engine(clipping, **options)
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(6, 3, generator=generator, dtype=torch.double)
    labels = torch.randint(2, (6,), generator=generator)
    engine.arm(batch_size=6, step=step, entries=entries, empty=empty)
    nn.functional.cross_entropy(model(inputs), labels).backward()
    return model, engine


@pytest.mark.parametrize("clipping", POLICIES)
def test_each_adds_no_more_than_one_example_at_its_entry_alone(clipping):
    chosen = torch.tensor([1, 14, 25])
    without, with_ = _step(clipping, None)[0], _step(clipping, chosen)[0]
    moved = (_gradient(with_) - _gradient(without)) * EXPECTED
    others = torch.ones(26, dtype=torch.bool)
    others[chosen] = False
    assert (moved[others] == 0).all()
    bound = 0.5  # that of the first step; an adaptive one has moved since
    assert (moved[chosen] <= bound * (1 + 1e-5)).all()
    least = 0.5 * bound if clipping == "per_layer" else 0.999 * bound
    assert (moved[chosen] >= least).all()


@pytest.mark.parametrize("clipping", POLICIES)
def test_it_is_what_a_long_example_of_that_gradient_adds(clipping):
    """The policy sees the same norms as for an example with this gradient: same factor, same count."""
    _, engine = _step(clipping, torch.tensor([14]))
    policy = engine.policy
    norms = torch.full((1, 1), (1000.0 * policy.norm_bound) ** 2)
    weight = nn.Parameter(torch.zeros(4))
    buffers = GradientBuffers([weight])
    counted = add_single_entries(torch.tensor([2]), [weight], {id(weight): 0}, buffers, FlatClipping(0.5), scale=1.0)
    assert counted is None
    assert buffers.view(weight).tolist() == pytest.approx([0, 0, 0.5, 0])
    expected = policy.counts(norms)
    if expected is not None:
        found = add_single_entries(torch.tensor([2]), [weight], {id(weight): 0}, buffers, policy, scale=1.0)
        assert torch.equal(found, expected)


def test_noise_and_charges_are_those_without():
    released_with, released_without = [], []
    with_, _ = _step("flat", torch.tensor([3]), noise_multiplier=2.0, released=released_with)
    without, _ = _step("flat", None, noise_multiplier=2.0, released=released_without)
    moved = (_gradient(with_) - _gradient(without)) * EXPECTED
    assert moved[3] == pytest.approx(0.5, rel=1e-5)
    assert moved[torch.arange(26) != 3].abs().max() < 1e-12
    assert len(released_with) == len(released_without) == 1


def test_they_are_added_where_the_batch_is_a_placeholder():
    model, engine = _step("flat", torch.tensor([3]), empty=True)
    expected = torch.zeros(26, dtype=torch.double)
    expected[3] = 0.5 / EXPECTED
    assert torch.allclose(_gradient(model), expected)
    assert engine.released == 1


def test_they_are_not_carried_into_the_next_step():
    model, engine = _step("flat", torch.tensor([3]), empty=True)
    engine.consume()
    engine.arm(batch_size=6, step=1, empty=True)
    model(torch.zeros(6, 3, dtype=torch.double)).mean().backward()
    assert (_gradient(model) == 0).all()


def test_two_at_one_entry_are_two_examples():
    model, _ = _step("flat", torch.tensor([3, 3]), empty=True)
    assert _gradient(model)[3] == pytest.approx(2 * 0.5 / EXPECTED)


def test_entries_are_those_of_the_released_gradient():
    model, engine = _step("flat", torch.tensor([3]), noise_multiplier=1.0)
    chosen = torch.tensor([0, 3, 13, 25])
    assert engine.num_entries == 26
    assert engine.entries(chosen).tolist() == _gradient(model)[chosen].tolist()
    engine.consume()
    with pytest.raises(PrivacyViolation, match="no private gradient to look at"):
        engine.entries(chosen)


def test_frozen_parameters_have_no_entries():
    model, engine = _engine()
    engine.detach()
    model[0].requires_grad_(False)
    engine.attach()
    assert engine.num_entries == 10


@pytest.mark.parametrize("positions", [[-1], [26]])
def test_other_positions_are_refused(positions):
    with pytest.raises(ConfigurationError, match=r"positions must be in \[0, 26\)"):
        _step("flat", torch.tensor(positions))


def test_groups_have_their_own_bounds():
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))]
    policy = PerLayerClipping([3.0, 4.0])
    groups = dict(zip(map(id, parameters), policy.groups(["a.weight", "b.weight"]), strict=True))
    buffers = GradientBuffers(parameters)
    chosen = torch.tensor([1, 2])
    add_single_entries(chosen, parameters, groups, buffers, policy, scale=0.5)
    assert entries_at(chosen, parameters, buffers).tolist() == pytest.approx([1.5, 2.0])
