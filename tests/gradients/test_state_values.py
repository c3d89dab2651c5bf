"""What a module keeps that no gradient trains is compared by content."""

from __future__ import annotations

import pytest
import torch
import torchmetrics
from torch import nn

from lightning_privacy.gradients.state_values import checksum, state_values, untrained_entries

DTYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.bool,
    torch.uint8,
    torch.int64,
    torch.complex64,
    torch.complex128,
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_place_of_every_type_counts(dtype: torch.dtype) -> None:
    tensor = torch.ones(3, 4).to(dtype)
    found = {checksum(tensor)}
    for place in range(12):
        other = tensor.clone()
        other.view(-1)[place] = 0
        found.add(checksum(other))
    assert len(found) == 13
    assert checksum(tensor.clone()) == checksum(tensor)


@pytest.mark.parametrize("place", [0, 2**16 - 1, 2**16, 2**17 + 4])
def test_the_last_bit_counts_in_every_chunk(place: int) -> None:
    tensor = torch.randn(2**17 + 5, generator=torch.Generator().manual_seed(1))
    before = checksum(tensor)
    tensor[place] = torch.nextafter(tensor[place], torch.tensor(9.0))
    assert checksum(tensor) != before


def test_order_counts_over_chunks() -> None:
    tensor = torch.arange(2**17)
    assert checksum(tensor) != checksum(tensor.roll(2**16))
    assert checksum(torch.tensor([5, 1, 3])) != checksum(torch.tensor([6, -1, 4]))


def test_layout_and_nan_do_not_matter() -> None:
    tensor = torch.tensor([[1.0, float("nan")], [0.0, 3.0]])
    assert checksum(tensor) == checksum(tensor.t().contiguous().t()) == checksum(tensor.clone())
    sparse = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    assert checksum(sparse.to_sparse()) == checksum(sparse)
    turned = torch.tensor([1 + 2j, 3 - 1j]).conj()
    assert checksum(turned) == checksum(turned.resolve_conj())


def test_tied_and_renamed_parameters_are_trained() -> None:
    class Renamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(2, 2, bias=False)
            self.second = nn.Linear(2, 2, bias=False)
            self.second.weight = self.first.weight
            self.register_buffer("mean", torch.zeros(2))

        def state_dict(self, *args: object, **kwargs: object) -> dict[str, torch.Tensor]:
            return {f"network.{name}": value for name, value in super().state_dict(*args, **kwargs).items()}

    assert list(untrained_entries(Renamed())) == ["network.mean"]


def test_metrics_count_only_where_they_are_kept() -> None:
    module = nn.Linear(2, 2)
    module.metric = torchmetrics.MeanMetric()
    assert untrained_entries(module) == {}
    module.metric.persistent(True)
    assert sorted(untrained_entries(module)) == ["metric.mean_value", "metric.weight"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (torch.tensor(1), torch.tensor(2)),
        ({"a": [torch.zeros(2)]}, {"a": [torch.ones(2)]}),
        ([torch.zeros(2)], [torch.zeros(2), torch.zeros(2)]),
        (0.5, 0.25),
        ("a", "b"),
        ({1, 2}, {1, 3}),
    ],
    ids=["tensor", "nested", "longer", "number", "text", "object"],
)
def test_extra_states_are_compared(first: object, second: object) -> None:
    module = Extra(first)
    before = state_values(module)
    assert list(before) == ["_extra_state"]
    assert state_values(module) == before
    module.extra = second
    assert state_values(module) != before


@pytest.mark.parametrize(
    ("first", "second"),
    [(1, 2), ({"steps": 1}, {"steps": 2}), (lambda: 1, lambda: 2)],
    ids=["count", "counts", "not-saveable"],
)
def test_whole_numbers_and_what_no_file_holds_are_not(first: object, second: object) -> None:
    module = Extra(first)
    before = state_values(module)
    module.extra = second
    assert state_values(module) == before


def test_counts_trained_weights_and_uninitialised_ones_are_left_out() -> None:
    module = nn.Sequential(nn.BatchNorm1d(2), nn.LazyLinear(2))
    module[0].weight.requires_grad_(False)
    assert sorted(state_values(module)) == ["0.running_mean", "0.running_var", "0.weight"]


class Extra(nn.Module):
    """Has nothing but an extra state."""

    def __init__(self, extra: object) -> None:
        super().__init__()
        self.extra = extra

    def get_extra_state(self) -> object:
        return self.extra

    def set_extra_state(self, state: object) -> None:
        self.extra = state
