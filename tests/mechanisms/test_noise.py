"""The noise source: unpredictable without a seed, a function of (seed, step, stream) with one."""

from __future__ import annotations

import copy
import math
import os
import pickle
import random
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.mechanisms import NoiseSource, SeededNoiseWarning, noise
from lightning_privacy.mechanisms._normals import TILE


def seeded(seed):
    with pytest.warns(SeededNoiseWarning, match="NOT PRIVATE"):
        return NoiseSource(seed)


def draw(source, count=64, *, step=0, stream=0, **options):
    return source.normals(count, std=1.0, step=step, stream=stream, **options)


def test_seed_warns_and_is_a_caveat():
    source = seeded(5)
    assert source.seeded
    assert source.seed == 5
    assert "NOT PRIVATE" in source.caveat


def test_warning_points_at_the_caller():
    with pytest.warns(SeededNoiseWarning) as caught:
        NoiseSource(0)
    assert caught[0].filename == __file__


def test_no_seed_no_warning_no_caveat():
    source = NoiseSource()
    assert (source.seed, source.seeded, source.caveat) == (None, False, None)


@pytest.mark.parametrize("seed", [-1, True, 1.0, "7", np.float64(1)])
def test_bad_seed_is_refused_with_its_value(seed):
    with pytest.raises(ConfigurationError, match=r"seed must be a whole number >= 0, got .*"):
        NoiseSource(seed)


def test_numpy_seed_is_the_same_seed():
    assert torch.equal(draw(seeded(np.int64(3))), draw(seeded(3)))
    assert type(seeded(np.int64(3)).state_dict()["seed"]) is int


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_seeded_values_are_a_function_of_seed_step_and_stream(dtype):
    first, second = seeded(11), seeded(11)
    draw(first, 5000, step=8, dtype=dtype)  # an earlier draw leaves no trace
    a, b = draw(first, 1000, step=3, stream=2, dtype=dtype), draw(second, 1000, step=3, stream=2, dtype=dtype)
    assert a.dtype == dtype
    assert torch.equal(a, b)


def test_seeds_steps_and_streams_are_independent():
    """All pairwise correlations of ten draws at 5.5 standard errors: below 2e-6 for fresh seeds."""
    draws = [draw(seeded(seed), 20_000) for seed in (0, 1, 256, 2**128, 2**128 + 1)]
    source = seeded(1)
    draws += [
        draw(source, 20_000, step=step, stream=stream)
        for step, stream in [(1, 0), (0, 1), (1, 1), (2**48 - 1, 0), (0, 2**32 - 1)]
    ]
    correlations = torch.corrcoef(torch.stack(draws)) - torch.eye(len(draws))
    assert correlations.abs().max() < 5.5 / math.sqrt(20_000)


def test_nonce_of_seeded_calls_is_one_to_one(monkeypatch):
    nonces = []
    monkeypatch.setattr(noise, "fill_normals", lambda out, *, nonce, **_: (nonces.append(nonce), out.fill(0)))
    source = seeded(1)
    powers = [0, *(2**bit for bit in range(32)), 2**32 - 1]
    for step in [*powers, 2**33, 2**47, 2**48 - 1]:
        for stream in powers:
            draw(source, 1, step=step, stream=stream)
    assert len(set(nonces)) == len(nonces) == 37 * 34
    assert max(nonces) < 2**80


def test_single_and_double_precision_share_no_keystream():
    source = seeded(1)
    # The first tile's radii come from the first bytes of the keystream in either precision.
    radii = [
        torch.hypot(*draw(source, 2 * TILE, dtype=dtype).double().view(2, TILE))
        for dtype in (torch.float32, torch.float64)
    ]
    assert not torch.isclose(*radii, rtol=1e-6).any()


def test_unseeded_calls_never_repeat_whatever_the_step():
    """2**-24 per comparison of two floats; 64 in a row equal would mean a repeated keystream."""
    source = NoiseSource()
    draws = [draw(source) for _ in range(20)] + [draw(NoiseSource()) for _ in range(5)]
    assert len({tuple(values.tolist()) for values in draws}) == len(draws)


def test_nonce_of_unseeded_calls_is_never_used_twice(monkeypatch):
    nonces = []
    monkeypatch.setattr(noise, "fill_normals", lambda out, *, nonce, **_: (nonces.append(nonce), out.fill(0)))
    source = NoiseSource()
    threads = [threading.Thread(target=lambda: [draw(source) for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(nonces) == list(range(800))


def test_p25_global_seeds_do_not_reach_the_noise():
    def after_seeding():
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        return draw(NoiseSource())

    before = torch.random.get_rng_state()
    assert not torch.equal(after_seeding(), after_seeding())
    torch.random.set_rng_state(before)
    draw(NoiseSource())
    assert torch.equal(torch.random.get_rng_state(), before), "drawing noise moved the global generator"


def test_p25_noise_differs_between_processes_after_the_same_global_seed():
    code = (
        "import torch; torch.manual_seed(0); from lightning_privacy.mechanisms import NoiseSource;"
        "print(NoiseSource().normals(8, std=1.0, step=0).tolist())"
    )
    outputs = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in "ab"}
    assert len(outputs) == 2


def test_p25_resumed_run_does_not_repeat_the_noise():
    source = NoiseSource()
    assert source.state_dict() == {}
    first = draw(source, step=7)
    resumed = NoiseSource()
    resumed.load_state_dict(source.state_dict())
    assert not torch.equal(draw(resumed, step=7), first)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_p25_copies_of_an_unseeded_source_take_a_new_key(duplicate):
    source = NoiseSource()
    key = source._keys[torch.float32]
    assert not torch.equal(draw(duplicate(source)), draw(source))
    assert key not in pickle.dumps(source)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies_of_a_seeded_source_keep_the_seed_without_a_new_warning(duplicate):
    source = seeded(4)
    assert torch.equal(draw(duplicate(source)), draw(source))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_p25_forked_child_takes_a_new_key():
    code = """
import os, sys, warnings
import torch
from lightning_privacy.mechanisms import NoiseSource
warnings.simplefilter("ignore")
torch.set_num_threads(2)
sources = NoiseSource(), NoiseSource(3), NoiseSource(secure=True), NoiseSource(3, secure=True)
big = 400_000  # enough for the helper threads, which the child does not inherit
for source in sources:
    source.normals(big, std=1.0, step=0)
pid = os.fork()
status = os.waitpid(pid, 0)[1] if pid else 0  # one after the other: their lines must not mix
print([source.normals(big, std=1.0, step=1)[-3:].tolist() for source in sources], flush=True)
if pid == 0:
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(status))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=120)
    parent, child = (eval(line) for line in result.stdout.splitlines())
    assert [a == b for a, b in zip(parent, child, strict=True)] == [False, True, False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_std_zero_gives_exact_zeros(dtype):
    filled = NoiseSource().normal_(torch.full((7, 3), 5.0, dtype=dtype), std=0.0, step=0)
    assert torch.equal(filled, torch.zeros(7, 3, dtype=dtype))
    assert not filled.signbit().any(), "0 times a negative normal is -0.0, which tells its sign"


@pytest.mark.parametrize("shape", [(0,), (3, 0), (), (1,), (7,), (3, 5, 7)])
def test_every_shape_is_filled(shape):
    filled = NoiseSource().normal_(torch.full(shape, math.nan), std=2.0, step=0)
    assert filled.shape == shape
    assert filled.isfinite().all()
    assert (filled != 0).all()


def test_std_is_the_standard_deviation_in_every_precision():
    """Mean and standard deviation at 5 standard errors of 300,000 draws: 6e-7 each; 3% off is 23."""
    count = 300_000
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        values = seeded(2).normals(count, std=3.0, step=1, dtype=dtype).double()
        assert abs(values.mean()) < 5 * 3.0 / math.sqrt(count)
        assert abs(values.std() - 3.0) < 5 * 3.0 * math.sqrt(0.5 / count)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.empty(40, 30).t(),
        torch.empty(4, 3, 5, 6).to(memory_format=torch.channels_last),
        torch.empty(200)[::2],
        torch.empty(40, 30, dtype=torch.float64)[5:, 1:],
        torch.empty(33)[1:],
    ],
    ids=["transposed", "channels_last", "strided", "window", "offset"],
)
def test_layout_in_memory_does_not_change_the_values(tensor):
    expected = draw(seeded(6), tuple(tensor.shape), dtype=tensor.dtype)
    assert torch.equal(seeded(6).normal_(tensor, std=1.0, step=0), expected)


def test_only_the_view_is_written():
    base = torch.zeros(10)
    NoiseSource().normal_(base[2:5], std=1.0, step=0)
    assert (base[2:5] != 0).all()
    assert (base[:2] == 0).all()
    assert (base[5:] == 0).all()


def test_thread_count_does_not_change_the_values():
    threads = torch.get_num_threads()
    try:
        draws = []
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            draws.append(draw(seeded(9), 500_001, step=1))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draws[2])


def test_parameters_are_filled_without_a_graph_and_autograd_notices():
    weight = torch.nn.Parameter(torch.ones(5))
    product = (weight * weight).sum()
    source = NoiseSource()
    assert source.normal_(weight, std=1.0, step=0) is weight
    assert weight.grad_fn is None
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_inference_mode_leaves_the_source_usable():
    source = NoiseSource()
    with torch.inference_mode():
        inside = draw(source, 3000)
    assert not torch.equal(inside, draw(source, 3000))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_other_types_are_refused(dtype):
    with pytest.raises(ConfigurationError, match=f"floating-point tensor, got dtype {dtype}"):
        NoiseSource().normal_(torch.zeros(3, dtype=dtype), std=1.0, step=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"std": -1.0, "step": 0}, "std must be a finite number >= 0, got -1.0"),
        ({"std": math.nan, "step": 0}, "std must be a finite number >= 0, got nan"),
        ({"std": 1.0, "step": -1}, r"step must be a whole number >= 0 and < 2\*\*48, got -1"),
        ({"std": 1.0, "step": 2**48}, r"step must be .* < 2\*\*48, got 281474976710656"),
        ({"std": 1.0, "step": 0, "stream": 2**32}, r"stream must be .* < 2\*\*32, got 4294967296"),
        ({"std": 1.0, "step": 1.5}, "step must be a whole number"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        NoiseSource().normals(3, **arguments)


def test_bernoulli_seed_is_fresh_or_a_function_of_seed_and_purpose():
    source = NoiseSource()
    assert source.bernoulli_seed("sampling") != source.bernoulli_seed("sampling")
    assert seeded(1).bernoulli_seed("sampling") == seeded(1).bernoulli_seed("sampling")
    assert seeded(1).bernoulli_seed("sampling") != seeded(1).bernoulli_seed("probe")
    assert seeded(1).bernoulli_seed("sampling") != seeded(2).bernoulli_seed("sampling")
    assert 0 <= source.bernoulli_seed("sampling") < 2**128


def test_state_of_a_seeded_source_is_its_seed():
    source = seeded(12)
    assert source.state_dict() == {"seed": 12}
    source.load_state_dict({"seed": 12})
    source.load_state_dict({})
    NoiseSource().load_state_dict({"seed": 12})
    with pytest.raises(CheckpointError, match="seed 13, this source has seed 12"):
        source.load_state_dict({"seed": 13})


def test_unseeded_secure_source_says_so_and_never_repeats():
    source = NoiseSource(secure=True)
    assert (source.secure, source.seeded, source.caveat, NoiseSource().secure) == (True, False, None, False)
    assert repr(source) == "NoiseSource(seed=None, secure=True)"
    assert not torch.equal(draw(source), draw(source))
    zeros = torch.zeros(64)
    assert not torch.equal(source.add_(zeros.clone(), std=1.0, step=0), source.add_(zeros.clone(), std=1.0, step=0))


@pytest.mark.parametrize("secure", [1, None, "yes"])
def test_secure_is_a_bool(secure):
    with pytest.raises(ConfigurationError, match="secure must be True or False, got"):
        NoiseSource(secure=secure)


def seeded_secure(seed):
    with pytest.warns(SeededNoiseWarning):
        return NoiseSource(seed, secure=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_seeded_secure_values_are_a_function_of_seed_step_and_stream(dtype):
    first, second = seeded_secure(11), seeded_secure(11)
    draw(first, 5000, step=8, dtype=dtype)

    def both(source, step, stream):
        noise = draw(source, 3000, step=step, stream=stream, dtype=dtype)
        return torch.stack([noise, source.add_(torch.zeros(3000, dtype=dtype), std=1.0, step=step, stream=stream)])

    values = both(first, 3, 2)
    assert torch.equal(values, both(second, 3, 2))
    for other in (both(first, 4, 2), both(first, 3, 1), both(seeded_secure(12), 3, 2)):
        assert (values == other).double().mean() < 0.2  # bfloat16 has few numbers: equal ones come by chance
    assert not torch.equal(values[0], draw(seeded(11), 3000, step=3, stream=2, dtype=dtype))


@pytest.mark.parametrize("make", [seeded, seeded_secure], ids=["plain", "secure"])
@pytest.mark.parametrize(
    "tensor",
    [
        torch.full((40, 30), 5.0).t(),
        torch.full((200,), 5.0)[::2],
        torch.full((33,), 5.0, dtype=torch.float64)[1:],
        torch.full((4, 3, 5, 6), 5.0, dtype=torch.bfloat16).to(memory_format=torch.channels_last),
    ],
    ids=["transposed", "strided", "double", "bfloat16"],
)
def test_noise_is_added_whatever_the_layout(make, tensor):
    source, tensor = make(6), tensor.clone()
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    expected = make(6).add_(torch.full(tuple(tensor.shape), 5.0, dtype=dtype), std=1.0, step=2)
    assert source.add_(tensor, std=1.0, step=2) is tensor
    assert torch.equal(tensor, expected.to(tensor.dtype))
    assert abs(tensor.double().mean() - 5.0) < 6 / math.sqrt(tensor.numel())  # 2e-9 for a fresh seed


def test_plain_source_adds_what_it_fills_with():
    values = torch.arange(50.0)
    added = seeded(3).add_(values.clone(), std=2.0, step=7, stream=1)
    assert torch.equal(added, values + seeded(3).normals(50, std=2.0, step=7, stream=1))


@pytest.mark.parametrize("secure", [False, True])
def test_std_zero_adds_nothing(secure):
    values = torch.tensor([0.1, -0.0, 3e-30])
    assert torch.equal(NoiseSource(secure=secure).add_(values.clone(), std=0.0, step=0), values)


@pytest.mark.parametrize("method", ["normal_", "add_"])
def test_autograd_notices_secure_noise(method):
    weight = torch.nn.Parameter(torch.ones(5))
    product = (weight * weight).sum()
    getattr(NoiseSource(secure=True), method)(weight, std=1.0, step=0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_p25_copies_of_a_secure_source_are_secure_and_take_new_keys(duplicate):
    source = NoiseSource(secure=True)
    twin = duplicate(source)
    assert twin.secure
    assert not {source._grid_key, *source._secure_keys} & {twin._grid_key, *twin._secure_keys}
    assert not any(key in pickle.dumps(source) for key in (source._grid_key, *source._secure_keys))
    assert torch.equal(draw(duplicate(seeded_secure(4))), draw(seeded_secure(4)))


def test_state_of_a_secure_source():
    assert NoiseSource(secure=True).state_dict() == {}
    source = seeded_secure(12)
    assert source.state_dict() == {"seed": 12, "secure": True}
    source.load_state_dict(source.state_dict())
    source.load_state_dict({})
    NoiseSource(secure=True).load_state_dict(seeded(12).state_dict())
    with pytest.raises(CheckpointError, match="secure=False, this source has secure=True"):
        source.load_state_dict(seeded(12).state_dict())
    with pytest.raises(CheckpointError, match="secure=True, this source has secure=False"):
        seeded(12).load_state_dict(source.state_dict())


def test_p29_secure_noise_for_another_device_never_asks_its_generator(monkeypatch):
    asked = []
    monkeypatch.setattr(NoiseSource, "_generator", lambda self, device, nonce: asked.append(device))
    values = torch.empty(5, device="meta")
    NoiseSource(secure=True).normal_(values, std=1.0, step=0)
    assert asked == []
    NoiseSource().normal_(values, std=1.0, step=0)
    assert asked == [torch.device("meta")]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_p29_secure_noise_on_cuda_is_that_of_the_cpu():
    values = torch.arange(3000.0)
    state = torch.cuda.get_rng_state()
    on_device = seeded_secure(5).add_(values.cuda(), std=0.3, step=1)
    assert torch.equal(on_device.cpu(), seeded_secure(5).add_(values.clone(), std=0.3, step=1))
    assert torch.equal(draw(seeded_secure(5), device="cuda").cpu(), draw(seeded_secure(5)))
    assert torch.equal(torch.cuda.get_rng_state(), state)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_p25_device_noise_ignores_the_global_seed_and_follows_the_own_one():
    def after_seeding(source, step=0):
        torch.cuda.manual_seed_all(0)
        return source.normals(100_000, std=2.0, step=step, device="cuda")

    assert not torch.equal(after_seeding(NoiseSource()), after_seeding(NoiseSource()))
    source = NoiseSource()
    assert not torch.equal(after_seeding(source), after_seeding(source))
    assert torch.equal(after_seeding(seeded(1)), after_seeding(seeded(1)))
    assert not torch.equal(after_seeding(seeded(1)), after_seeding(seeded(1), step=1))
    assert abs(after_seeding(seeded(1)).std() - 2.0) < 5 * 2.0 * math.sqrt(0.5 / 100_000)
