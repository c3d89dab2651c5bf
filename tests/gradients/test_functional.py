"""Parameters used outside of a layer's own forward, against brute force (P06)."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from brute_force import (
    check_clipped_sums,
    clipped_sum,
    engine_for,
    example_gradients,
    grads,
    normal,
    outputs_loss,
    private_sum,
    relative_error,
    slices,
)
from laid_out import check_laid_out
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from lightning_privacy.errors import PrivacyViolation, UnsupportedError


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(70)


class Using(nn.Module):
    """A network that computes with parameters and layers of its own as a function says."""

    def __init__(self, function: Callable[..., Any], **members: nn.Module | tuple[int, ...] | Tensor) -> None:
        super().__init__()
        for name, member in members.items():
            if isinstance(member, tuple):
                setattr(self, name, nn.Parameter(torch.randn(member)))
            elif isinstance(member, nn.Module):
                setattr(self, name, member)
            else:
                self.register_buffer(name, member)
        self.function = function
        self.child = nn.Identity()  # a module without children runs example by example

    def forward(self, *inputs: Any) -> Any:
        return self.function(self, *inputs)


def _masked(m: Any, x: Tensor) -> Tensor:
    h = m.first(x)
    return h.masked_fill(x.sum(2, keepdim=True) > 0, 0.0) + torch.where(x.sum(2, keepdim=True) > 0, m.token, h)


def _assigned(m: Any, x: Tensor) -> Tensor:
    h = m.first(x).clone()
    h[:, 1] = m.token
    return torch.tanh(h)


def _qkv(m: Any, x: Tensor) -> Tensor:
    qkv = F.linear(x, m.qkv.weight, torch.cat([m.q_bias, torch.zeros_like(m.q_bias), m.v_bias]))
    q, k, v = qkv.chunk(3, -1)
    return F.scaled_dot_product_attention(q, k, v, m.table[m.index].permute(2, 0, 1)[0])


def _cell(m: Any, x: Tensor) -> Tensor:
    h = torch.zeros(x.shape[0], 4, dtype=x.dtype)
    for t in range(x.shape[1]):
        h = torch.tanh(x[:, t] @ m.w + h @ m.u + m.b)
    return h


def _standardised(m: Any, x: Tensor) -> Tensor:
    w = m.conv.weight
    w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-3)
    return F.conv2d(x, w, m.conv.bias, stride=2, padding=1)


def _zeroed_key_bias(m: Any, x: Tensor) -> Tensor:
    bias = m.bias.clone()
    bias[2:4].zero_()
    return F.linear(x, m.weight, bias)


def _buffer_written(m: Any, x: Tensor) -> Tensor:
    table = torch.zeros(3, 5, dtype=x.dtype)
    table[1] = m.row
    return m.first(x) + table


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "tied head": (
        lambda: Using(lambda m, x: F.linear(torch.tanh(m.embed(x)), m.embed.weight), embed=nn.Embedding(7, 4)),
        lambda: torch.randint(0, 7, (5, 3)),
    ),
    "tied head by matmul": (
        lambda: Using(lambda m, x: torch.tanh(m.embed(x)) @ m.embed.weight.t(), embed=nn.Embedding(7, 4)),
        lambda: torch.randint(0, 7, (5, 3)),
    ),
    "weight of a layer used twice": (
        lambda: Using(lambda m, x: F.linear(m.a(x), m.a.weight, m.a.bias) + F.linear(x, m.a.weight), a=nn.Linear(5, 5)),
        lambda: normal(4, 5),
    ),
    "class token and positions": (
        lambda: Using(
            lambda m, x: m.head(torch.tanh(torch.cat([m.cls.expand(x.shape[0], -1, -1), m.first(x)], 1) + m.pos)),
            first=nn.Linear(5, 4), head=nn.Linear(4, 3), cls=(1, 1, 4), pos=(1, 4, 4),
        ),
        lambda: normal(6, 3, 5),
    ),
    "class token repeated": (
        lambda: Using(
            lambda m, x: torch.cat((m.cls.repeat(x.size(0), 1, 1), m.first(x)), dim=1) * m.pos[:, : x.shape[1] + 1],
            first=nn.Linear(5, 4), cls=(1, 1, 4), pos=(1, 7, 4),
        ),
        lambda: normal(6, 3, 5),
    ),
    "tokens stacked": (
        lambda: Using(
            lambda m, x: torch.stack([m.first(x), m.token.expand(len(x), 4), m.token.repeat(len(x), 1)], 1),
            first=nn.Linear(5, 4), token=(4,),
        ),
        lambda: normal(6, 5),
    ),
    "layer scale": (
        lambda: Using(lambda m, x: x + m.scale * m.block(x), scale=(5, 1, 1), block=nn.Conv2d(5, 5, 3, padding=1)),
        lambda: normal(4, 5, 4, 4),
    ),
    "low-rank adapter": (
        lambda: Using(
            lambda m, x: m.base(x) + x @ m.a @ m.b * 0.5, a=(5, 2), b=(2, 6), base=nn.Linear(5, 6).requires_grad_(False)
        ),
        lambda: normal(4, 3, 5),
    ),
    "low-rank adapter, multiplied out": (
        lambda: Using(
            lambda m, x: F.linear(x, m.base.weight + (m.a @ m.b).T), a=(5, 2), b=(2, 6), base=nn.Linear(5, 6)
        ),
        lambda: normal(4, 3, 5),
    ),
    "temperature": (
        lambda: Using(lambda m, x: m.first(x) * m.log_scale.exp().clamp(max=3.0), first=nn.Linear(5, 4), log_scale=()),
        lambda: normal(4, 5),
    ),
    "all kinds of arithmetic": (
        lambda: Using(
            lambda m, x: (2 - m.a) / (1 + m.first(x).square()) - (m.first(x).abs() + 1) ** m.b + torch.addcmul(
                m.first(x), m.a, m.b
            ) + torch.maximum(m.first(x), m.a[0]) + torch.lerp(m.first(x), m.b, 0.3) + 1 / (m.a.square() + 1),
            first=nn.Linear(5, 4), a=(4,), b=(4,),
        ),
        lambda: normal(4, 5),
    ),
    "in place": (
        lambda: Using(lambda m, x: m.first(x).mul_(m.a).add_(m.b), first=nn.Linear(5, 4), a=(4,), b=(3, 4)),
        lambda: normal(4, 3, 5),
    ),
    "masked": (lambda: Using(_masked, first=nn.Linear(5, 4), token=(4,)), lambda: normal(4, 3, 5)),
    "assigned": (lambda: Using(_assigned, first=nn.Linear(5, 4), token=(4,)), lambda: normal(6, 3, 5)),
    "packed projection with a bias of its own and a table": (
        lambda: Using(
            _qkv, qkv=nn.Linear(4, 12, bias=False), q_bias=(4,), v_bias=(4,), table=(5, 2),
            index=torch.randint(0, 5, (3, 3)),
        ),
        lambda: normal(4, 3, 4),
    ),
    "recurrent by hand": (lambda: Using(_cell, w=(5, 4), u=(4, 4), b=(4,)), lambda: normal(6, 3, 5)),
    "standardised weights": (lambda: Using(_standardised, conv=nn.Conv2d(3, 4, 3)), lambda: normal(4, 3, 6, 6)),
    "part of a bias zeroed": (lambda: Using(_zeroed_key_bias, weight=(6, 5), bias=(6,)), lambda: normal(4, 3, 5)),
    "constant written into": (
        lambda: Using(_buffer_written, first=nn.Linear(5, 5), row=(5,)), lambda: normal(4, 3, 5)
    ),
    "normalised prototypes": (
        lambda: Using(
            lambda m, x: 10 * F.normalize(m.first(x), dim=-1) @ F.normalize(m.prototypes, dim=-1).t(),
            first=nn.Linear(5, 4), prototypes=(3, 4),
        ),
        lambda: normal(4, 5),
    ),
    "distances to prototypes": (
        lambda: Using(lambda m, x: torch.cdist(m.first(x), m.prototypes), first=nn.Linear(5, 4), prototypes=(3, 4)),
        lambda: normal(4, 5),
    ),
    "einsum": (
        lambda: Using(lambda m, x: torch.einsum("bnd,hdk->bhnk", x, m.w), w=(2, 5, 3)), lambda: normal(4, 3, 5)
    ),
    "weights of heads": (
        lambda: Using(lambda m, x: torch.matmul(x.unsqueeze(1), m.w) @ m.v[0], w=(2, 5, 3), v=(2, 3)),
        lambda: normal(4, 3, 5),
    ),
    "mixing of positions": (lambda: Using(lambda m, x: m.w @ x, w=(6, 3)), lambda: normal(4, 3, 5)),
    "learned queries": (
        lambda: Using(
            lambda m, x: F.scaled_dot_product_attention(m.q.expand(len(x), -1, -1), m.first(x), x),
            first=nn.Linear(4, 4), q=(2, 4),
        ),
        lambda: normal(5, 3, 4),
    ),
    "lookup in a parameter": (
        lambda: Using(lambda m, x: m.table[x] + F.embedding(x, m.other, padding_idx=2), table=(7, 3), other=(7, 3)),
        lambda: torch.randint(0, 7, (5, 4)),
    ),
    "lookup in a parameter of three dimensions": (
        lambda: Using(lambda m, x: m.table[x] * m.table.index_select(0, x[:, 0]).unsqueeze(1), table=(7, 3, 2)),
        lambda: torch.randint(0, 7, (5, 4)),
    ),
    "norms as functions": (
        lambda: Using(
            lambda m, x: F.layer_norm(x, (6,), m.w, m.b) + F.group_norm(x.transpose(1, 2), 2, m.w, m.b).transpose(1, 2)
            + F.rms_norm(x, (6,), m.w),
            w=(6,), b=(6,),
        ),
        lambda: normal(4, 3, 6),
    ),
    "prelu as a function": (
        lambda: Using(lambda m, x: F.prelu(m.first(x), m.w), first=nn.Linear(5, 4), w=(4,)), lambda: normal(6, 5)
    ),
    "layer run on a parameter": (
        lambda: Using(
            lambda m, x: m.first(x) + m.small(torch.tanh(m.small(m.prompt))), first=nn.Linear(5, 4), prompt=(3, 4),
            small=nn.Linear(4, 4),
        ),
        lambda: normal(6, 3, 5),
    ),
    "vector": (
        lambda: Using(
            lambda m, x: torch.stack([m.first(x) @ m.v, torch.mv(m.first(x), m.v)], 1), first=nn.Linear(5, 4), v=(4,)
        ),
        lambda: normal(6, 5),
    ),
    "bias used twice": (
        lambda: Using(lambda m, x: F.linear(x, m.w, m.b) * (1 + m.b), w=(4, 5), b=(4,)),
        lambda: normal(6, 5),
    ),
    "weight and bias of one parameter": (
        lambda: Using(lambda m, x: F.linear(x, m.w, m.w.sum(1)), w=(4, 5)),
        lambda: normal(6, 5),
    ),
    "type of a parameter, indices from the end": (
        lambda: Using(lambda m, x: m.table[x - 7] * x.type_as(m.table).unsqueeze(-1), table=(7, 3)),
        lambda: torch.randint(0, 7, (5, 4)),
    ),
    "addmm": (
        lambda: Using(lambda m, x: torch.addmm(m.b, x, m.w), b=(3,), w=(5, 3)), lambda: normal(6, 5)
    ),
    "a convolution with a made kernel": (
        lambda: Using(lambda m, x: F.conv1d(x, m.w.softmax(-1).expand(3, 1, 3), groups=3, padding="same"), w=(1, 1, 3)),
        lambda: normal(4, 3, 6),
    ),
    "only the bias of a convolution": (
        lambda: Using(lambda m, x: F.conv1d(x, m.kernel, m.b), kernel=torch.randn(2, 3, 3), b=(2,)),
        lambda: normal(4, 3, 6),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "data"), NETWORKS.values(), ids=NETWORKS)
def test_p06_parameters_in_functions_are_right(make: Callable[[], nn.Module], data: Callable[[], Tensor]) -> None:
    check_clipped_sums(make().double(), (data(),))


@pytest.mark.parametrize(("make", "data"), NETWORKS.values(), ids=NETWORKS)
def test_p06_parameters_in_functions_with_layouts_found_beforehand(
    make: Callable[[], nn.Module], data: Callable[[], Tensor]
) -> None:
    check_laid_out(make().double(), (data(),))


@pytest.mark.parametrize("name", ["class token and positions", "recurrent by hand", "einsum", "tied head"])
def test_p06_batches_without_examples_and_with_one(name: str) -> None:
    make, data = NETWORKS[name]
    model, x = make().double(), data()
    check_clipped_sums(model, (x[:1],))
    assert not any(g.any() for g in private_sum(model, (x[:0],), outputs_loss, 1.0))


def test_p06_a_parameter_with_a_row_for_each_example() -> None:
    model, x = Using(lambda m, x: m.first(x) * m.rows, first=nn.Linear(5, 4), rows=(4, 4)).double(), normal(4, 5)
    found = private_sum(model, (x,), outputs_loss, 0.3)
    gradients = []
    for i in range(4):
        single = copy.deepcopy(model)
        outputs_loss(single, x)[i].backward()
        gradients.append([p.grad for p in single.parameters()])
    assert relative_error(found, clipped_sum(gradients, 0.3)) < 1e-9


# What is the batch, and what is not


@pytest.mark.parametrize("laid_out", [False, True], ids=["plain", "laid out"])
def test_p06_constants_as_long_as_the_batch_are_not_taken_for_it(laid_out: bool) -> None:
    """Four positions of four examples; with another batch the shapes would tell, and the answer must be the same."""

    def forward(m: Any, x: Tensor) -> Tensor:
        positions = torch.arange(4, dtype=x.dtype)[:, None]
        return m.first(x) + torch.sin(positions @ m.frequencies) @ m.mix + m.table[m.index] * m.scale

    model = Using(
        forward, first=nn.Linear(5, 3), frequencies=(1, 6), mix=(6, 3), table=(7, 3), index=torch.tensor([0, 3, 3, 6]),
        scale=(3,),
    ).double()  # fmt: skip
    (check_laid_out if laid_out else check_clipped_sums)(model, (normal(4, 4, 5),))


def test_p03_statistics_of_the_batch_do_not_meet_a_parameter() -> None:
    model = Using(lambda m, x: m.first(x) + x.mean(0) * m.scale, first=nn.Linear(5, 5), scale=(5,)).double()
    with pytest.raises(UnsupportedError, match=r"mul of 'scale', operand 0: .*\(5,\).*batch of 4"):
        private_sum(model, (normal(4, 5),), outputs_loss, 1.0)


def test_p03_statistics_of_what_a_layer_returned_do_not_meet_a_parameter() -> None:
    model = Using(lambda m, x: m.first(x) * (m.scale * m.first(x).std()), first=nn.Linear(5, 5), scale=(5,)).double()
    for check in (check_clipped_sums, check_laid_out):
        with pytest.raises(UnsupportedError, match=r"mul of 'scale'"):
            check(model, (normal(4, 5),))


class Stepping(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.layer, self.scale, self.function = nn.Linear(5, 3), nn.Parameter(torch.randn(3)), function

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def training_step(self, batch: Any, batch_idx: int = 0) -> Tensor:
        return self.function(self, batch)


def _stepped(model: nn.Module, batch: Any, size: int) -> list[Tensor]:
    engine = engine_for(model)
    try:
        engine.arm(batch_size=size, step=0)
        model.training_step(batch).backward()
        return grads(model)
    finally:
        engine.detach()


@dataclass
class Batch:
    x: Tensor
    y: Tensor


@pytest.mark.parametrize("kind", ["tuple", "dict", "dataclass", "nested"])
def test_p06_parameters_in_training_step(kind: str) -> None:
    """A raw input that meets a parameter before any layer is known to be the batch by where it came from."""

    def losses(m: Stepping, x: Tensor, y: Tensor) -> Tensor:
        logits = m(torch.tanh(x * m.scale.mean())) * m.scale.exp() + x[:, :3] @ m.scale.diag()
        return F.cross_entropy(logits, y, reduction="none")

    def step(m: Stepping, batch: Any) -> Tensor:
        if kind == "dataclass":
            return losses(m, batch.x, batch.y).mean()
        if kind == "nested":
            batch = batch["inner"][0]
        return losses(m, *(batch.values() if isinstance(batch, dict) else batch)).mean()

    model, x, y = Stepping(step).double(), normal(4, 5), torch.randint(0, 3, (4,))
    batch = {
        "tuple": (x, y), "dict": {"x": x, "y": y}, "dataclass": Batch(x, y), "nested": {"inner": [(x, y)], "id": "a"}
    }[kind]  # fmt: skip
    expected = clipped_sum(example_gradients(model, slices((x, y)), losses), 1e9)
    assert relative_error(_stepped(model, batch, 4), expected) < 1e-9


PENALTIES: dict[str, Callable[[Any, Any], Tensor]] = {
    "norm": lambda m, x: m(x).square().mean() + m.scale.norm(),
    "of a layer": lambda m, x: m(x).square().mean() + 1e-3 * sum(p.square().sum() for p in m.parameters()),
    "alone": lambda m, x: m.scale.square().sum(),
    "after the mean": lambda m, x: m(x).square().mean() * m.scale.sum(),
}


@pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
def test_p05_penalties_in_training_step_are_refused(penalty: Callable[[Any, Any], Tensor]) -> None:
    model = Stepping(penalty).double()
    with pytest.raises((UnsupportedError, PrivacyViolation), match="weight_decay"):
        _stepped(model, normal(4, 5), 4)
    assert all(p.grad is None for p in model.parameters())


def test_p06_ways_around_functions_of_torch_are_refused() -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(_ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(_ctx: Any, gradient: Tensor) -> Tensor:
            return 2 * gradient

    for scale in (lambda m: m.scale, lambda m: m.scale.exp()):
        model = Stepping(lambda m, x, scale=scale: (m(x) * Doubled.apply(scale(m))).square().sum(1).mean()).double()
        with pytest.raises((PrivacyViolation, UnsupportedError), match="scale"):
            _stepped(model, normal(4, 5), 4)
        assert all(p.grad is None for p in model.parameters())


def test_p06_a_tensor_kept_from_an_earlier_step_is_refused() -> None:
    kept: list[Tensor] = []

    def step(m: Stepping, x: Tensor) -> Tensor:
        kept.append(m.scale.exp())
        return (m(x) * kept[0]).square().sum(1).mean()

    model, x = Stepping(step).double(), normal(4, 5)
    engine = engine_for(model)
    engine.arm(batch_size=4, step=0)
    model.training_step(x).backward()
    engine.arm(batch_size=4, step=1)
    with pytest.raises(PrivacyViolation, match="'scale'"):
        model.training_step(x).backward()


def test_p07_a_parameter_that_does_not_train_is_a_constant() -> None:
    model, x = Stepping(lambda m, x: (m(x) * m.scale).square().sum(1).mean()).double(), normal(4, 5)
    model.scale.requires_grad_(False)
    expected = example_gradients(model, slices((x,)), lambda m, x: (m(x) * m.scale).square().sum(1))
    assert relative_error(_stepped(model, x, 4), clipped_sum(expected, 1e9)) < 1e-9
    model.scale.requires_grad_(True)
    engine = engine_for(model)
    engine.arm(batch_size=4, step=0)
    model.scale.requires_grad_(False)  # for one loss
    model.training_step(x).backward()
    assert model.scale.grad is None
    assert relative_error(grads(model), clipped_sum(expected, 1e9)) < 1e-9


def test_p08_checkpointed_blocks_with_parameters_of_their_own() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.scale = nn.Linear(5, 5), nn.Parameter(torch.randn(5))

        def forward(self, x: Tensor) -> Tensor:
            return x + torch.tanh(self.layer(x)) * self.scale.exp()

    def forward(m: Any, x: Tensor) -> Tensor:
        for block in (m.one, m.two):
            x = checkpoint(block, x, use_reentrant=False)
        return x

    check_clipped_sums(Using(forward, one=Block(), two=Block()).double(), (normal(4, 5),))


@pytest.mark.parametrize("factor", [1, 3])
def test_examples_in_the_second_dimension_or_folded_with_positions(factor: int) -> None:
    """Time first, and windows folded into the batch, as layouts found before training say."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.first(x)
        if factor == 1:
            h = (h.transpose(0, 1) + m.pos[:, None]) @ m.w
            return torch.tanh(h * m.scale).transpose(0, 1)
        h = h.reshape(len(x) * 3, 2, 4)
        logits = h @ h.transpose(1, 2) + (m.table[m.index] * m.gain).reshape(2, 2)
        h = F.linear(logits.softmax(-1) @ h, m.w, m.scale)
        return h.reshape(len(x), 6, 4)

    model = Using(
        forward, first=nn.Linear(5, 4), pos=(6, 4), w=(4, 4), scale=(4,), table=(3, 1), gain=(1,),
        index=torch.tensor([0, 1, 2, 0]),
    ).double()  # fmt: skip
    model.requires_grad_(True)
    used = ("pos", "w", "scale") if factor == 1 else ("w", "scale", "table", "gain")
    for name in {"pos", "table", "gain"} - set(used):
        getattr(model, name).requires_grad_(False)
    x = normal(4, 6, 5)
    check_laid_out(model, (x,))
    with pytest.raises(UnsupportedError, match="probe=True"):
        private_sum(model, (x,), outputs_loss, 1.0)


def test_learned_queries_given_to_a_layer_together_with_the_batch() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        memory = m.first(x)
        return m.attention(m.queries.expand(len(x), -1, -1), memory, memory)[0]

    def added(m: Any, x: Tensor) -> Tensor:
        memory = m.first(x)
        return m.attention(x.new_zeros(len(x), 1, 1) + m.queries, memory, memory)[0]

    members = {"first": nn.Linear(5, 4), "attention": nn.MultiheadAttention(4, 2, batch_first=True), "queries": (3, 4)}
    x = normal(5, 2, 5)
    check_laid_out(Using(forward, **members).double(), (x,))
    check_clipped_sums(Using(added, **members).double(), (x,))
    with pytest.raises(UnsupportedError, match=r"'queries' as input of layer 'attention'.*new_zeros"):
        private_sum(Using(forward, **members).double(), (x,), outputs_loss, 1.0)


def test_views_of_an_example_are_averaged() -> None:
    model = Using(
        lambda m, x: F.linear(m.first(x) * m.scale + m.token, m.w),
        first=nn.Linear(5, 4),
        scale=(4,),
        token=(4,),
        w=(2, 4),
    ).double()
    x = normal(6, 5)
    engine = engine_for(model, max_grad_norm=0.5, views=2)
    engine.arm(batch_size=3, step=0)
    outputs_loss(model, x).mean().backward()
    gradients = example_gradients(model, [(x[i : i + 2],) for i in (0, 2, 4)], lambda m, x: outputs_loss(m, x).mean())
    assert relative_error(grads(model), clipped_sum(gradients, 0.5)) < 1e-9


REFUSED: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "joined with the batch": (lambda m, x: torch.cat([m.first(x), m.a[None]]), "cat of 'a'.*another"),
    "parameter changed by the batch": (lambda m, x: m.a.expand(6, 4).clone().add_(m.first(x)), "would change"),
    "a function over the batch": (lambda m, x: F.mse_loss(m.first(x), m.a), "mse_loss of 'a'"),
}


@pytest.mark.parametrize(("function", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")
def test_p03_calls_in_which_examples_can_not_be_told_apart(
    function: Callable[[Any, Tensor], Tensor], message: str
) -> None:
    model = Using(function, first=nn.Linear(5, 4), a=(4,)).double()
    with pytest.raises(UnsupportedError, match=message):
        private_sum(model, (normal(6, 5),), outputs_loss, 1.0)


# What is left behind


def _step(model: Stepping, x: Tensor) -> Tensor:
    return (model(x) * model.scale).sum(1).mean()


def test_p27_copies_and_pickles_of_an_attached_module_are_free_of_the_engine() -> None:
    model, x = Stepping(_step).double(), normal(4, 5)
    engine = engine_for(model)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    engine.arm(batch_size=4, step=0)
    expected = model.training_step(x).detach()
    for other in copies:
        assert torch.equal(other.training_step(x), expected)
        other.training_step(x).backward()
        assert other.scale.grad is not None
    assert engine.released == 0
    engine.detach()
    assert {"training_step", "forward"}.isdisjoint(vars(model))
    model.training_step(x).backward()
    assert model.scale.grad is not None


def test_outside_of_a_step_parameters_are_what_they_are() -> None:
    model, x = Stepping(_step).double(), normal(4, 5)
    engine = engine_for(model)
    with torch.no_grad():
        model.training_step(x)
    assert model.scale.grad_fn is None
    assert model.training_step(x).requires_grad
    seen: list[Any] = []

    def looking(m: Stepping, x: Tensor) -> Tensor:
        seen.extend([m.scale.shape, m.scale.grad, m.scale.is_leaf, m.scale.detach().sum().item(), len(m.scale)])
        with torch.no_grad():
            seen.append((m.scale * 2).requires_grad)
        return _step(m, x)

    model.function = looking
    engine.arm(batch_size=4, step=0)
    model.training_step(x).backward()
    assert seen[:3] == [torch.Size([3]), None, True]
    assert seen[4:] == [3, False]


class _Positions(nn.Module):
    """Looks positions up once more for each example, as a tensor in which every row of the batch has its own."""

    def __init__(self, padding_idx: int | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(6, 4, padding_idx=padding_idx).double()
        self.head = nn.Linear(4, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1]).expand(x.shape[0], -1).contiguous()
        return self.head(torch.tanh(x + self.table(places)))


@pytest.mark.parametrize("padding_idx", [None, 2])
def test_positions_looked_up_for_every_row_need_no_more_memory_than_the_batch(
    padding_idx: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_privacy.gradients.functional_operation._MAX_ELEMENTS", 0)
    check_clipped_sums(_Positions(padding_idx), (torch.randn(5, 6, 4).double(),))


def _after_a_failure(m: Any, x: Tensor) -> Tensor:
    try:
        m.first(x[:, :3])
    except RuntimeError:
        return m.first(x) * m.scale  # and functions are followed as before
    raise AssertionError("the layer took an input of the wrong width")


class Counting(TorchFunctionMode):
    """A watch of the user's own, over the one that follows parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append(getattr(func, "__name__", str(func)))
        return func(*args, **(kwargs or {}))


def _watched_by_the_user(m: Any, x: Tensor) -> Tensor:
    with Counting() as counting:
        output = m.first(x) * m.scale
    assert {"linear", "mul"} <= set(counting.calls)
    return output


@pytest.mark.parametrize("function", [_after_a_failure, _watched_by_the_user], ids=["a layer fails", "watched twice"])
def test_p06_functions_are_followed_around_layers_that_are_not_watched(function: Callable[..., Any]) -> None:
    check_clipped_sums(Using(function, first=nn.Linear(5, 4), scale=(4,)).double(), (normal(6, 5),))


def test_calls_of_an_ordinary_layer_are_not_watched() -> None:
    # Only speed: each look at a tensor would be a call into Python.
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    engine = engine_for(model)
    watch = model[0].forward.handler.recorder.watch
    seen: list[str] = []
    handle, watch._mode._owner = watch._mode._owner, Spying(watch._mode._owner, seen)
    engine.arm(batch_size=4, step=0)
    outputs_loss(model, normal(4, 3)).mean().backward()
    watch._mode._owner = handle
    engine.detach()
    assert seen == ["tanh"]


class Spying:
    """Stands before what follows parameters, and notes the functions it is told of."""

    def __init__(self, owner: Any, seen: list[str]) -> None:
        self.owner, self.seen = owner, seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self.owner, name)

    def untouched(self, function: Any, args: Any, kwargs: Any) -> Any:
        self.seen.append(function.__name__)
        return self.owner.untouched(function, args, kwargs)
