"""The federated benchmark runs, and its contenders take their rounds one at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def turns(load_benchmark):
    return load_benchmark("_federated_turns")


def test_rounds_are_taken_in_turn(turns):
    """Those who have fewer leave the others to go on; nobody begins before all are there."""
    done: list[tuple[str, int]] = []

    def contender(name, rounds, clock):
        for number in range(rounds):
            clock.start()
            done.append((name, number))
            clock.stop()

    clocks, absent = turns.take_turns({"a": partial(contender, "a", 2), "b": partial(contender, "b", 4)})
    assert [sorted(done[place : place + 2]) for place in (0, 2)] == [[("a", 0), ("b", 0)], [("a", 1), ("b", 1)]]
    assert done[4:] == [("b", 2), ("b", 3)]
    assert {name: len(found) for name, found in clocks.items()} == {"a": 2, "b": 4}
    assert absent == {}


def test_one_has_the_machine_until_its_next_round(turns):
    """What a contender does between two rounds disturbs nobody's."""
    inside, met = [], []

    def contender(clock):
        for _ in range(5):
            clock.start()
            met.append(len(inside))
            inside.append(1)
            clock.stop()
            inside.pop()

    turns.take_turns({"a": contender, "b": contender, "c": contender})
    assert met == [0] * 15


def test_who_is_not_installed_is_left_out(turns):
    def missing(clock):
        raise ImportError("no pfl")

    def there(clock):
        clock.start()
        clock.stop()

    clocks, absent = turns.take_turns({"pfl": missing, "hand": there})
    assert list(clocks) == ["hand"]
    assert str(absent["pfl"]) == "no pfl"


def test_other_errors_are_raised(turns):
    def broken(clock):
        clock.start()
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        turns.take_turns({"a": broken, "b": lambda clock: clock.start()})


def test_quick_run(tmp_path):
    output = tmp_path / "federated.json"
    command = [sys.executable, str(BENCHMARKS / "federated.py"), "--quick", "--networks", "mlp", "--turns", "1"]
    run = subprocess.run(
        [*command, "--contenders", "ours", "hand", "--output", str(output)], capture_output=True, text=True, timeout=240
    )
    assert run.returncode == 0, run.stderr
    row = json.loads(output.read_text())["networks"]["mlp"]
    assert row["failures"] == {}
    assert row["ours_over"]["hand"]["processor"] > 0
