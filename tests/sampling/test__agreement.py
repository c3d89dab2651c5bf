"""Replicas of a Poisson sampler in two real processes: one draw, disjoint shards, a key nobody else has."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.sampling import PoissonSampler, _agreement

STEPS = 5

# One start of two processes for all checks: importing torch is most of what it costs.
SCRIPT = """
import json, pickle, random, sys
from datetime import timedelta
import numpy as np
import torch
from torch import distributed as dist
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.sampling import PoissonSampler

rank, store, output = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group(
    "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
)

def make(num_examples=300, rate=0.2, **options):
    options = {"seed": None, "num_replicas": 2, "rank": rank} | options
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    return PoissonSampler(num_examples, sample_rate=rate, steps=2**48, **options)

def refusal(**options):
    try:
        make(**options)
    except ConfigurationError as error:
        return str(error)
    return None

def drawn(sampler):
    return {"draws": [sampler.draw(step).tolist() for step in range(5)],
            "shards": [sampler.batch(step).tolist() for step in range(5)]}

report = {}
first = make()
report["unseeded"] = drawn(first)
report["another"] = drawn(make())
report["seeded"] = drawn(make(seed=7))
report["state"] = first.state_dict()
report["key in pickle"] = first._key.to_bytes(16, "little").lstrip(b"\\0") in pickle.dumps(first)
try:
    pickle.loads(pickle.dumps(first)).draw(0)
except ConfigurationError as error:
    report["copy"] = str(error)
resumed = make()
resumed.load_state_dict(first.state_dict() | {"position": 3})
report["resumed"] = drawn(resumed) | {"position": resumed.position}
report["rate"] = refusal(rate=0.1 + 0.1 * rank)
report["seed"] = refusal(seed=40 + rank)
report["seed on one"] = refusal(seed=None if rank else 4)
report["data"] = refusal(num_examples=300 + rank)
report["same rank"] = refusal(rank=1)
report["same rank and seed"] = refusal(rank=0, seed=3)
report["no arguments"] = refusal(num_replicas=None, rank=None)
report["other size"] = refusal(num_replicas=3)
report["other size, seeded"] = refusal(num_replicas=3, seed=1)
report["alone"] = drawn(make(num_replicas=1, rank=0))
with open(output, "w") as file:
    json.dump(report, file)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replicas")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    outputs = [folder / f"{rank}.json" for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(rank), str(folder / "store"), str(output)],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank, output in enumerate(outputs)
    ]
    try:
        errors = [process.communicate(timeout=200)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return [json.loads(output.read_text()) for output in outputs]


@pytest.mark.parametrize("sampler", ["unseeded", "another", "seeded", "resumed"])
def test_p19_processes_draw_one_batch_and_share_it(reports, sampler):
    left, right = (report[sampler] for report in reports)
    assert left["draws"] == right["draws"]
    for draw, mine, theirs in zip(left["draws"], left["shards"], right["shards"], strict=True):
        assert not set(mine) & set(theirs)
        assert sorted(mine + theirs) == sorted(draw)
        assert abs(len(mine) - len(theirs)) <= 1


def test_p19_equal_states_of_global_generators_have_no_influence(reports):
    """Before each sampler every global generator was set to the same state; 128 fresh bits each time."""
    draws = [reports[0][name]["draws"] for name in ("unseeded", "another", "resumed")]
    draws += [report["alone"]["draws"] for report in reports]
    assert all(a != b for number, a in enumerate(draws) for b in draws[:number])


def test_p19_seeded_replicas_draw_as_a_single_process_does(reports):
    alone = PoissonSampler(300, sample_rate=0.2, steps=2**48, seed=7)
    assert reports[0]["seeded"]["draws"] == [alone.draw(step).tolist() for step in range(STEPS)]


def test_the_common_key_is_saved_nowhere(reports):
    for report in reports:
        expected = {"num_examples": 300, "sample_rate": 0.2, "steps": 2**48, "max_batch_size": None, "position": 0}
        assert report["state"] == expected
        assert not report["key in pickle"]
        assert report["resumed"]["position"] == 3


def test_p19_a_copy_of_an_unseeded_replica_refuses_to_draw_on_its_own(reports):
    assert all("num_replicas=2 and seed=None has no key" in report["copy"] for report in reports)


@pytest.mark.parametrize(
    ("case", "messages"),
    [
        ("rate", ("different sample_rate .* sample_rate=0.1", "different sample_rate .* sample_rate=0.2")),
        ("seed", ("different seed .*=40", "different seed .*=41")),
        ("seed on one", ("different seed .*=4", "different seed .*=None")),
        ("data", ("different num_examples .*=300", "different num_examples .*=301")),
        ("same rank", (r"another one in each process, from 0 to 1, got \[1, 1\]",) * 2),
        ("same rank and seed", (r"another one in each process, from 0 to 1, got \[0, 0\]",) * 2),
        ("no arguments", ("must be given in a process group of 2 processes",) * 2),
        ("other size", ("num_replicas=3 and the process group has 2 processes",) * 2),
    ],
)
def test_p19_replicas_that_do_not_fit_together_are_refused_in_every_process(reports, case, messages):
    for report, message in zip(reports, messages, strict=True):
        assert report[case] is not None
        with pytest.raises(ConfigurationError, match=message):
            raise ConfigurationError(report[case])


def test_replicas_that_are_not_the_processes_rely_on_their_seed(reports):
    assert [report["other size, seeded"] for report in reports] == [None, None]


@pytest.mark.parametrize(
    ("backends", "device"),
    [
        ("cpu:gloo,cuda:gloo", torch.device("cpu")),
        ("cpu:gloo,cuda:nccl", torch.device("cpu")),
        ("cuda:nccl", torch.device("cuda", 3)),
        ("xpu:xccl", torch.device("xpu", 3)),
    ],
)
def test_message_is_where_the_group_can_send_it(backends, device, monkeypatch):
    monkeypatch.setattr(_agreement.dist, "get_backend_config", lambda: backends)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 3)
    assert _agreement._device() == device
