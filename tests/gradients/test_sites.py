"""Where gradients may come from: what is computed right, and what is refused by name (P03, P06, P08)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from brute_force import (
    SLOW_LAYERS,
    check_clipped_sums,
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
from torch.utils.checkpoint import checkpoint

from lightning_privacy.errors import ConfigurationError, PrivacyViolation, UnsupportedError

pytestmark = SLOW_LAYERS


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(50)


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()


class Function(nn.Module):
    """A network made of layers and a function of them."""

    def __init__(self, function: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.function = function

    def forward(self, *inputs: Any) -> Tensor:
        return self.function(self.layers, *inputs)


def _backward(model: nn.Module, loss: Callable[[], Tensor], size: int = 4) -> None:
    engine = engine_for(model)
    engine.arm(batch_size=size, step=0)
    try:
        loss().backward()
    finally:
        assert engine.released == 0
        assert all(p.grad is None for p in model.parameters())


# P03: layers that couple examples


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm])
@pytest.mark.parametrize("affine", [True, False])
def test_p03_batch_norm_is_refused_by_name_with_the_way_out(kind: type[nn.Module], affine: bool) -> None:
    model = nn.Sequential(nn.Linear(5, 5), nn.Sequential(kind(5, affine=affine)))
    with pytest.raises(UnsupportedError, match=rf"layer '1\.0' \({kind.__name__}\).*ModuleValidator\.fix"):
        engine_for(model)


def test_p03_what_the_message_proposes_works() -> None:
    from opacus.validators import ModuleValidator

    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 2))
    check_clipped_sums(ModuleValidator.fix(model).double(), (normal(4, 2, 5, 5),))


@pytest.mark.parametrize("affine", [True, False])
def test_p03_batch_norm_in_evaluation_mode_is_right(affine: bool) -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, affine=affine), nn.Flatten(), nn.Linear(36, 2))
    nn.init.normal_(model[1].running_mean)
    model[1].eval()
    # The copy of a network that is still attached is what brute force would run on otherwise.
    check_clipped_sums(model.double(), (normal(4, 2, 5, 5),))


def test_p03_batch_norm_without_running_statistics_uses_the_batch_in_every_mode() -> None:
    model = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5, track_running_stats=False)).eval()
    with pytest.raises(UnsupportedError, match="layer '1'"):
        engine_for(model)


def test_p03_batch_norm_switched_to_training_between_steps_is_refused() -> None:
    model = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5)).double()
    model[1].eval()
    engine = engine_for(model)
    engine.arm(batch_size=4, step=0)
    outputs_loss(model, normal(4, 5)).mean().backward()
    model.train()
    with pytest.raises(UnsupportedError, match="layer '1'"):
        engine.arm(batch_size=4, step=1)


def test_p03_batch_norm_switched_to_training_within_a_step_is_refused() -> None:
    model = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5, affine=False)).double()
    model[1].eval()
    engine = engine_for(model)
    engine.arm(batch_size=4, step=0)
    model.train()
    with pytest.raises(UnsupportedError, match="layer '1'"):
        outputs_loss(model, normal(4, 5)).mean().backward()
    assert engine.released == 0


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.InstanceNorm1d(5, affine=True, track_running_stats=True), "track_running_stats=False"),
        (nn.InstanceNorm2d(5, affine=False, track_running_stats=True), "track_running_stats=False"),
        (nn.Embedding(5, 3, max_norm=1.0), "max_norm=None"),
        (nn.EmbeddingBag(5, 3, max_norm=1.0), "max_norm=None"),
        (nn.Embedding(5, 3, scale_grad_by_freq=True), "scale_grad_by_freq"),
        (nn.Embedding(5, 3, sparse=True), "sparse=False"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else value,
)
def test_p03_layers_with_an_option_that_couples_examples_are_refused(layer: nn.Module, message: str) -> None:
    model = nn.Sequential(nn.Linear(5, 5), layer)
    with pytest.raises(UnsupportedError, match=rf"layer '1' \({type(layer).__name__}\).*{message}"):
        engine_for(model)


# P06: where a parameter is used


def test_p06_weight_of_a_layer_in_a_function_is_refused() -> None:
    model, x = _mlp(), normal(4, 5)
    with pytest.raises(PrivacyViolation, match=r"parameter '0\.weight' .*F\.linear"):
        _backward(model, lambda: outputs_loss(lambda x: F.linear(x, model[0].weight), x).mean())


def test_p06_weight_used_by_its_layer_and_by_a_function_is_refused() -> None:
    model, x = _mlp(), normal(4, 5)
    with pytest.raises(PrivacyViolation, match=r"parameter '2\.weight'"):
        _backward(model, lambda: (outputs_loss(model, x) + F.linear(model[0](x), model[2].weight).sum(1)).mean())


def test_p06_parameter_of_the_root_in_a_loss_outside_of_its_methods_is_refused() -> None:
    class WithTemperature(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.temperature = nn.Parameter(torch.ones(()))
            self.linear = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x)

    model, x = WithTemperature().double(), normal(4, 5)
    with pytest.raises(PrivacyViolation, match="parameter 'temperature'"):
        _backward(model, lambda: (model(x) / model.temperature).sum(1).mean())


def test_p05_p06_penalty_on_the_weights_is_refused() -> None:
    model, x = _mlp(), normal(4, 5)
    with pytest.raises(PrivacyViolation, match=r"parameter '.*' .*weight_decay"):
        _backward(model, lambda: outputs_loss(model, x).mean() + sum(p.square().sum() for p in model.parameters()))


def test_p06_a_refused_backward_leaves_the_next_one_right() -> None:
    model, x = _mlp(), normal(4, 5)
    engine = engine_for(model)
    engine.arm(batch_size=4, step=0)
    with pytest.raises(PrivacyViolation):
        (outputs_loss(model, x).mean() + model[0].bias.sum()).backward()
    engine.arm(batch_size=4, step=0)
    outputs_loss(model, x).mean().backward()
    assert relative_error(grads(model), clipped_sum(example_gradients(model, slices((x,)), outputs_loss), 1e9)) < 1e-9


def _tied_embedding() -> nn.Module:
    model = Function(
        lambda m, x: m["out"](torch.tanh(m["mid"](m["in"](x)))),
        **{"in": nn.Embedding(7, 4, padding_idx=2), "mid": nn.Linear(4, 4), "out": nn.Linear(4, 7, bias=False)},
    )
    model.layers["out"].weight = model.layers["in"].weight
    return model


def _tied_fallback() -> nn.Module:
    model = Function(
        lambda m, x: m["bilinear"](m["first"](x), m["second"](torch.sin(x))),
        first=nn.Linear(5, 4),
        second=nn.Linear(5, 4),
        bilinear=nn.Bilinear(4, 4, 4),
    )
    model.layers["second"].weight = model.layers["first"].weight
    model.layers["bilinear"].bias = model.layers["second"].bias
    return model


def _tied_in_a_fallback() -> nn.Module:
    model = Function(lambda m, x: m["own"](m["linear"](x)), linear=nn.Linear(5, 5), own=nn.PReLU(5))
    model.layers["own"].weight = model.layers["linear"].bias
    return model


def _tied_transposed_conv() -> nn.Module:
    model = Function(lambda m, x: m["b"](torch.tanh(m["a"](x))), a=nn.Conv1d(3, 3, 2), b=nn.Conv1d(3, 3, 2, dilation=2))
    model.layers["b"].weight = model.layers["a"].weight
    return model


SHARED: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "embedding and output": (_tied_embedding, lambda: torch.randint(0, 7, (5, 6))),
    "two layers and a fallback": (_tied_fallback, lambda: normal(5, 5)),
    "a layer and a fallback": (_tied_in_a_fallback, lambda: normal(5, 5)),
    "two convolutions": (_tied_transposed_conv, lambda: normal(5, 3, 8)),
    "linear called three times": (
        lambda: Function(lambda m, x: m["a"](torch.tanh(m["a"](torch.tanh(m["a"](x))))), a=nn.Linear(5, 5)),
        lambda: normal(5, 5),
    ),
    "linear called with and without positions": (
        lambda: Function(lambda m, x: m["a"](x).sum(1) + m["a"](x[:, 0]), a=nn.Linear(5, 3)),
        lambda: normal(5, 3, 5),
    ),
    "linear called twice, once for nothing": (
        lambda: Function(lambda m, x: m["a"](x) + 0 * m["a"](2 * x).detach(), a=nn.Linear(5, 3)),
        lambda: normal(5, 5),
    ),
    "convolution called at two sizes": (
        lambda: Function(lambda m, x: m["a"](m["a"](x)).sum(2), a=nn.Conv2d(2, 2, 3, padding=1)),
        lambda: normal(4, 2, 5, 5),
    ),
    "norm called twice": (
        lambda: Function(lambda m, x: m["n"](m["a"](m["n"](x))), n=nn.LayerNorm(5), a=nn.Linear(5, 5)),
        lambda: normal(5, 5),
    ),
    "fallback called twice": (
        lambda: Function(lambda m, x: m["p"](m["a"](m["p"](x))), p=nn.PReLU(5), a=nn.Linear(5, 5)),
        lambda: normal(5, 5),
    ),
    "embedding called twice": (
        lambda: Function(lambda m, x: m["e"](x).sum(1) * m["e"](x[:, 0]), e=nn.Embedding(7, 4)),
        lambda: torch.randint(0, 7, (5, 3)),
    ),
    "a module under two names": (
        lambda: (lambda layer: nn.Sequential(layer, nn.Tanh(), layer))(nn.Linear(5, 5)),
        lambda: normal(5, 5),
    ),
}


@pytest.mark.parametrize(("make", "data"), SHARED.values(), ids=SHARED)
def test_p06_tied_weights_and_layers_called_several_times_are_right(
    make: Callable[[], nn.Module], data: Callable[[], Tensor]
) -> None:
    check_clipped_sums(make().double(), (data(),))


# P08: in-place changes, views, recomputed and compiled layers

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda y: F.relu(y, inplace=True),
    "elu": lambda y: F.elu(y, inplace=True),
    "sigmoid": lambda y: y.sigmoid_(),
    "mul": lambda y: y.mul_(2.0),
    "half of it": lambda y: y.__setitem__((slice(None), 0), 0.0) or y,
    "flattened": lambda y: F.relu(y.flatten(1), inplace=True),
}


def _call(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x, x) if isinstance(layer, nn.Bilinear) else layer(x)


FIRST_LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "Linear": (lambda: nn.Linear(5, 6), lambda: normal(4, 5)),
    "Linear over positions": (lambda: nn.Linear(5, 6), lambda: normal(4, 3, 5)),
    "Conv1d": (lambda: nn.Conv1d(2, 3, 2), lambda: normal(4, 2, 5)),
    "Conv2d": (lambda: nn.Conv2d(2, 3, 2), lambda: normal(4, 2, 5, 4)),
    "Conv3d": (lambda: nn.Conv3d(1, 2, 2), lambda: normal(4, 1, 3, 3, 3)),
    "Embedding": (lambda: nn.Embedding(7, 6), lambda: torch.randint(0, 7, (4, 3))),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(7, 6), lambda: torch.randint(0, 7, (4, 3))),
    "LayerNorm": (lambda: nn.LayerNorm(6), lambda: normal(4, 6)),
    "RMSNorm": (lambda: nn.RMSNorm(6), lambda: normal(4, 6)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 6), lambda: normal(4, 6, 3)),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(6, affine=True), lambda: normal(4, 6, 3)),
    "fallback": (lambda: nn.Bilinear(6, 6, 5), lambda: normal(4, 6)),
    "looped": (lambda: nn.utils.parametrizations.orthogonal(nn.Linear(6, 6)), lambda: normal(4, 6)),
}


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
@pytest.mark.parametrize(("make", "data"), FIRST_LAYERS.values(), ids=FIRST_LAYERS)
@pytest.mark.parametrize("deep", [False, True], ids=["first", "second"])
def test_p08_outputs_changed_in_place_are_right(
    make: Callable[[], nn.Module],
    data: Callable[[], Tensor],
    activation: Callable[[Tensor], Tensor],
    deep: bool,
) -> None:
    x = data()
    if deep and x.is_floating_point():
        model = Function(
            lambda m, x: activation(_call(m["a"], torch.sin(m["scale"](x)))),
            a=make(),
            scale=nn.Linear(x.shape[-1], x.shape[-1]),
        )
    else:
        model = Function(lambda m, x: activation(_call(m["a"], x)), a=make())
    check_clipped_sums(model.double(), (x,))


@pytest.mark.parametrize(("make", "data"), FIRST_LAYERS.values(), ids=FIRST_LAYERS)
def test_p08_an_input_changed_in_place_after_its_use_is_refused_or_not_needed(
    make: Callable[[], nn.Module], data: Callable[[], Tensor]
) -> None:
    x = data()
    if not x.is_floating_point():
        pytest.skip("indices are read, not multiplied")

    def forward(layers: nn.ModuleDict, x: Tensor) -> Tensor:
        hidden = torch.cos(layers["scale"](x))
        y = _call(layers["a"], hidden)
        hidden += 1
        return y.flatten(1).sum(1) + hidden.flatten(1).sum(1)

    model = Function(forward, a=make(), scale=nn.Linear(x.shape[-1], x.shape[-1])).double()
    plain_works = True
    try:
        model(x).sum().backward()
    except RuntimeError:
        plain_works = False
    model.zero_grad()
    engine = engine_for(model)
    engine.arm(batch_size=4, step=0)
    if plain_works:
        model(x).mean().backward()
        expected = example_gradients(model, slices((x,)), lambda m, x: m(x))
        assert relative_error(grads(model), clipped_sum(expected, 1e9)) < 1e-9
        return
    with pytest.raises(RuntimeError, match=r"in place|inplace"):
        model(x).mean().backward()
    assert all(p.grad is None for p in model.parameters())


def test_p08_an_input_without_gradient_changed_in_place_is_refused() -> None:
    """Plain autograd refuses it too; here the input is kept outside the graph."""
    model, x = _mlp(), normal(4, 5)

    def loss() -> Tensor:
        output = outputs_loss(model, x).mean()
        x.add_(1)
        return output

    with pytest.raises(PrivacyViolation, match="layer '0' was modified in place"):
        _backward(model, loss)


def test_p08_indices_changed_in_place_are_refused() -> None:
    model, x = nn.Sequential(nn.Embedding(7, 4)).double(), torch.randint(0, 7, (4, 3))

    def loss() -> Tensor:
        output = outputs_loss(model, x).mean()
        x.zero_()
        return output

    with pytest.raises(PrivacyViolation, match="layer '0' was modified in place"):
        _backward(model, loss)


def test_p08_residual_added_in_place() -> None:
    """``out += x`` is right; ``x += f(x)`` changes what f kept, which autograd refuses as well."""

    def right(m: nn.ModuleDict, x: Tensor) -> Tensor:
        x = m["a"](x)
        out = m["b"](torch.relu(x))
        out += x
        return torch.relu_(out)

    def wrong(m: nn.ModuleDict, x: Tensor) -> Tensor:
        x = m["a"](x)
        x += m["b"](x)
        return x

    x = normal(4, 5)
    check_clipped_sums(Function(right, a=nn.Linear(5, 6), b=nn.Linear(6, 6)).double(), (x,))
    model = Function(wrong, a=nn.Linear(5, 6), b=nn.Linear(6, 6)).double()
    with pytest.raises(PrivacyViolation, match=r"'layers\.b' was modified in place"):
        _backward(model, lambda: model(x).sum(1).mean())


@pytest.mark.parametrize("kind", ["rule", "fallback", "tied"])
def test_p08_checkpointed_layers_are_right(kind: str) -> None:
    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        h = checkpoint(lambda x: torch.tanh(m["b"](torch.tanh(m["a"](x)))), x, use_reentrant=False)
        return m["head"](h)

    layers = {
        "a": nn.Linear(5, 6),
        "b": nn.PReLU(6) if kind == "fallback" else nn.Linear(6, 6),
        "head": nn.Linear(6, 6),
    }
    model = Function(forward, **layers).double()
    if kind == "tied":
        model.layers["head"].weight = model.layers["b"].weight
    check_clipped_sums(model, (normal(4, 5),))
    whole = Function(lambda m, x: checkpoint(m["net"], x, use_reentrant=False), net=_mlp()).double()
    check_clipped_sums(whole, (normal(4, 5),))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("head", [False, True])
def test_p08_reentrant_checkpoints_release_the_right_gradient_or_none(blocks: int, head: bool) -> None:
    """One backward inside another: what is not refused must be what brute force gives."""

    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        x = m["first"](x)
        for block in range(blocks):
            x = checkpoint(lambda x, block=block: torch.tanh(m[f"block{block}"](x)), x, use_reentrant=True)
        return m["head"](x) if head else x

    layers = {f"block{i}": nn.Linear(6, 6) for i in range(blocks)}
    model = Function(forward, first=nn.Linear(5, 6), **layers, **({"head": nn.Linear(6, 2)} if head else {})).double()
    x = normal(4, 5)
    engine = engine_for(model)
    engine.arm(batch_size=4, step=0)
    try:
        outputs_loss(model, x).mean().backward()
    except PrivacyViolation as error:
        assert "use_reentrant=False" in str(error)  # noqa: PT017
        # At most one part was released, clipped and charged like any other gradient.
        assert engine.released <= 1
        return
    plain = Function(lambda m, x: forward_plain(m, x, blocks, head), **dict(model.layers)).double()
    expected = example_gradients(plain, slices((x,)), outputs_loss)
    assert relative_error(grads(model), clipped_sum(expected, 1e9)) < 1e-9


def forward_plain(m: nn.ModuleDict, x: Tensor, blocks: int, head: bool) -> Tensor:
    x = m["first"](x)
    for block in range(blocks):
        x = torch.tanh(m[f"block{block}"](x))
    return m["head"](x) if head else x


def _compiled_in_place(layer: nn.Module) -> nn.Module:
    layer.compile()
    return layer


Wrap = Callable[[nn.Module], nn.Module]
COMPILED: dict[str, Callable[[Wrap], nn.Module]] = {
    "network": lambda wrap: wrap(_mlp()),
    "layer": lambda wrap: nn.Sequential(wrap(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 3)),
    "block": lambda wrap: nn.Sequential(wrap(_mlp()), nn.Linear(3, 3)),
    "in a checkpoint": lambda wrap: Function(
        lambda m, x: checkpoint(m["net"], x, use_reentrant=False), net=wrap(_mlp())
    ),
}


@pytest.mark.filterwarnings("ignore:.*runs uncompiled:UserWarning")
@pytest.mark.parametrize("make", COMPILED.values(), ids=COMPILED)
@pytest.mark.parametrize("wrap", [torch.compile, _compiled_in_place], ids=["compiled", "in place"])
def test_p08_compiled_modules_run_uncompiled_while_attached(make: Callable[[Wrap], nn.Module], wrap: Wrap) -> None:
    compiled, plain, x = make(wrap).double(), make(lambda module: module).double(), normal(4, 5)
    plain.load_state_dict({key.replace("_orig_mod.", ""): value for key, value in compiled.state_dict().items()})
    expected = clipped_sum(example_gradients(plain, slices((x,)), outputs_loss), 0.3)

    def callables() -> list[Any]:
        return [vars(layer).get(name) for layer in compiled.modules() for name in ("forward", "_compiled_call_impl")]

    before = callables()
    assert relative_error(private_sum(compiled, (x,), outputs_loss, 0.3), expected) < 1e-9
    assert callables() == before


def test_p08_compiled_modules_are_named_in_a_warning() -> None:
    with pytest.warns(UserWarning, match="layer '0' is compiled.*runs uncompiled"):
        engine_for(nn.Sequential(torch.compile(nn.Linear(5, 3))))


def test_p08_compiled_functions_are_right() -> None:
    model, x = _mlp(), normal(4, 5)

    @torch.compile
    def scaled(x: Tensor) -> Tensor:
        return model[2](torch.tanh(model[0](x))) @ model[2].weight

    network = Function(lambda _, x: scaled(x), net=model)
    plain = Function(lambda m, x: m["net"][2](torch.tanh(m["net"][0](x))) @ m["net"][2].weight, net=model)
    expected = clipped_sum(example_gradients(plain, slices((x,)), outputs_loss), 0.3)
    assert relative_error(private_sum(network, (x,), outputs_loss, 0.3), expected) < 1e-9


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_p08_scripted_modules_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="scripted"):
        engine_for(nn.Sequential(torch.jit.script(nn.Linear(5, 3))))


def test_modules_wrapped_by_opacus_are_refused() -> None:
    from opacus.grad_sample import GradSampleModule

    with pytest.raises(UnsupportedError, match="Opacus wrapper"):
        engine_for(GradSampleModule(nn.Linear(5, 3)))


# One backward for one batch


def test_a_second_backward_is_refused() -> None:
    model, x = _mlp(), normal(4, 5)
    engine = engine_for(model)
    engine.arm(batch_size=4, step=0)
    output = model(x)
    output.sum(1).mean().backward(retain_graph=True)
    first = grads(model)
    with pytest.raises(PrivacyViolation, match="no private step was due"):
        output.square().sum(1).mean().backward()
    assert engine.released == 1
    for before, after in zip(first, grads(model), strict=True):
        assert torch.equal(before, after)


def test_a_backward_without_arming_is_refused() -> None:
    model, x = _mlp(), normal(4, 5)
    engine = engine_for(model)
    with pytest.raises(PrivacyViolation, match="no private step was due"):
        outputs_loss(model, x).mean().backward()
    assert engine.released == 0
    assert all(p.grad is None for p in model.parameters())


def test_a_graph_kept_from_an_earlier_batch_is_refused() -> None:
    model, x = _mlp(), normal(4, 5)
    engine = engine_for(model)
    engine.arm(batch_size=4, step=0)
    state = model[0](x)
    engine.arm(batch_size=4, step=0)
    with pytest.raises(PrivacyViolation, match="earlier batch"):
        model[2](torch.tanh(state)).sum(1).mean().backward()
    assert engine.released == 0

    engine.arm(batch_size=4, step=0)
    carried = model[0](x)
    (model[2](torch.tanh(carried)).sum(1)).mean().backward(retain_graph=True)
    engine.arm(batch_size=4, step=1)
    with pytest.raises(PrivacyViolation, match="earlier batch"):
        (model(x) + carried.sum()).sum(1).mean().backward()
    assert engine.released == 1


def test_a_gradient_penalty_is_refused() -> None:
    model, x = _mlp(), normal(4, 5).requires_grad_()

    def loss() -> Tensor:
        output = outputs_loss(model, x)
        (slope,) = torch.autograd.grad(output.sum(), x, create_graph=True)
        return (output + slope.square().sum(1)).mean()

    with pytest.raises(PrivacyViolation, match="gradient penalty"):
        _backward(model, loss)


def test_a_gradient_of_the_input_uses_up_the_step() -> None:
    """An adversarial example made in the training step is a second backward."""
    model, x = _mlp(), normal(4, 5).requires_grad_()
    engine = engine_for(model)
    engine.arm(batch_size=4, step=0)
    output = outputs_loss(model, x)
    torch.autograd.grad(output.sum(), x)
    with pytest.raises(PrivacyViolation, match="no private step was due"):
        outputs_loss(model, x + 1).mean().backward()


@pytest.mark.parametrize("size", [3, 5, 0])
def test_another_batch_size_than_announced_is_refused(size: int) -> None:
    model = _mlp()
    engine = engine_for(model)
    engine.arm(batch_size=4, step=0)
    with pytest.raises(UnsupportedError, match=rf"layer '0' returned shape \({size}, 8\), but the batch has 4"):
        model(normal(size, 5))


def test_p03_examples_folded_into_other_dimensions_are_refused() -> None:
    model = Function(lambda m, x: m["a"](x.flatten(0, 1)).unflatten(0, (4, 3)), a=nn.Linear(5, 3)).double()
    engine = engine_for(model)
    engine.arm(batch_size=4, step=0)
    with pytest.raises(UnsupportedError, match="must be the first dimension"):
        model(normal(4, 3, 5))


def test_an_input_without_batch_dimension_is_refused() -> None:
    model = nn.Linear(4, 4).double()
    engine = engine_for(model)
    engine.arm(batch_size=4, step=0)
    with pytest.raises(UnsupportedError, match="must be the first dimension"):
        model(normal(4))


def test_calls_without_gradients_are_left_alone() -> None:
    model, x = _mlp(), normal(4, 5)
    expected = model(x).detach()
    engine = engine_for(model)
    engine.arm(batch_size=4, step=0)
    with torch.no_grad():
        assert torch.equal(model(normal(9, 5)[:4]), model(normal(9, 5)[:4])) is False
        assert torch.equal(model(x), expected)
    with torch.inference_mode():
        assert torch.equal(model(x), expected)
    assert engine.pending


def test_modules_nothing_can_be_done_with() -> None:
    with pytest.raises(ConfigurationError, match="no trainable parameter"):
        engine_for(nn.Sequential(nn.ReLU()))
    with pytest.raises(ConfigurationError, match="lazy"):
        engine_for(nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(UnsupportedError, match="complex"):
        engine_for(nn.Sequential(nn.Linear(3, 3, dtype=torch.complex64)))


def test_the_norm_counts_every_parameter_of_the_network() -> None:
    model, x = nn.Sequential(_mlp(), nn.PReLU(3).double()), normal(1, 5)
    (whole,) = example_gradients(model, [(x,)], outputs_loss)
    assert norm(private_sum(model, (x,), outputs_loss, norm(whole) / 7)) == pytest.approx(norm(whole) / 7, rel=1e-9)
    assert len(trainable(model)) == 5
