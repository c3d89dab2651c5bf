"""Seeds by key: equal keys, equal draws, and no global generator that remembers a client."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated import keyed
from lightning_privacy.federated.keyed import client_randomness, derive_seed, generator, numpy_generator

PARTS = st.lists(st.one_of(st.integers(), st.text(st.characters(codec="utf-8"), max_size=4)), max_size=4)


def _states():
    """Every global generator on the CPU, as something that can be compared."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    return (
        torch.get_rng_state().numpy().tobytes(),
        (name, keys.tobytes(), position, has_gauss, gauss),
        random.getstate(),
    )


def _draw_all():
    return torch.rand(5).tolist(), torch.randn(5).tolist(), np.random.randn(3).tolist(), random.gauss(0, 1)


def test_the_seeds_are_those_of_other_machines():
    """Fixed values: a change would make old seeds mean other runs."""
    assert derive_seed(0) == 322433820286940734483389294743764087315
    assert derive_seed(1, "cohort", 2) == 159977584986465147501803779023867609700


@settings(max_examples=200, deadline=None)
@given(PARTS, PARTS)
def test_keys_that_differ_give_seeds_that_differ(first, second):
    same = [(type(part), part) for part in first] == [(type(part), part) for part in second]
    assert (derive_seed(0, *first) == derive_seed(0, *second)) == same


@pytest.mark.parametrize(
    ("first", "second"),
    [(("a", "b"), ("ab",)), ((1, 2), (12,)), (("1", 2), (1, 2)), ((1, -2), (1, 2)), (("i1:1",), (1,))],
    ids=["names", "numbers", "kinds", "signs", "encoding"],
)
def test_parts_of_a_key_don_t_run_together(first, second):
    assert derive_seed(0, *first) != derive_seed(0, *second)


def test_numbers_of_numpy_are_numbers():
    assert derive_seed(np.int64(3), "a", np.int32(4)) == derive_seed(3, "a", 4)


def test_generators_of_one_key_draw_alike_and_of_another_differently():
    def both(*key):
        return torch.rand(4, generator=generator(*key)).tolist(), numpy_generator(*key).random(4).tolist()

    assert both(0, "a", 1) == both(0, "a", 1)
    for other in ((1, "a", 1), (0, "b", 1), (0, "a", 2)):
        for drawn, different in zip(both(0, "a", 1), both(*other), strict=True):
            assert drawn != different


def test_p40_generators_neither_read_nor_touch_the_global_ones():
    before = _states()
    torch.rand(3, generator=generator(0, "a"))
    numpy_generator(0, "a").random(3)
    assert _states() == before
    first = numpy_generator(0, "a").random(3).tolist()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    assert numpy_generator(0, "a").random(3).tolist() == first


@pytest.mark.parametrize("raises", [False, True])
def test_p39_the_global_generators_are_exactly_as_before(raises):
    # One draw each first: NumPy and random keep the second of a pair of normals, which is state as well.
    _draw_all()
    before = _states()
    try:
        with client_randomness(3, round_number=1, client=2):
            _draw_all()
            if raises:
                raise RuntimeError("the client fails")
    except RuntimeError:
        pass
    assert _states() == before


def test_p39_what_a_client_draws_does_not_depend_on_who_drew_before():
    def draws(seed, round_number, client):
        with client_randomness(seed, round_number, client):
            return _draw_all()

    alone = draws(0, 4, 7)
    _draw_all()
    draws(0, 4, 6)
    assert draws(0, 4, 7) == alone
    for other in ((1, 4, 7), (0, 5, 7), (0, 4, 8), (0, 7, 4)):
        for drawn, different in zip(alone, draws(*other), strict=True):
            assert drawn != different


def test_p39_blocks_may_be_nested():
    with client_randomness(0, 0, 0):
        expected = (_draw_all(), _draw_all())
    with client_randomness(0, 0, 0):
        first = _draw_all()
        with client_randomness(0, 0, 1):
            _draw_all()
        assert (first, _draw_all()) == expected


@pytest.fixture
def look_anew():
    """The accelerator is looked for once in a process; these tests replace it."""
    keyed._accelerator_module.cache_clear()
    yield
    keyed._accelerator_module.cache_clear()


@pytest.mark.usefixtures("look_anew")
def test_a_client_on_the_cpu_starts_no_accelerator(monkeypatch):
    """Where there is one that has not been initialised, nothing is asked of it and no call is queued for later."""

    class Untouched:
        def is_initialized(self):
            return False

        def __getattr__(self, name):
            raise AssertionError(f"{name} of an accelerator that is not in use")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(torch, "get_device_module", lambda device: Untouched())
    queued = len(torch.cuda._queued_calls)
    with client_randomness(0, 0, 0):
        torch.rand(1)
    assert len(torch.cuda._queued_calls) == queued


@pytest.mark.usefixtures("look_anew")
@pytest.mark.parametrize("raises", [False, True])
def test_p39_the_accelerator_is_seeded_and_put_back(monkeypatch, raises):
    """With a stand-in that has a state; the same runs on a real device where there is one."""

    class Accelerator:
        state = "before"

        def get_rng_state(self):
            return self.state

        def set_rng_state(self, state):
            self.state = state

        def manual_seed(self, seed):
            self.state = seed

    device = Accelerator()
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("mps"))
    monkeypatch.setattr(torch, "get_device_module", lambda found: device)
    seen = []
    for client in (1, 2, 1):
        try:
            with client_randomness(0, 0, client):
                seen.append(device.state)
                if raises:
                    raise RuntimeError("the client fails")
        except RuntimeError:
            pass
        assert device.state == "before"
    assert seen[0] == seen[2] != seen[1] != "before"


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator")
def test_p39_a_real_accelerator_is_seeded_and_put_back():
    device = torch.accelerator.current_accelerator()
    module = torch.get_device_module(device)
    torch.rand(3, device=device)
    before = module.get_rng_state()
    drawn = []
    for client in (1, 2, 1):
        with client_randomness(0, 0, client):
            drawn.append(torch.rand(5, device=device).tolist())
        assert torch.equal(module.get_rng_state(), before)
    assert drawn[0] == drawn[2] != drawn[1]


@pytest.mark.parametrize(
    ("seed", "key", "named"),
    [
        (-1, (), "seed"),
        (1.5, (), "seed"),
        (True, (), "seed"),
        (0, (1.5,), "key"),
        (0, (None,), "key"),
        (0, (True,), "key"),
    ],
)
def test_bad_seeds_and_keys_are_named(seed, key, named):
    with pytest.raises(ConfigurationError, match=f"^{named} must"):
        derive_seed(seed, *key)
