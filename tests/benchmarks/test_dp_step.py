"""The step benchmark runs, agrees with Opacus, and its harness measures what it says."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ENVIRONMENT = {**os.environ, "OMP_WAIT_POLICY": "passive"}


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


harness = load("_harness")


def run_benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "dp_step.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=480)


def test_quick_run_covers_networks_contenders_and_views_and_agrees_with_opacus(tmp_path):
    output = tmp_path / "new" / "dp_step.json"
    networks = ["mlp", "transformer", "mnist_cnn", "vit_s", "gpt2"]
    run = run_benchmark(
        *("--quick", "--rounds", "1", "--threads", "1", "--networks", *networks),
        *("--contenders", "ours", "hooks", "ghost", "--output", str(output)),
    )
    assert run.returncode == 0, run.stderr
    assert str(output) in run.stdout
    result = json.loads(output.read_text())
    assert list(result["networks"]) == networks
    assert "no accelerator" in result["note"]
    assert result["quick"] is True
    assert result["hardware"]["threads"] == 1
    assert set(result["hardware"]["versions"]) >= {"torch", "opacus", "lightning-privacy"}
    for name in ("mlp", "transformer"):
        network = result["networks"][name]
        cells = network["contenders"]
        names = ["plain", "ours", "ours, clip and sum only", "Opacus hooks", "Opacus ghost"]
        assert list(cells) == names
        for contender, cell in cells.items():
            assert cell["milliseconds"] > 0
            assert cell["peak_mib"] > 0
            assert contender == "plain" or cell["relative_error"] < 1e-5
            assert contender in run.stdout
        assert cells["plain"]["time_multiple"] == 1
        assert network["claims"]["best_opacus"] in ("Opacus hooks", "Opacus ghost")
    assert result["networks"]["vit_s"]["contenders"]["ours"]["relative_error"] < 1e-5
    assert result["networks"]["gpt2"]["contenders"]["ours"]["milliseconds"] > 0
    assert result["networks"]["vit_s"]["claims"]["memory_multiple_limit"] == 1.3
    assert list(result["views"]) == ["mnist_cnn"]
    views = result["views"]["mnist_cnn"]
    assert (views["examples"], views["views"]) == (2, 2)
    assert set(views["milliseconds"]) == {"1", "2"}
    assert set(views["peak_mib"]) == {f"{name}, {each} views" for name in ("plain", "ours") for each in (1, 2)}


def test_the_row_that_needs_an_accelerator_says_so(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    measuring = load("_dp_measure")
    row = measuring.measure("gpt2", ["plain", "ours"], Namespace(device="cpu", quick=False))
    assert "not run: 124 million parameters" in measuring.format_row("gpt2", row)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([], "dp_step.json"),
        (["--device", "cuda"], "dp_step_cuda.json"),
        (["--quick"], None),
        (["--networks", "mlp"], None),
        (["--no-views"], None),
        (["--contenders", "ours"], None),
    ],
)
def test_only_a_complete_run_replaces_the_committed_result(arguments, name, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    output = load("dp_step")._parse(arguments).output
    assert output == (None if name is None else BENCHMARKS / "results" / name)


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--threads", "0"], ["--networks", "vgg"]])
def test_bad_arguments_name_themselves(arguments):
    run = run_benchmark(*arguments)
    assert run.returncode == 2
    assert arguments[0] in run.stderr


def test_interleave_gives_every_contender_its_turn_in_every_round():
    turns = []
    timings = harness.interleave({name: lambda name=name: turns.append(name) for name in "abc"}, rounds=4)
    assert {len(timing.rounds) for timing in timings.values()} == {4}
    assert {len(timing.processor_rounds) for timing in timings.values()} == {4}
    starts = [name for before, name in zip(["", *turns], turns, strict=False) if name != before]
    assert starts[6:18] == list("abcbcacababc")  # after one warm-up and one length measurement each


def test_interleave_stops_after_three_rounds_when_time_is_up():
    timings = harness.interleave({"a": lambda: None}, rounds=9, turn_seconds=0.0, enough_seconds=0.0)
    assert len(timings["a"].rounds) == 3


def test_multiple_compares_rounds_in_pairs():
    plain = harness.Timing([[1.0, 1.0, 9.0], [10.0], [1.0]])
    other = harness.Timing([[2.0], [20.0, 20.0, 1.0], [5.0]])
    assert other.multiple_of(plain) == 2.0
    assert plain.seconds == 1.0
    assert other.best_seconds == 1.0


def test_write_result_keeps_the_old_file_when_the_new_one_fails(tmp_path):
    path = tmp_path / "result.json"
    harness.write_result(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        harness.write_result(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    # A folder in the file's place makes the last step fail: nothing temporary may stay.
    blocked = tmp_path / "folder.json"
    blocked.mkdir()
    with pytest.raises(OSError, match=r"folder\.json"):
        harness.write_result(blocked, {"a": 1})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder.json", "result.json"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_peak_memory_is_what_was_allocated_at_once():
    code = (
        "from _harness import peak_resident_bytes\n"
        "block = lambda: bytes(b'x') * (32 * 2**20)\n"
        "def run():\n"
        "    for _ in range(3):\n"
        "        pair = (block(), block())\n"
        "        del pair\n"
        "before = block() + block() + block(); del before\n"
        "print(peak_resident_bytes(run))\n"
    )
    with harness.mapped_allocations():
        run = subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) == pytest.approx(64 * 2**20, rel=0.1)
    assert os.environ.get("MALLOC_MMAP_THRESHOLD_") is None


def test_threads_are_pinned_for_what_is_imported_later(monkeypatch):
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(variable, "7")
    harness.pin_threads(3)
    assert os.environ["OMP_NUM_THREADS"] == "3"
    with pytest.raises(ValueError, match="threads must be >= 1, got 0"):
        harness.pin_threads(0)
