"""The benchmark of several processes runs with one and two of them, counts what they send, and plans from counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIZES = ["--quick", "--rounds", "1", "--steps", "3", "--warm", "1", "--cohort", "2", "--client-examples", "4"]
SMALL = [*SIZES, "--client-batch", "2", "--networks", "mlp", "--client-networks", "mlp"]
WIDTH = 256  # of the perceptron at its tiny size
NUMBERS = 784 * WIDTH + WIDTH + WIDTH * WIDTH + WIDTH + WIDTH * 10 + 10
CLIENT_NUMBERS = 3072 * 32 + 32 + 32 * 32 + 32 + 32 * 10 + 10


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("multi_gpu")


@pytest.fixture
def plan(load_benchmark):
    return load_benchmark("_multi_gpu_plan")


@pytest.fixture
def traffic(load_benchmark):
    return load_benchmark("_multi_gpu_traffic")


def run_benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "PL_", "LOCAL_", "TORCHEL"))
    }
    command = [sys.executable, str(BENCHMARKS / "multi_gpu.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    output = tmp_path_factory.mktemp("multi_gpu") / "multi_gpu.json"
    run = run_benchmark(*SMALL, "--processes", "1", "2", "--plan-networks", "--output", str(output))
    assert run.returncode == 0, run.stderr[-3000:]
    assert "efficiency" in run.stdout
    assert "not measured" in run.stdout
    return json.loads(output.read_text())


@pytest.mark.timeout(600)
def test_one_and_two_processes_are_measured(result):
    assert list(result["measured"]) == ["1", "2"]
    assert "no GPU" in result["note"]
    for count, entry in result["measured"].items():
        assert entry["backend"] == "gloo"
        assert entry["hardware"]["accelerator"] is None
        for scaling in ("weak", "strong"):
            rows = [*entry["steps"]["mlp"][scaling].items(), ("rounds", entry["rounds"]["mlp"][scaling])]
            for name, row in rows:
                if name == "private_over_plain":
                    continue
                units = {"rounds": 2}.get(name, 4)
                assert row["units"] == (units * int(count) if scaling == "weak" else units)
                assert row["units_per_second"] == pytest.approx(row["units"] / row["milliseconds"] * 1e3, rel=0.01)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("scaling", ["weak", "strong"])
def test_p28_a_private_step_sends_one_sum_as_large_as_the_model(result, scaling):
    alone, both = (result["measured"][count]["steps"]["mlp"][scaling]["private"] for count in ("1", "2"))
    assert alone["sent_bytes"] == 0
    sums = both["messages"]["all_reduce"]
    assert sums["largest"] == 4 * NUMBERS
    # Beside it only flags of a few bytes: is this the end, who has what.
    assert 4 * NUMBERS <= sums["bytes"] < 4 * NUMBERS + 500
    assert both["sent_bytes"] >= 4 * NUMBERS


@pytest.mark.timeout(600)
@pytest.mark.parametrize("scaling", ["weak", "strong"])
def test_a_round_sends_two_vectors_as_large_as_the_model_however_many_clients(result, scaling):
    both = result["measured"]["2"]["rounds"]["mlp"][scaling]
    sums = both["messages"]["all_reduce"]
    # Deltas and directions, and four figures before them.
    assert sums["largest"] == 4 * (2 * CLIENT_NUMBERS + 4)
    assert sums["bytes"] < sums["largest"] + 1000


@pytest.mark.timeout(600)
def test_efficiency_and_prediction_follow_from_what_was_measured(result):
    found = result["scaling"]["steps"]["mlp, private"]["weak"]["2"]
    one, two = (result["measured"][count]["steps"]["mlp"]["weak"]["private"] for count in ("1", "2"))
    assert found["efficiency"] == pytest.approx(two["units_per_second"] / one["units_per_second"] / 2, abs=1e-3)
    used = [each["processor_milliseconds"] / each["units"] for each in (one, two)]
    assert found["processor_efficiency"] == pytest.approx(used[0] / used[1] / 2, abs=1e-3)
    assert found["predicted_milliseconds"] > one["milliseconds"]
    assert set(result["scaling"]["rounds"]) == {"mlp"}
    planned = result["plan"]["steps"]["mlp"]
    assert planned["counted"]["parameters"] == planned["work"]["noise"] == NUMBERS
    assert planned["work"]["payload"] == 4 * NUMBERS
    # A perceptron: two operations for each weight and example, forward once and backward twice, but once for the first
    # layer, whose input needs no gradient.
    products = 784 * WIDTH + WIDTH * WIDTH + WIDTH * 10
    assert planned["counted"]["plain"]["flops"] == 2 * (3 * products - 784 * WIDTH)
    # With privacy the norms need no product, and the sum of the clipped gradients is one for each weight and each bias.
    assert planned["counted"]["private"]["flops"] == planned["counted"]["plain"]["flops"] + 2 * (2 * WIDTH + 10)
    assert planned["counted"]["private"]["operators"] > planned["counted"]["plain"]["operators"]
    assert set(planned["strong"]) == {"8", "64"}


def test_a_plan_without_measurements_and_results_joined_from_elsewhere(result, tmp_path):
    measured = tmp_path / "2.json"
    measured.write_text(json.dumps(result["measured"]["2"]))
    output = tmp_path / "joined.json"
    run = run_benchmark(
        *(*SMALL, "--processes", "--join", str(measured), "--plan", "16", "--plan-networks", "mnist_cnn"),
        *("--device-flops", "1e12", "--output", str(output)),
    )
    assert run.returncode == 0, run.stderr[-3000:]
    joined = json.loads(output.read_text())
    assert list(joined["measured"]) == ["2"]
    assert joined["plan"]["assumed"]["device_flops"] == 1e12
    assert set(joined["plan"]["steps"]) == {"mlp", "mnist_cnn"}
    assert joined["plan"]["steps"]["mnist_cnn"]["weak"]["16"]["efficiency"] <= 1


def test_plan_by_hand(plan):
    machine = plan.Machine(
        device_flops=1e12, utilisation=0.5, launch_seconds=1e-6, noise_per_second=1e9, node_size=8, link_bytes=1e11,
        link_latency=1e-6, network_bytes=1e10, network_latency=1e-5,
    )  # fmt: skip
    work = plan.Work(unit_flops=1e7, operators=100, units=128, payload=4e6, calls=2, noise=1e6)
    table = plan.scaling_table(work, [8, 64], machine)
    compute, noise = 128 * 1e7 / 5e11, 1e6 / 1e9
    inside = 2 * 2 * 7 * 1e-6 + 2 * 4e6 * 7 / 8 / 1e11
    between = 2 * 2 * 7 * 1e-5 + 2 * (4e6 / 8) * 7 / 8 / 1e10
    assert table["one_device_milliseconds"] == pytest.approx((compute + noise) * 1e3, rel=1e-3)
    weak = table["weak"]
    assert weak["8"]["milliseconds"]["all"] == pytest.approx((compute + noise + inside) * 1e3, rel=1e-3)
    assert weak["64"]["milliseconds"]["all"] == pytest.approx((compute + noise + inside + between) * 1e3, rel=1e-3)
    assert weak["64"]["efficiency"] == pytest.approx((compute + noise) / (compute + noise + inside + between), abs=1e-3)
    # Two examples a device: the launches take longer than the arithmetic.
    strong = table["strong"]["64"]
    assert strong["milliseconds"]["compute"] == pytest.approx(100 * 1e-6 * 1e3)
    seconds = 1e-4 + noise + inside + between
    assert strong["times_one_device"] == pytest.approx((compute + noise) / seconds, abs=0.01)


def test_plan_of_clients_waits_for_the_device_that_has_most(plan):
    machine = plan.Machine(launch_seconds=1e-3, link_latency=1e-12, link_bytes=1e18)
    work = plan.Work(unit_flops=1.0, operators=10, units=9, payload=8.0, calls=1, one_by_one=True)
    strong = plan.scaling_table(work, [8], machine)["strong"]["8"]
    assert strong["milliseconds"]["all"] == pytest.approx(2 * 10 * 1.0)
    assert strong["times_one_device"] == pytest.approx(4.5)


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_sent_bytes_are_those_of_a_ring(traffic, processes):
    """Pieces travel round a ring: a sum in n - 1 turns, and the sums to all in another n - 1."""
    numbers = torch.arange(processes * processes * 4.0).reshape(processes, processes, 4)
    held, sent = numbers.clone(), [0] * processes
    for turn in range(2 * (processes - 1)):
        before, adding = held.clone(), turn < processes - 1
        for rank in range(processes):
            piece = (
                (rank - turn) % processes if turn < processes - 1 else (rank + 1 - (turn - processes + 1)) % processes
            )
            there = (rank + 1) % processes
            sent[rank] += before[rank, piece].numel() * 4
            if adding:
                held[there, piece] = before[there, piece] + before[rank, piece]
            else:
                held[there, piece] = before[rank, piece]
    assert all(torch.equal(one, numbers.sum(0)) for one in held)
    payload = processes * 4 * 4
    assert sent == [traffic.sent_bytes("all_reduce", payload, processes)] * processes
    assert traffic.sent_bytes("all_gather", payload, processes) == payload * (processes - 1)
    assert traffic.sent_bytes("broadcast", payload, processes) == (payload if processes > 1 else 0)


def test_messages_are_counted_and_arrive(traffic, tmp_path):
    original = dist.all_reduce
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        with traffic.Traffic() as found:
            tensor = torch.ones(7, dtype=torch.float64)
            dist.all_reduce(tensor)
            dist.all_reduce(tensor=torch.ones(1))
            gathered = [torch.zeros(3)]
            dist.all_gather(gathered, torch.ones(3))
            values = [None]
            dist.all_gather_object(values, {"epsilon": 1.0})
            dist.barrier()
    finally:
        dist.destroy_process_group()
    assert vars(found.found["all_reduce"]) == {"calls": 2, "payload": 7 * 8 + 4, "largest": 56}
    assert torch.equal(gathered[0], torch.ones(3))
    assert values == [{"epsilon": 1.0}]
    # Of the tensor; of the object, its size and its bytes.
    assert sum(one.calls for name, one in found.found.items() if name.startswith("all_gather")) == 3
    assert sum(one.payload for name, one in found.found.items() if name.startswith("all_gather")) > 3 * 4 + 8
    assert found.found["barrier"].payload == 0
    assert dist.all_reduce is original
    found.forget()
    assert found.found == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--plan", "12"], "node_size=8"),
        (["--utilisation", "2"], "utilisation must be at most 1"),
        (["--device-flops", "0"], "device_flops must be positive"),
        (["--processes", "0"], "--processes"),
        (["--steps", "0"], "--steps"),
        (["--networks", "vgg"], "no network vgg"),
    ],
    ids=lambda given: given[0].strip("-") if isinstance(given, list) else "",
)
def test_bad_arguments_name_themselves(benchmark, capsys, arguments, said):
    with pytest.raises(SystemExit) as error:
        benchmark._run(benchmark._parse(arguments))
    assert said in f"{error.value} {capsys.readouterr().err}"


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        ([], "multi_gpu.json"),
        (["--device", "cuda"], "multi_gpu_cuda.json"),
        (["--quick"], None),
        (["--processes", "1"], None),
        (["--processes"], None),
    ],
    ids=["complete", "cuda", "quick", "one", "plan"],
)
def test_only_a_complete_run_has_a_place_of_its_own(benchmark, argv, name):
    output = benchmark._parse(argv).output
    assert (None if output is None else output.name) == name


def test_the_committed_result_says_that_no_gpu_took_part():
    committed = json.loads((BENCHMARKS / "results" / "multi_gpu.json").read_text())
    assert committed["quick"] is False
    assert "no GPU was at hand" in committed["note"]
    assert "computed, not measured" in committed["plan"]["note"]
    assert list(committed["measured"]) == ["1", "2"]
    for network, rows in committed["measured"]["2"]["steps"].items():
        size = committed["plan"]["steps"][network]["counted"]["parameter_bytes"]
        sent = [rows[scaling]["private"]["sent_bytes"] for scaling in ("weak", "strong")]
        assert all(size <= each < size + 500 for each in sent)
    assert all(row["weak"]["2"]["processor_efficiency"] > 0.5 for row in committed["scaling"]["steps"].values())
    for rows in committed["plan"]["steps"].values():
        assert all(0 < rows["weak"][count]["efficiency"] <= 1 for count in ("8", "64"))
