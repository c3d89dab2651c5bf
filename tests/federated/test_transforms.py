from __future__ import annotations

import math

import pytest
import torch

from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.federated.contexts import ClientContext, RoundContext
from lightning_privacy.federated.transforms import BFloat16, DeltaTransform, Int8, NormBounding, TopK

ALL = [NormBounding(1.0), BFloat16(), Int8(), Int8(block_size=7), TopK(0.3), TopK(0.3, error_feedback=False)]


def context(round_number=0, client=3, memory=None):
    return ClientContext(seed=5, round_number=round_number, client=client, num_examples=10, memory=memory or {})


def random_delta(entries=100, seed=0, dtype=torch.float32):
    return torch.randn(entries, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("transform", ALL, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_shape_and_type_stay_and_the_delta_is_not_changed(transform, dtype):
    delta = random_delta(dtype=dtype)
    before = delta.clone()
    sent = transform.on_client(delta, context())
    assert (sent.shape, sent.dtype) == (delta.shape, dtype)
    assert torch.equal(delta, before)
    assert not torch.equal(sent, before)
    assert torch.equal(sent, transform.on_client(delta, context()))  # the same seed, round and client: the same
    server = RoundContext(0, 0, cohort_size=2, expected_cohort_size=2.0, num_received=2)
    assert transform.on_server(delta, server) is delta


def test_the_base_does_nothing():
    delta = random_delta()
    assert DeltaTransform().on_client(delta, context()) is delta


def test_norm_bounding_shortens_what_is_too_long():
    delta, here = random_delta(), context()
    norm = math.sqrt(sum(x * x for x in delta.tolist()))
    got = NormBounding(0.5).on_client(delta, here)
    torch.testing.assert_close(got, delta * (0.5 / norm))
    assert here.log == {"delta_norm": pytest.approx(norm), "bounded": 1.0}
    assert NormBounding(norm * 1.01).on_client(delta, context()) is delta
    assert bool(NormBounding(1.0).on_client(torch.tensor([math.nan, 9.0]), context()).isnan().any())


def test_bf16_rounds_to_eight_bits_and_halves_the_bytes():
    delta, here = random_delta(), context()
    got = BFloat16().on_client(delta, here)
    assert float(((got - delta) / delta).abs().max()) <= 2.0**-8
    assert here.log == {"bytes": 200.0, "dense_bytes": 400.0}


def test_int8_sends_whole_numbers_of_a_scale_per_block():
    delta, here = random_delta(1000), context()
    delta[500:] *= 1e-4
    got = Int8(block_size=250).on_client(delta, here)
    assert here.log == {"bytes": 1000.0 + 4 * 4, "dense_bytes": 4000.0}
    for start in range(0, 1000, 250):
        block, sent = delta[start : start + 250], got[start : start + 250]
        scale = float(block.abs().max()) / 127
        numbers = sent / scale
        torch.testing.assert_close(numbers, numbers.round(), rtol=0, atol=1e-3)
        assert float(numbers.abs().max()) <= 127.01
        assert float((sent - block).abs().max()) <= scale * 1.001


def test_int8_is_right_on_average_and_keyed_by_round_and_client():
    # Of 40,000 roundings each entry's mean is within 6.2 standard errors: error probability below 1e-7 for 64.
    delta = random_delta(64)
    scale = float(delta.abs().max()) / 127
    rounded = torch.stack([Int8().on_client(delta, context(number, client=1)) for number in range(4000)])
    assert float((rounded.double().mean(0) - delta.double()).abs().max()) < 6.2 * scale / 2 / math.sqrt(4000)
    assert not torch.equal(rounded[0], rounded[1])
    assert not torch.equal(rounded[0], Int8().on_client(delta, context(0, client=2)))


def test_int8_of_nothing_and_of_the_largest_numbers():
    assert Int8().on_client(torch.zeros(5), context()).tolist() == [0.0] * 5
    huge = torch.tensor([3e38, -3e38, 0.0])
    torch.testing.assert_close(Int8().on_client(huge, context()), huge, rtol=0.01, atol=0)
    assert not bool(Int8().on_client(torch.tensor([math.nan, 1.0]), context()).isfinite().all())


def test_top_k_with_memory_equals_the_papers_loop():
    memory: dict[str, torch.Tensor] = {}
    error = [0.0] * 20
    for number in range(6):
        delta, here = random_delta(20, seed=number, dtype=torch.float64), context(number, memory=memory)
        got = TopK(0.15).on_client(delta, here)
        whole = [e + d for e, d in zip(error, delta.tolist(), strict=True)]
        largest = sorted(range(20), key=lambda entry: -abs(whole[entry]))[:3]
        expected = [value if entry in largest else 0.0 for entry, value in enumerate(whole)]
        error = [value - sent for value, sent in zip(whole, expected, strict=True)]
        assert got.tolist() == expected
        assert here.memory["top_k_error"].tolist() == error
        assert here.log == {"bytes": 3 * 12.0, "dense_bytes": 160.0}
        memory = here.memory


def test_top_k_loses_nothing_over_the_rounds():
    memory: dict[str, torch.Tensor] = {}
    total, arrived = torch.zeros(50, dtype=torch.float64), torch.zeros(50, dtype=torch.float64)
    for number in range(40):
        delta, here = random_delta(50, seed=number, dtype=torch.float64), context(number, memory=memory)
        total += delta
        arrived += TopK(0.1).on_client(delta, here)
        memory = here.memory
    torch.testing.assert_close(arrived + memory["top_k_error"], total)


def test_p41_a_nan_does_not_stay_in_the_memory():
    here = context()
    TopK(0.5).on_client(torch.tensor([1.0, 2.0]), here)
    kept = here.memory["top_k_error"].clone()
    assert bool(TopK(0.5).on_client(torch.tensor([math.nan, 1.0]), here).isnan().any())
    assert torch.equal(here.memory["top_k_error"], kept)


def test_p39_memory_is_the_clients_own_and_none_is_kept_without_feedback():
    one, two = context(client=1), context(client=2)
    TopK(0.5).on_client(torch.tensor([1.0, 2.0]), one)
    assert two.memory == {}
    TopK(0.5, error_feedback=False).on_client(torch.tensor([1.0, 2.0]), two)
    assert two.memory == {}


def test_at_least_one_entry_is_sent():
    assert int((TopK(1e-9).on_client(random_delta(), context()) != 0).sum()) == 1
    delta = random_delta()
    assert torch.equal(TopK(1.0).on_client(delta, context()), delta)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NormBounding(0.0), "max_norm.*0.0"),
        (lambda: Int8(block_size=0), "block_size.*0"),
        (lambda: TopK(0.0), "fraction.*0.0"),
        (lambda: TopK(1.5), "fraction.*1.5"),
        (lambda: TopK(0.5, error_feedback=None), "error_feedback must be True or False, got None"),
    ],
)
def test_bad_numbers_are_named(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_memory_of_another_model_is_refused():
    with pytest.raises(CheckpointError, match=r"client 3 remembers 2 entries .* its delta has 100"):
        TopK(0.5).on_client(random_delta(), context(memory={"top_k_error": torch.zeros(2)}))
