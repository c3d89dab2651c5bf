"""Layers with parametrizations against autograd example by example; their buffers against the plain layer's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from brute_force import check_clipped_sums, engine_for, outputs_loss, private_sum
from taps import Taps, check_rule, tapped
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from lightning_privacy.errors import UnsupportedError
from lightning_privacy.gradients.rules import composite_rule_for, rule_for
from lightning_privacy.gradients.rules.parametrized import ParametrizedRule

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Linear": (lambda: nn.Linear(6, 4), (5, 6)),
    "Linear over positions": (lambda: nn.Linear(6, 4), (5, 3, 6)),
    "Conv2d": (lambda: nn.Conv2d(3, 4, 3, padding=1), (5, 3, 6, 5)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(3, 4, 3, stride=2), (5, 3, 4)),
    "Linear without bias": (lambda: nn.Linear(6, 4, bias=False), (5, 6)),
}
TOOLS: dict[str, Callable[..., nn.Module]] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}
every_tool = pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)


class LowRank(nn.Module):
    """A parametrization with parameters of its own."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(rows, 1)), nn.Linear(columns, 1, bias=False)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + torch.tanh(self.up @ self.down.weight)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(20)


def _rows(result: Any) -> list[Tensor]:
    return [result[0] if isinstance(result, tuple) else result]


@every_tool
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS)
def test_layers(make: Callable[[], nn.Module], shape: tuple[int, ...], train: bool, tool: Any) -> None:
    layer = tool(make()).double().train(train)
    check_rule(layer, (torch.randn(*shape, dtype=torch.float64, requires_grad=True),), rows=_rows)


@every_tool
@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU])
def test_recurrent_layers(make: Any, tool: Any) -> None:
    """Evaluating: in training they look the weight up several times, and each time is another power iteration."""
    layer = tool(make(3, 4, batch_first=True), "weight_hh_l0").double().eval()
    check_rule(layer, (torch.randn(5, 4, 3, dtype=torch.float64),), rows=_rows)


@every_tool
@pytest.mark.parametrize("part", ["in_proj_weight", "out_proj"])
def test_attention(part: str, tool: Any) -> None:
    layer = nn.MultiheadAttention(4, 2, batch_first=True).double()
    tool(layer, "in_proj_weight") if part == "in_proj_weight" else tool(layer.out_proj)
    layer.eval()  # for the same reason
    x = torch.randn(5, 3, 4, dtype=torch.float64)

    def call(run: Any, x: Tensor) -> Any:
        return run(x, x, x)

    check_rule(layer, (x,), rows=_rows, call=call)


def test_several_parametrizations_of_several_weights() -> None:
    layer = nn.Linear(6, 4)
    parametrizations.weight_norm(layer)
    parametrize.register_parametrization(layer, "weight", LowRank(4, 6))
    parametrize.register_parametrization(layer, "bias", nn.Softplus())
    x = torch.randn(5, 3, 6, dtype=torch.float64)
    check_rule(layer.double(), (x,), rows=_rows)
    layer.parametrizations.weight[1].up.requires_grad_(False)
    layer.parametrizations.bias.original.requires_grad_(False)
    check_rule(layer, (x,), rows=_rows)


@every_tool
def test_through_the_engine(tool: Any) -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), tool(nn.Linear(6, 4)), nn.Tanh(), tool(nn.Linear(4, 3)))
    check_clipped_sums(model.double().eval(), (torch.randn(6, 5, dtype=torch.float64),))


def test_spectral_norm_iterates_once_a_step() -> None:
    make = parametrizations.spectral_norm
    model = nn.Sequential(make(nn.Conv1d(3, 4, 3)), nn.Flatten(), make(nn.Linear(8, 3))).double()
    plain = copy.deepcopy(model)
    assert len(list(model.buffers())) == 4
    engine, x = engine_for(model), torch.randn(5, 3, 4, dtype=torch.float64)
    for step in range(3):
        engine.arm(batch_size=5, step=step)
        outputs_loss(model, x).sum().backward()
        outputs_loss(plain, x)
        for buffer, expected in zip(model.buffers(), plain.buffers(), strict=True):
            torch.testing.assert_close(buffer, expected, rtol=1e-12, atol=1e-14)


def test_single_precision() -> None:
    check_rule(parametrizations.weight_norm(nn.Linear(24, 16)), (torch.randn(6, 10, 24),), rows=_rows, tolerance=1e-5)


def test_an_empty_batch() -> None:
    layer, taps = parametrizations.weight_norm(nn.Linear(6, 4)), Taps()
    tapped(layer, taps, torch.zeros(0, 6)).sum().backward()
    for name, parameter in layer.named_parameters():
        assert taps.merged()[name].per_example().shape == (0, *parameter.shape)


def test_what_else_has_no_rule_with_parametrizations_either() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    layer = parametrizations.weight_norm(Doubled(3, 2))
    assert rule_for(layer) is None
    assert composite_rule_for(layer) is None
    assert isinstance(composite_rule_for(parametrizations.weight_norm(nn.Linear(3, 2))), ParametrizedRule)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.utils.weight_norm(nn.LSTM(3, 4, batch_first=True), "weight_hh_l0"),
        lambda: nn.utils.spectral_norm(nn.GRUCell(3, 4), "weight_hh"),
        lambda: nn.utils.weight_norm(nn.ConvTranspose1d(3, 4, 3)),
        lambda: nn.utils.spectral_norm(nn.MultiheadAttention(4, 2, batch_first=True), "in_proj_weight"),
        lambda: nn.utils.weight_norm(parametrizations.weight_norm(nn.Linear(3, 4), "bias", dim=None)),
    ],
    ids=["LSTM", "GRUCell", "ConvTranspose1d", "attention", "and a parametrization"],
)
def test_weights_remade_in_a_hook_are_refused(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(UnsupportedError, match=r"'0'.* use torch.nn.utils.parametrizations or parametrize instead"):
        engine_for(nn.Sequential(make()))


def test_the_stand_in_does_not_reach_the_layer() -> None:
    layer = parametrizations.spectral_norm(nn.Linear(6, 4)).double()
    names = set(dict(layer.named_parameters()))
    private_sum(nn.Sequential(layer), (torch.randn(4, 6, dtype=torch.float64),), outputs_loss, 1.0)
    assert set(dict(layer.named_parameters())) == names
    assert parametrize.is_parametrized(layer)
    assert all(p.is_leaf for p in layer.parameters())
