"""The serving benchmark runs, and only a complete run replaces the committed result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(load_benchmark):
    return load_benchmark("serving")


def test_a_quick_run_answers_every_request(benchmark, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(benchmark, "_CONCURRENCIES", (3,))
    monkeypatch.setattr(benchmark, "_MODES", {"noisy_argmax": benchmark._MODES["noisy_argmax"]})
    output = tmp_path / "serving.json"
    arguments = benchmark._parse(["--quick", "--rounds", "1", "--output", str(output)])
    assert benchmark.run_benchmark(arguments, benchmark._run, benchmark._format) == 0
    result = json.loads(output.read_text())
    (cell,) = result["cells"]
    assert cell["requests_per_second"] > 0
    assert cell["not_answered"] == 0
    assert cell["server_processor_milliseconds"] > 0
    assert set(result["milliseconds"]) >= {"one image, onnx", "one image, torch", "one entry in the ledger"}
    assert "noisy_argmax" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "written"),
    [([], True), (["--quick"], False), (["--rounds", "1"], False), (["--seconds", "1"], False)],
    ids=["complete", "quick", "rounds", "seconds"],
)
def test_only_a_complete_run_has_a_place_of_its_own(benchmark, argv, written):
    assert (benchmark._parse(argv).output is not None) is written
