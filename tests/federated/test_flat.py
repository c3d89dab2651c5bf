"""A model as one vector: what is in it, what isn't, and that a round leaves nothing of a client behind."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.federated.flat import FlatModel, matching


class Net(nn.Module):
    """Every kind of entry: trained, frozen and personal parameters; running statistics, counters and tables."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, 2)
        self.register_buffer("table", torch.arange(3.0))
        self.register_buffer("seen", torch.zeros(2, dtype=torch.long))
        self.register_buffer("flag", torch.tensor(True))


SHARED = ["body.weight", "body.bias", "norm.weight", "norm.bias", "head.weight", "head.bias"]


def everything(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in (*module.named_parameters(), *module.named_buffers())}


def disturb(module: nn.Module) -> None:
    """A client that changes all it can reach."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.copy_(tensor.logical_not() if tensor.dtype == torch.bool else tensor + 1)


def test_entries_are_what_trains_and_then_the_floating_point_buffers():
    module = Net()
    model = FlatModel(module)
    assert model.parameter_names == SHARED
    assert model.buffer_names == ["table", "norm.running_mean", "norm.running_var"]
    assert model.num_parameters == sum(dict(module.named_parameters())[name].numel() for name in SHARED)
    assert model.size == model.num_parameters + 3 + 4 + 4
    assert model.counters == [module.norm.num_batches_tracked]


def test_p37_statistics_alone_where_noise_is_added_to_every_entry():
    model = FlatModel(Net(), statistics_only=True)
    assert model.buffer_names == ["norm.running_mean", "norm.running_var"]


def test_p37_a_delta_is_the_change_of_each_entry_in_its_place():
    module = Net()
    model = FlatModel(module)
    model.remember()
    before = everything(module)
    with torch.no_grad():
        for number, name in enumerate([*model.parameter_names, *model.buffer_names]):
            dict((*module.named_parameters(), *module.named_buffers()))[name].add_(number + 1.0)
        module.norm.num_batches_tracked += 5
    expected = torch.cat(
        [
            torch.full((before[name].numel(),), number + 1.0)
            for number, name in enumerate([*model.parameter_names, *model.buffer_names])
        ]
    )
    torch.testing.assert_close(model.delta(), expected)
    out = model.new_vector()
    assert model.delta(out) is out
    torch.testing.assert_close(out, expected)
    assert model.increments() == [5.0]


@pytest.mark.parametrize("personal", [[], ["head"], [nn.BatchNorm1d], ["table"]], ids=str)
def test_p39_nothing_of_a_client_is_left(personal):
    module = Net()
    held = list(module.parameters())
    model = FlatModel(module, personal=personal)
    model.remember()
    before = everything(module)
    disturb(module)
    model.restore()
    after = everything(module)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(one is other for one, other in zip(module.parameters(), held, strict=True))


@pytest.mark.parametrize("sends", [True, False], ids=["sends", "fails"])
def test_p39_nothing_is_left_of_a_client_that_puts_other_tensors_in_their_place(sends):
    module = Net()
    model = FlatModel(module)
    model.remember()
    before, weight, memory = everything(module), module.body.weight, module.body.weight.data_ptr()
    module.body.weight.data = torch.ones(4, 3)
    module.head.bias = nn.Parameter(torch.ones(2))
    module.table = torch.full((3,), 9.0)
    module.frozen.weight = nn.Parameter(torch.ones(4, 4), requires_grad=False)
    module.register_buffer("new", torch.ones(1))
    if sends:
        delta = model.delta()
        torch.testing.assert_close(model.views(delta)[0], 1.0 - before["body.weight"])
        torch.testing.assert_close(model.views(delta)[SHARED.index("head.bias")], 1.0 - before["head.bias"])
    model.restore()
    after = everything(module)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert module.body.weight is weight
    assert weight.data_ptr() == memory


def test_a_step_against_the_pseudo_gradient_moves_the_way_the_clients_moved():
    module = Net()
    model = FlatModel(module)
    model.remember()
    before = everything(module)
    aggregate = torch.linspace(-1, 1, model.size)
    model.write_pseudo_gradient(aggregate)
    model.move_buffers(aggregate, [2.6])
    torch.optim.SGD(module.parameters(), lr=1.0).step()
    moved = dict(zip([*model.parameter_names, *model.buffer_names], model.views(aggregate), strict=True))
    for name, tensor in everything(module).items():
        if name == "norm.running_var":  # a variance stays one
            torch.testing.assert_close(tensor, (before[name] + moved[name]).clamp(min=0))
        elif name in moved:
            torch.testing.assert_close(tensor, before[name] + moved[name])
        elif name == "norm.num_batches_tracked":
            assert int(tensor) == 3
        else:
            assert torch.equal(tensor, before[name]), name


def test_p37_a_variance_is_never_moved_below_zero():
    module = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2))
    model = FlatModel(module)
    model.move_buffers(torch.full((model.size,), -5.0), [0.0])
    assert module[1].running_var.tolist() == [0.0, 0.0]
    assert module[1].running_mean.tolist() == [-5.0, -5.0]


def test_personal_entries_go_out_and_come_back():
    module = Net()
    model = FlatModel(module, personal=["head", nn.BatchNorm1d, "seen"])
    assert model.parameter_names == ["body.weight", "body.bias"]
    assert set(model.personal) == {
        *("head.weight", "head.bias", "norm.weight", "norm.bias"),
        *("norm.running_mean", "norm.running_var", "norm.num_batches_tracked", "seen"),
    }
    model.remember()
    disturb(module)
    own = model.give_personal()
    expected = {name: tensor.clone() for name, tensor in own.items()}
    model.restore()
    assert not torch.equal(module.head.bias, expected["head.bias"])
    assert torch.equal(own["head.bias"], expected["head.bias"])  # copies
    model.take_personal({"head.bias": own["head.bias"]})
    assert torch.equal(module.head.bias, expected["head.bias"])
    assert not torch.equal(module.head.weight, expected["head.weight"])


def test_a_vector_is_put_into_the_module_and_read_from_it():
    module, other = Net(), Net()
    model = FlatModel(module)
    model.remember()
    vector = torch.randn(model.size)
    model.put(vector)
    torch.testing.assert_close(model.delta() + model.start, vector)
    pieces = model.parameter_views(vector[: model.num_parameters])
    assert all(torch.equal(piece, p) for piece, p in zip(pieces, model.parameters, strict=True))
    initial = [p.detach() for name, p in other.named_parameters() if name in SHARED]
    assert all(torch.equal(one, two) for one, two in zip(model.start_parameters, initial, strict=True))


def test_other_trained_parameters_want_another_vector():
    module = Net()
    model = FlatModel(module, personal=["head"])
    assert model.fits(module)
    module.frozen.weight.requires_grad_(True)
    assert not model.fits(module)
    module.frozen.weight.requires_grad_(False)
    module.body.weight.requires_grad_(False)
    assert not model.fits(module)
    assert not FlatModel(Net()).fits(copy.deepcopy(Net()))


def test_double_precision_anywhere_makes_the_vector_double():
    module = nn.Sequential(nn.Linear(2, 2).half(), nn.Linear(2, 1).double())
    model = FlatModel(module)
    assert model.dtype == torch.float64
    model.write_pseudo_gradient(torch.ones(model.size, dtype=torch.float64))
    assert module[0].weight.grad.dtype == torch.float16


NAMES = ["body.weight", "body.bias", "body2.weight", "head.weight"]


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["body"], {"body.weight", "body.bias"}),
        (["*.weight"], {"body.weight", "body2.weight", "head.weight"}),
        (["head.weight", "body.bias"], {"head.weight", "body.bias"}),
        (["body*"], {"body.weight", "body.bias", "body2.weight"}),
        ([], set()),
    ],
    ids=lambda value: str(sorted(value)),
)
def test_patterns(patterns, found):
    assert matching(NAMES, patterns) == found


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: FlatModel(Net(), personal=["hed"]), ConfigurationError, "'hed', which fits no parameter"),
        (lambda: FlatModel(Net(), personal=["*"]), ConfigurationError, "nothing to train together"),
        (lambda: FlatModel(nn.Linear(2, 2, dtype=torch.complex64)), UnsupportedError, "'weight' is complex"),
        (lambda: FlatModel(nn.LazyLinear(2)), UnsupportedError, "'weight' has no shape yet"),
    ],
    ids=["unknown", "all personal", "complex", "lazy"],
)
def test_models_that_are_no_vector_are_refused(make, error, said):
    with pytest.raises(error, match=said):
        make()
