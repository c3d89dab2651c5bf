"""Examples are found again in the updates of clients that train on them, and not behind the noise of ClientPrivacy."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from lightning_privacy.audit.gradient_inversion import infer_labels, invert_dense_layer, invert_update, likeness
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.algorithms import Algorithm, LocalTraining
from lightning_privacy.federated.client_privacy import ClientPrivacy
from lightning_privacy.federated.cohorts import PoissonCohorts
from lightning_privacy.federated.flat import FlatModel
from lightning_privacy.federated.local import LocalLoop
from lightning_privacy.mechanisms import NoiseSource
from lightning_privacy.mechanisms.noise import SeededNoiseWarning

RATE = 0.1


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 8 - 1, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(labels)


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))


def _delta(network: nn.Module, images, labels, *, steps: int = 1) -> torch.Tensor:
    """What the package's own local training makes of these examples."""
    model = FlatModel(network)
    model.remember()
    local = LocalTraining(0, 0, len(labels), model, torch.optim.SGD(network.parameters(), lr=RATE))
    loop = LocalLoop(lambda batch, index: nn.functional.cross_entropy(network(batch[0]), batch[1]), epochs=steps)
    loop.run(local, lambda epoch: iter([(images, labels)]), Algorithm())
    delta = model.delta().clone()
    model.restore()
    return delta


def _attack(network, delta, **options):
    known = {"learning_rate": RATE, "input_shape": (1, 8, 8), "bounds": (-1.0, 1.0), "iterations": 200, "seed": 0}
    return invert_update(network, delta, **{**known, **options})


@pytest.mark.parametrize("steps", [1, 3])
def test_an_image_is_found_in_the_delta_of_its_client(digits, steps):
    images, labels = digits
    network = _network()
    delta = _delta(network, images[7:8], labels[7:8], steps=steps)
    before = [p.clone() for p in network.parameters()]
    found = _attack(network, delta, local_steps=steps)
    like = likeness(found.inputs[0], images[7], images)
    assert found.labels.tolist() == [int(labels[7])]
    assert found.mismatch < 1e-3
    assert like.rank == 0
    assert like.psnr > 25
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), before, strict=True))
    assert all(p.grad is None for p in network.parameters())


def test_two_images_of_one_client_are_found(digits):
    images, labels = digits
    network = _network()
    chosen = torch.tensor([3, 5])
    found = _attack(network, _delta(network, images[chosen], labels[chosen]), num_examples=2, iterations=400)
    assert found.labels.tolist() == sorted(labels[chosen].tolist())
    for image, label in zip(found.inputs, found.labels, strict=True):
        original = images[chosen[labels[chosen] == label][0]]
        assert likeness(image, original, images).rank == 0


def test_client_privacy_hides_the_image(digits):
    """The released mean of a round, all other clients known to the attacker, at noise multiplier 1.

    The noise is seeded. Its norm is about 48 times the clipped delta's, so that for any seed the attacker's image is a
    random one; that the right one of 1,797 is among its 50 nearest happens with a probability of about 3%.
    """
    images, labels = digits
    network = _network()
    with pytest.warns(SeededNoiseWarning):
        noise = NoiseSource(seed=1)
    privacy = ClientPrivacy(delta=1e-5, noise_multiplier=1.0, max_delta_norm=0.1, noise=noise)
    privacy.plan(num_clients=100, cohort=PoissonCohorts(10), rounds=1)
    clipped, votes = privacy.clip(_delta(network, images[7:8], labels[7:8]))
    released = privacy.finish(0, clipped, votes) * privacy.expected_cohort_size
    found = _attack(network, released, labels=labels[7:8])
    like = likeness(found.inputs[0], images[7], images)
    assert like.psnr < 10
    assert like.rank > 50


def test_clipping_alone_hides_nothing(digits):
    images, labels = digits
    network = _network()
    delta = _delta(network, images[7:8], labels[7:8])
    found = _attack(network, 0.01 * delta / delta.norm())
    assert likeness(found.inputs[0], images[7], images).rank == 0


def test_a_dense_layer_gives_its_input_away(digits):
    images, labels = digits
    network = _network()
    delta = _delta(network, images[9:10], labels[9:10])
    weight, bias = delta[: 64 * 32].reshape(32, 64), delta[64 * 32 : 64 * 32 + 32]
    assert torch.allclose(invert_dense_layer(weight, bias), images[9].flatten(), atol=1e-3)
    assert not invert_dense_layer(torch.ones(2, 3), torch.zeros(2)).any()


def test_labels_from_the_bias_of_the_last_layer():
    torch.manual_seed(1)
    logits = 0.1 * torch.randn(6, 5)
    for labels in ([0, 0, 0, 2, 4, 4], [1, 1, 1, 1, 1, 1], [0, 1, 2, 3, 4, 4]):
        target = torch.tensor(labels)
        gradient = (logits.softmax(1) - nn.functional.one_hot(target, 5)).mean(0)
        assert infer_labels(-0.3 * gradient, 6, scale=0.3).tolist() == labels


def test_variation_makes_images_smooth(digits):
    images, labels = digits
    network = _network()
    delta = _delta(network, images[7:8], labels[7:8])
    rough, smooth = (_attack(network, delta, total_variation=weight, iterations=60).inputs for weight in (0.0, 1.0))
    assert smooth.diff(dim=-1).abs().mean() < 0.5 * rough.diff(dim=-1).abs().mean()


def test_likeness_by_hand():
    first, second = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 1.0]])
    assert likeness(first, second).psnr == pytest.approx(10 * torch.log10(torch.tensor(4 / 0.125)).item())
    assert likeness(first, first).psnr == float("inf")
    assert likeness(first, -first, torch.stack([first, -first])).correlation == pytest.approx(-1)
    assert likeness(first, -first, torch.stack([first, -first])).rank == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"num_examples": 0}, "num_examples"),
        ({"labels": torch.tensor([1, 2])}, "labels must be 1 numbers"),
        ({"input_shape": (64,), "total_variation": 0.1}, "total_variation is for images"),
        ({"iterations": 0}, "iterations"),
    ],
    ids=["rate", "examples", "labels", "variation", "iterations"],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ConfigurationError, match=message):
        _attack(_network(), torch.zeros(3000), **options)


def test_an_update_of_another_network_is_refused():
    with pytest.raises(ConfigurationError, match="at least 2410 numbers"):
        _attack(_network(), torch.zeros(5))
    with pytest.raises(ConfigurationError, match="labels must be given"):
        invert_update(nn.Linear(3, 2, bias=False), torch.zeros(6), learning_rate=1.0, input_shape=(3,))
