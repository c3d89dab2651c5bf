"""What one backward releases: bounded, scaled and divided as the ledger assumes, whatever the batch holds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from brute_force import (
    SLOW_LAYERS,
    clipped_sum,
    engine_for,
    example_gradients,
    grads,
    norm,
    normal,
    outputs_loss,
    private_sum,
    relative_error,
    slices,
    trainable,
)
from torch import Tensor, nn

from lightning_privacy.errors import ConfigurationError, PrivacyViolation
from lightning_privacy.gradients import PrivateGradients
from lightning_privacy.gradients.convolution import ConvContribution
from lightning_privacy.gradients.outer import Outer
from lightning_privacy.mechanisms.noise import NoiseSource

pytestmark = SLOW_LAYERS


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(40)


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)).double()


def _own() -> nn.Module:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.randn(6))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

    return Own()


def _images(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), *layers, nn.Flatten(), nn.Linear(6 * 25, 3))


def _numbers(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), *layers, nn.Linear(6, 3))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "Linear": (lambda: _numbers(nn.Tanh()), lambda: normal(5, 5)),
    "Linear over positions": (lambda: _numbers(nn.Tanh()), lambda: normal(5, 4, 5)),
    "Linear over many positions": (lambda: _numbers(nn.Tanh()), lambda: normal(5, 60, 5)),
    "Conv1d": (lambda: nn.Sequential(nn.Conv1d(2, 6, 3), nn.Conv1d(6, 2, 2)), lambda: normal(5, 2, 9)),
    "Conv2d": (_images, lambda: normal(5, 2, 5, 5)),
    "Conv3d": (lambda: nn.Conv3d(2, 3, 2), lambda: normal(5, 2, 4, 3, 3)),
    "LayerNorm": (lambda: _numbers(nn.LayerNorm(6)), lambda: normal(5, 5)),
    "RMSNorm": (lambda: _numbers(nn.RMSNorm(6)), lambda: normal(5, 5)),
    "GroupNorm": (lambda: _images(nn.GroupNorm(2, 6)), lambda: normal(5, 2, 5, 5)),
    "InstanceNorm2d": (lambda: _images(nn.InstanceNorm2d(6, affine=True)), lambda: normal(5, 2, 5, 5)),
    "fallback": (lambda: _numbers(_own()), lambda: normal(5, 5)),
    "loop": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.utils.parametrizations.orthogonal(nn.Linear(6, 6))),
        lambda: normal(5, 5),
    ),
    "attention": (
        lambda: nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True),
        lambda: normal(5, 3, 6),
    ),
    "Embedding": (
        lambda: nn.Sequential(nn.Embedding(7, 6, padding_idx=1), nn.Linear(6, 3)),
        lambda: torch.randint(0, 7, (5, 4)),
    ),
    "EmbeddingBag": (
        lambda: nn.Sequential(nn.EmbeddingBag(7, 6), nn.Linear(6, 3)),
        lambda: torch.randint(0, 7, (5, 4)),
    ),
}
every_network = pytest.mark.parametrize(("make", "data"), NETWORKS.values(), ids=NETWORKS)


# P01, P11


def test_p01_each_example_of_a_scalar_mean_loss_is_clipped() -> None:
    """Swapping one example for another moves the released sum by at most 2 C, and adding one by at most C."""
    model, x, y = _mlp(), 30 * normal(8, 5), torch.randint(0, 3, (8,))

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x), y, reduction="none")

    raw = example_gradients(model, slices((x, y)), loss)
    assert min(norm(g) for g in raw) > 0.1, "every example must be one that clipping changes"
    whole = private_sum(model, (x, y), loss, 0.1)
    for i in range(8):
        others = [j for j in range(8) if j != i]
        without = private_sum(model, (x[others], y[others]), loss, 0.1)
        alone = [a - b for a, b in zip(whole, without, strict=True)]
        assert norm(alone) == pytest.approx(0.1, rel=1e-9)
        assert relative_error(alone, [g * 0.1 / norm(raw[i]) for g in raw[i]]) < 1e-9


@pytest.mark.parametrize("loss_scale", [1.0, 0.25, 64.0])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_p11_the_bound_holds_for_the_gradient_of_the_unscaled_loss(reduction: str, loss_scale: float) -> None:
    model, x = _mlp(), normal(6, 5)
    raw = example_gradients(model, slices((x,)), outputs_loss)
    bound = sorted(norm(g) for g in raw)[3]
    engine = engine_for(model, max_grad_norm=bound, loss_reduction=reduction)
    engine.arm(batch_size=6, step=0, loss_scale=loss_scale)
    (getattr(outputs_loss(model, x), reduction)() * loss_scale).backward()
    assert relative_error(grads(model), clipped_sum(raw, bound)) < 1e-9


@pytest.mark.parametrize(("dtype", "largest", "rest"), [(torch.bfloat16, 1.0, 0.04), (torch.float16, 1e-4, 1e-4)])
def test_p09_norms_add_up_in_half_precision(dtype: torch.dtype, largest: float, rest: float) -> None:
    """Six hundred gradients of norm 0.04 after one of norm 1 don't count in bfloat16; 1e-4 squared is 0 in float16."""
    model = nn.ModuleList([nn.Linear(1, 1) for _ in range(601)]).to(dtype)
    bound = largest / 2
    engine = engine_for(model, max_grad_norm=bound)
    engine.arm(batch_size=1, step=0)
    # The head that is called last has its gradient first.
    total = sum(rest * head(torch.zeros(1, 1, dtype=dtype)) for head in model[1:])
    (total + largest * model[0](torch.zeros(1, 1, dtype=dtype))).mean().backward()
    assert norm(grads(model)) == pytest.approx(bound, rel=0.02)


@pytest.mark.parametrize("kind", ["Linear", "Conv1d", "grouped Conv1d", "tied"])
def test_p09_cancelling_positions_do_not_hide_from_the_bound(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two positions with nearly opposite gradients of size 1e5: in float32 their Gram matrices say little."""
    for contribution in (Outer, ConvContribution):
        monkeypatch.setattr(contribution, "_instantiation_is_cheaper", lambda self: False)
    layer: nn.Module = nn.Linear(40, 30, bias=False)
    if kind.endswith("Conv1d"):
        layer = nn.Conv1d(40, 30, 1, bias=False, groups=2 if kind.startswith("grouped") else 1)
    for exponent in range(2, 6):
        first = torch.randn(1, 40, 1).expand(32, 40, 1)
        x = torch.cat([first, first + 10.0**-exponent * torch.randn(32, 40, 1)], 2)
        engine = engine_for(layer, max_grad_norm=1.0)
        norms = []
        for i in range(32):
            engine.arm(batch_size=1, step=i)
            if kind == "Linear":
                y = layer(x[i : i + 1].transpose(1, 2)).transpose(1, 2)
            elif kind == "tied":
                y = torch.stack([layer(x[i : i + 1, :, 0]), layer(x[i : i + 1, :, 1])], 2)
            else:
                y = layer(x[i : i + 1])
            (10.0 ** (exponent - 1) * (y[:, :, 0] - y[:, :, 1])).sum(1).mean().backward()
            norms.append(norm(grads(layer)))
        engine.detach()
        assert max(norms) < 1.01, f"a contribution of norm {max(norms)} with differences of 1e-{exponent}"
        assert exponent > 4 or min(norms) > 0.99, "clipped too much"


def test_p09_automatic_mixed_precision_keeps_the_bound() -> None:
    model, x = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3)), torch.randn(6, 5)
    raw = example_gradients(model, slices((x,)), outputs_loss)
    engine = engine_for(model, max_grad_norm=0.1)
    engine.arm(batch_size=6, step=0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = outputs_loss(model, x).mean()
    loss.backward()
    assert relative_error(grads(model), clipped_sum(raw, 0.1)) < 0.05
    engine.arm(batch_size=6, step=1)
    with torch.autocast("cpu", torch.bfloat16):
        outputs_loss(model, x).mean().backward()  # inside, as manual optimisation does
    assert all(g.dtype == torch.float32 for g in grads(model))
    assert relative_error(grads(model), clipped_sum(raw, 0.1)) < 0.05


@pytest.mark.parametrize("products", ["medium", "high"])
def test_p09_fast_matrix_products_do_not_reach_norms_and_sums(products: str) -> None:
    model, x = nn.Linear(64, 64), torch.randn(4, 48, 64)
    raw = example_gradients(model, slices((x,)), outputs_loss)
    engine = engine_for(model, max_grad_norm=0.1)
    torch.set_float32_matmul_precision(products)
    try:
        engine.arm(batch_size=4, step=0)
        loss = outputs_loss(model, x).mean()
        loss.backward()
        assert torch.get_float32_matmul_precision() == products
    finally:
        torch.set_float32_matmul_precision("highest")
    found = clipped_sum(raw, 0.1)
    assert norm(grads(model)) < norm(found) * 1.01


# P10


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e200])
@every_network
def test_p10_an_example_that_is_not_finite_is_dropped_and_changes_no_other(
    make: Callable[[], nn.Module], data: Callable[[], Tensor], bad: float
) -> None:
    model, x = make().double(), data()
    keep = [0, 1, 3, 4]
    poison = torch.tensor([1.0, 1.0, bad, 1.0, 1.0], dtype=torch.float64)

    def loss(model: nn.Module, x: Tensor, poison: Tensor) -> Tensor:
        output = model(x)
        return torch.tanh(output * poison.view(-1, *([1] * (output.dim() - 1)))).flatten(1).sum(1) * poison

    bound = sorted(norm(g) for g in example_gradients(model, slices((x[keep], poison[keep])), loss))[1]
    found = private_sum(model, (x, poison), loss, bound)
    expected = private_sum(model, (x[keep], poison[keep]), loss, bound)
    assert relative_error(found, expected) < 1e-12


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", [name for name, (_, data) in NETWORKS.items() if data().is_floating_point()])
def test_p10_an_input_that_is_not_finite_is_dropped(name: str, bad: float) -> None:
    make, data = NETWORKS[name]
    model, x = make().double(), data()
    x[2].view(-1)[0] = bad
    keep = [0, 1, 3, 4]
    expected = private_sum(model, (x[keep],), outputs_loss, 0.5)
    assert relative_error(private_sum(model, (x,), outputs_loss, 0.5), expected) < 1e-12


def test_p10_a_batch_of_nothing_else_is_pure_noise() -> None:
    model = _mlp()
    assert norm(private_sum(model, (normal(4, 5) * float("nan"),), outputs_loss, 1.0)) == 0


# P12, P18


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_p12_the_sum_is_divided_by_the_expected_size_whatever_the_real_one(reduction: str, size: int) -> None:
    model, x = _mlp(), normal(size, 5)
    engine = engine_for(model, max_grad_norm=0.3, expected_batch_size=4.5, loss_reduction=reduction)
    engine.arm(batch_size=size, step=0)
    getattr(outputs_loss(model, x), reduction)().backward()
    expected = [g / 4.5 for g in clipped_sum(example_gradients(model, slices((x,)), outputs_loss), 0.3)]
    assert relative_error(grads(model), expected) < 1e-9


@every_network
def test_p18_a_batch_of_no_examples_releases_noise(make: Callable[[], nn.Module], data: Callable[[], Tensor]) -> None:
    model, x = make().double(), data()
    try:
        model(x[:0])
    except (RuntimeError, IndexError):
        pytest.skip("torch itself can't run this layer on an empty batch")
    engine = engine_for(model, noise_multiplier=2.0, max_grad_norm=3.0)
    engine.arm(batch_size=0, step=0)
    outputs_loss(model, x[:0]).mean().backward()
    assert engine.released == 1
    values = torch.cat([g.flatten() for g in grads(model)])
    # 6 is the noise's standard deviation; 30 values or more stay within a factor 2 but for 1 run in 10^5.
    assert values.isfinite().all()
    assert 3.0 < values.std() < 12.0


@pytest.mark.parametrize("closes_step", [True, False])
def test_p18_a_placeholder_contributes_nothing(closes_step: bool) -> None:
    model, x = _mlp(), normal(4, 5)
    engine = engine_for(model, max_grad_norm=0.5)
    if not closes_step:
        engine.arm(batch_size=4, step=0, closes_step=False)
        outputs_loss(model, x).mean().backward()
    engine.arm(batch_size=2, step=0, empty=True)
    (100 * outputs_loss(model, x[:2])).mean().backward()
    expected = 0 if closes_step else norm(private_sum_of(model, x, 0.5))
    assert norm(grads(model)) == pytest.approx(expected, rel=1e-9)


def private_sum_of(model: nn.Module, x: Tensor, bound: float) -> list[Tensor]:
    return clipped_sum(example_gradients(model, slices((x,)), outputs_loss), bound)


# Micro-batches


def test_micro_batches_add_up_to_the_step() -> None:
    model, x = _mlp(), normal(9, 5)
    engine = engine_for(model, max_grad_norm=0.4)
    for part, last in ((x[:4], False), (x[4:5], False), (x[5:], True)):
        engine.arm(batch_size=len(part), step=0, loss_scale=1 / 3, closes_step=last)
        assert engine.pending
        (outputs_loss(model, part).mean() / 3).backward()
        assert not engine.pending
        assert all((p.grad is not None) == last for p in trainable(model))
        assert engine.released == int(last)
    assert relative_error(grads(model), private_sum_of(model, x, 0.4)) < 1e-9


def test_p17_what_an_unfinished_step_left_does_not_enter_another_one() -> None:
    model, x = _mlp(), normal(4, 5)
    engine = engine_for(model)
    engine.arm(batch_size=4, step=0, closes_step=False)
    outputs_loss(model, x).mean().backward()
    with pytest.raises(PrivacyViolation, match="step 0"):
        engine.arm(batch_size=4, step=1)
    engine.discard()
    engine.arm(batch_size=4, step=1)
    outputs_loss(model, x).mean().backward()
    assert relative_error(grads(model), private_sum_of(model, x, 1e9)) < 1e-9


def test_steps_follow_one_another_without_traces() -> None:
    model, x = _mlp(), normal(4, 5)
    engine = engine_for(model, max_grad_norm=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        expected = private_sum_of(model, x, 0.5)
        engine.arm(batch_size=4, step=step)
        outputs_loss(model, x).mean().backward()
        assert relative_error(grads(model), expected) < 1e-9
        optimizer.step()
        optimizer.zero_grad(set_to_none=step % 2 == 0)
    assert engine.released == 3


def test_the_batch_size_is_taken_from_the_input_when_nobody_says_it() -> None:
    model, x = _mlp(), normal(7, 5)
    engine = engine_for(model, max_grad_norm=0.5)
    engine.arm(batch_size=None, step=0)
    outputs_loss(model, x).mean().backward()
    assert relative_error(grads(model), private_sum_of(model, x, 0.5)) < 1e-9
    engine.arm(batch_size=None, step=1)
    with pytest.raises(ConfigurationError, match="number of examples is unknown"):
        model[0](x)


# P07


def test_p07_frozen_parameters_are_left_alone_and_thawed_ones_taken_in() -> None:
    model, x = _mlp(), normal(4, 5)
    model[0].weight.requires_grad_(False)
    engine = engine_for(model, max_grad_norm=0.5, noise_multiplier=1.0)
    engine.arm(batch_size=4, step=0)
    outputs_loss(model, x).mean().backward()
    assert model[0].weight.grad is None
    assert all(p.grad is not None for p in trainable(model))

    model[0].weight.requires_grad_(True)
    model[2].bias.requires_grad_(False)
    engine.noise_multiplier = 0.0
    engine.arm(batch_size=4, step=1)
    outputs_loss(model, x).mean().backward()
    assert model[2].bias.grad is None
    assert relative_error(grads(model), private_sum_of(model, x, 0.5)) < 1e-9


def test_p07_nothing_may_begin_to_train_within_a_step() -> None:
    model, x = _mlp(), normal(4, 5)
    model[0].weight.requires_grad_(False)
    engine = engine_for(model)
    engine.arm(batch_size=4, step=0, closes_step=False)
    outputs_loss(model, x).mean().backward()
    model[0].weight.requires_grad_(True)
    with pytest.raises(PrivacyViolation, match="trainable parameters changed"):
        engine.arm(batch_size=4, step=0)


def test_p07_what_is_switched_off_for_one_loss_has_no_gradient() -> None:
    model, x = _mlp(), normal(4, 5)
    engine = engine_for(model, max_grad_norm=0.5, noise_multiplier=1.0)
    model[0].requires_grad_(False)  # toggled, as for the loss of another optimizer
    engine.arm(batch_size=4, step=0)
    outputs_loss(model, x).mean().backward()
    assert model[0].weight.grad is None
    assert model[2].weight.grad is not None
    model[0].requires_grad_(True)
    other = copy.deepcopy(model)
    engine.detach()
    engine = engine_for(model, max_grad_norm=0.5)
    engine.arm(batch_size=4, step=1)
    outputs_loss(model, x).mean().backward()
    assert relative_error(grads(model), private_sum_of(other, x, 0.5)) < 1e-9


def test_p07_a_parameter_replaced_by_a_new_one_is_taken_in() -> None:
    model, x = _mlp(), normal(4, 5)
    engine = engine_for(model, max_grad_norm=0.5)
    model[2] = nn.Linear(8, 2).double()
    engine.arm(batch_size=4, step=0)
    outputs_loss(model, x).mean().backward()
    assert relative_error(grads(model), private_sum_of(model, x, 0.5)) < 1e-9


def test_p07_what_is_thawed_after_the_announcement_is_taken_in_or_refused() -> None:
    model, x = _mlp(), normal(4, 5)
    model[0].requires_grad_(False)
    engine = engine_for(model, max_grad_norm=0.5)
    engine.arm(batch_size=4, step=0)
    model[0].requires_grad_(True)
    outputs_loss(model, x).mean().backward()  # the network itself is called: there is time to take it in
    assert relative_error(grads(model), private_sum_of(model, x, 0.5)) < 1e-9

    engine.arm(batch_size=4, step=1)
    model[0].weight.requires_grad_(False)
    engine.arm(batch_size=4, step=1)
    model[0].weight.requires_grad_(True)
    hidden = model[0](x)  # its parts are
    outputs_loss(nn.Sequential(model[1], model[2]), hidden).mean().backward()
    assert relative_error(grads(model), private_sum_of(model, x, 0.5)) < 1e-9

    engine.detach()
    model[0].requires_grad_(False)
    engine = engine_for(model, max_grad_norm=0.5)
    engine.arm(batch_size=4, step=2)
    model[0].requires_grad_(True)
    hidden = model[0](x)  # nobody listens to it
    with pytest.raises(PrivacyViolation, match=r"trainable parameters changed|no layer explains"):
        outputs_loss(nn.Sequential(model[1], model[2]), hidden).mean().backward()
    assert not engine.is_private()
    assert all(p.grad is None for p in model.parameters())


def test_p07_a_gradient_that_a_frozen_parameter_has_is_not_private() -> None:
    model, x = _mlp(), normal(4, 5)
    outputs_loss(model, x).mean().backward()
    model[0].requires_grad_(False)
    engine = engine_for(model)  # the optimizer would step on it
    assert model[0].weight.grad is None
    engine.arm(batch_size=4, step=0)
    outputs_loss(model, x).mean().backward()
    assert engine.is_private()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    assert not engine.is_private()


def test_p08_gradients_changed_in_place_after_their_norm_are_refused() -> None:
    def enlarge(gradient: Tensor) -> None:
        gradient.mul_(1000)

    class Shared(nn.Module):
        """The gradient of a sum goes to both of its terms, as one tensor."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(5, 3).double(), nn.Linear(5, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            early = self.inner(x) * 1e-6
            early.register_hook(enlarge)  # type: ignore[no-untyped-call]
            return torch.add(early, self.outer(x))

    model, x = Shared(), normal(4, 5)
    engine = engine_for(model, max_grad_norm=0.5)
    engine.arm(batch_size=4, step=0)
    with pytest.raises(PrivacyViolation, match="modified in place during backward"):
        model(x).square().sum().backward()
    assert engine.released == 0


@every_network
def test_p07_layers_in_evaluation_mode_train_all_the_same(
    make: Callable[[], nn.Module], data: Callable[[], Tensor]
) -> None:
    model, x = make().double(), data()
    expected = private_sum_of(model, x, 0.5)
    for child in model.children():
        child.eval()
    assert relative_error(private_sum(model, (x,), outputs_loss, 0.5), expected) < 1e-9


def test_p07_a_layer_that_was_not_called_gets_noise_and_a_layer_without_gradient_too() -> None:
    model = nn.ModuleDict({"used": nn.Linear(5, 300), "idle": nn.Linear(300, 300), "dead": nn.Linear(300, 300)})
    engine = engine_for(model.double(), max_grad_norm=2.0, noise_multiplier=1.5, expected_batch_size=6.0)
    engine.arm(batch_size=4, step=0)
    hidden = model["used"](normal(4, 5))
    (hidden.sum(1) + model["dead"](hidden).detach().sum(1)).mean().backward()
    for name in ("idle", "dead"):
        values = model[name].weight.grad
        # 90,000 values: the standard error is 1/424 = 0.24%, so 2% is 8.5 of them; 300 would be 4.1%.
        assert float(values.std()) == pytest.approx(0.5, rel=0.02)
        assert abs(float(values.mean())) < 0.5 * 6 / 300


# Arguments


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_grad_norm": 0.0}, "max_grad_norm must be a finite number > 0, got 0.0"),
        ({"max_grad_norm": float("inf")}, "max_grad_norm"),
        ({"noise_multiplier": -1.0}, "noise_multiplier must be a finite number >= 0, got -1.0"),
        ({"expected_batch_size": 0}, "expected_batch_size"),
        ({"clipping": "adaptable"}, "clipping must be one of 'flat', 'per_layer'"),
        ({"loss_reduction": "none"}, "loss_reduction must be one of"),
    ],
)
def test_arguments_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        engine_for(_mlp(), **changes)


@pytest.mark.parametrize("loss_scale", [0.0, -1.0, float("nan")])
def test_loss_scale_out_of_range(loss_scale: float) -> None:
    with pytest.raises(ConfigurationError, match="loss_scale"):
        engine_for(_mlp()).arm(batch_size=3, step=0, loss_scale=loss_scale)


def test_arming_needs_an_attached_engine() -> None:
    engine = PrivateGradients(
        _mlp(), max_grad_norm=1.0, noise_multiplier=1.0, expected_batch_size=1.0, noise=NoiseSource()
    )
    with pytest.raises(PrivacyViolation, match="attach"):
        engine.arm(batch_size=3, step=0)
