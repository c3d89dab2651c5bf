"""Training in two processes: what one process does, and an end for all where one of them ends.

The trainings are in ddp_scenarios.py and run in processes of their own, all of them once for this file.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from lightning_privacy.accounting import PrivacyLedger, SampledGaussian

# What all tests look at is computed once, by processes of its own, in whichever worker comes first.
pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("ddp")]

SCRIPT = Path(__file__).with_name("ddp_scenarios.py")
SCENARIOS = [
    *("forked", "forked_failing", "spawned", "same:1", "same", "ways", "resumed", "disagreeing", "unseeded"),
    *("manual:1", "manual", "line_search"),
    *("killed", "failing", "failing_early", "stopping"),
]
SIZE, BATCH, STEPS = 37, 5, 8
RATE = BATCH / SIZE


def start(*command: str, folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "PL_"))}
    environment |= {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=folder, capture_output=True, timeout=800, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]


class Outcomes:
    """What the processes of the scenarios left behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str, rank: int = 0) -> Any:
        path = self.folder / name / f"{rank}.pt"
        assert path.exists(), self.said(name, rank)[-3000:]
        return torch.load(path, weights_only=False)

    def ends(self, name: str) -> list[int | None]:
        statuses = json.loads((self.folder / name / "ends.json").read_text())
        return [statuses[str(rank)] for rank in range(len(statuses))]

    def said(self, name: str, rank: int) -> str:
        return (self.folder / name / f"{rank}.log").read_text()


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    base = tmp_path_factory.getbasetemp()
    # Workers of pytest-xdist that are not told to keep groups together wait for the one that came first.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, done = shared / "ddp", shared / "ddp.done"
    with FileLock(shared / "ddp.lock"):
        if not done.exists():
            folder.mkdir()
            start(str(SCRIPT), str(folder), *SCENARIOS, folder=folder)
            done.touch()
    return Outcomes(folder)


def close(first: torch.Tensor, second: torch.Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=tolerance)


def by_step(result: dict[str, Any]) -> dict[int, list[list[int]]]:
    steps = defaultdict(list)
    for step, indices in result["seen"]:
        steps[step].append(indices)
    return steps


CASES = ["plain", "accumulated", "late", "budget", "limited"]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_with_the_weights_and_the_epsilon_of_one(outcome: Outcomes, case: str) -> None:
    alone, first, second = outcome("same-1")[case], outcome("same")[case], outcome("same", 1)[case]
    close(first["weights"], alone["weights"])
    assert torch.equal(first["weights"], second["weights"])
    for each in (first, second):
        for name in ("epsilon", "history", "caveats", "steps", "total_steps", "validated_at"):
            assert each[name] == alone[name], name
    assert sorted(set(first["learning_rates"])) == sorted(set(alone["learning_rates"]))


def test_p23_number_of_steps_is_known_beforehand_and_does_not_depend_on_processes(outcome: Outcomes) -> None:
    same = outcome("same")
    assert (same["plain"]["total_steps"], same["plain"]["steps"]) == (3 * STEPS, 3 * STEPS)
    assert (same["accumulated"]["total_steps"], same["accumulated"]["steps"]) == (12, 12)
    assert (same["limited"]["total_steps"], same["limited"]["steps"]) == (11, 11)


def test_p30_all_processes_stop_at_the_same_step_within_the_budget(outcome: Outcomes) -> None:
    first, second = outcome("same")["budget"], outcome("same", 1)["budget"]
    assert 0 < first["steps"] == second["steps"] < 50 * STEPS
    ledger = PrivacyLedger(delta=0.01, budget=2.5)
    ledger.charge(SampledGaussian(1.0, RATE), first["steps"])
    assert first["epsilon"] == ledger.epsilon(exact=True) <= 2.5
    assert not ledger.affords(SampledGaussian(1.0, RATE))


@pytest.mark.parametrize("case", CASES)
def test_p28_noise_is_added_once_and_clipped_sums_are_added_up(outcome: Outcomes, case: str) -> None:
    """Each released gradient is the one that a single process releases from the same draw and noise."""
    alone, first, second = outcome("same-1")[case], outcome("same")[case], outcome("same", 1)[case]
    assert len(alone["gradients"]) == len(first["gradients"]) == alone["steps"]
    for expected, one, other in zip(alone["gradients"], first["gradients"], second["gradients"], strict=True):
        close(one, expected)
        assert torch.equal(one, other)


def test_p28_one_sum_over_processes_in_a_step_and_none_in_a_microbatch(outcome: Outcomes) -> None:
    for rank in (0, 1):
        for case in CASES:
            result = outcome("same", rank)[case]
            numbers = result["weights"].numel()
            assert result["sums"] == [numbers] * result["steps"]
            assert result["wrapped"] is False  # no reducer and no broadcast of buffers beside it
        accumulated = outcome("same", rank)["accumulated"]
        assert len(accumulated["seen"]) > accumulated["steps"]
    assert outcome("same-1")["plain"]["sums"] == []


def test_p19_processes_share_out_one_draw(outcome: Outcomes) -> None:
    for case in CASES:
        alone, *ranks = (by_step(outcome(*at)[case]) for at in (("same-1",), ("same",), ("same", 1)))
        for step, batches in alone.items():
            drawn = [index for batch in batches for index in batch]
            shares = [[index for batch in rank[step] for index in batch] for rank in ranks]
            assert len(ranks[0][step]) == len(ranks[1][step])  # micro-batches: one waits for the other
            if len(drawn) >= 2 * len(ranks[0][step]):  # nobody has a placeholder for examples that are missing
                assert sorted(shares[0] + shares[1]) == sorted(drawn)


def test_p18_a_draw_that_is_too_small_for_all_leaves_a_process_without_examples(outcome: Outcomes) -> None:
    """Then it trains on a placeholder, which must not count: the gradients are those of one process all the same."""
    alone, first, second = (by_step(outcome(*at)["plain"]) for at in (("same-1",), ("same",), ("same", 1)))
    small = [step for step, batches in alone.items() if sum(map(len, batches)) == 1]
    assert small
    for step in small:
        assert first[step] == alone[step]
        assert second[step] == [[0]]


def test_a_buffer_is_not_sent_around_and_taken_for_one_that_learns(outcome: Outcomes) -> None:
    alone = outcome("same-1")["late"]
    for rank in (0, 1):
        result = outcome("ways", rank)["ways"]["buffer"]
        assert result["caveats"] == alone["caveats"]
        close(result["weights"], alone["weights"])


@pytest.mark.parametrize(
    "way", ["own distributed sampler", "no distributed sampler", "unused parameters", "static graph"]
)
def test_other_ways_to_say_the_same_are_the_same(outcome: Outcomes, way: str) -> None:
    result = outcome("ways")["ways"][way]
    close(result["weights"], outcome("same-1")["plain"]["weights"])
    assert result["total_steps"] == 3 * STEPS
    assert result["sums"] == [result["weights"].numel()] * result["steps"]


def test_p24_manual_optimization_of_two_optimizers_is_the_same_in_two_processes(outcome: Outcomes) -> None:
    """The critic as in one process; the generator, which saw other noise in each, on the mean of its gradients."""
    alone, first, second = outcome("manual-1"), outcome("manual"), outcome("manual", 1)
    size = outcome("same-1")["plain"]["weights"].numel()
    close(first["weights"][:size], alone["weights"][:size])
    assert torch.equal(first["weights"], second["weights"])
    assert (first["epsilon"], first["steps"]) == (alone["epsilon"], alone["steps"])


def test_p24_a_process_that_leaves_out_a_step_of_its_own_ends_all(outcome: Outcomes) -> None:
    for rank in (0, 1):
        assert "do not make the same steps in the same batches" in outcome("manual", rank)["alone"]


def test_p24_line_searches_are_refused_where_each_process_has_its_own_loss(outcome: Outcomes) -> None:
    assert "LBFGS compares losses" in outcome("line_search")
    assert outcome("line_search") == outcome("line_search", 1)


def test_p27_training_without_privacy_in_the_same_processes_is_lightnings_own_again(outcome: Outcomes) -> None:
    first, second = outcome("ways"), outcome("ways", 1)
    for way, result in first["ways"].items():
        assert not result["forward"]
        assert result["distributed"] == (way != "no distributed sampler")
    assert len(first["bare"]) == len(second["bare"]) == 4  # 37 examples in batches of 5 for each process
    assert {index for batch in first["bare"] + second["bare"] for index in batch} == set(range(SIZE))
    assert torch.equal(first["bare_weights"], second["bare_weights"])


def test_p25_without_a_seed_processes_agree_on_draws_and_weights(outcome: Outcomes) -> None:
    first, second = outcome("unseeded"), outcome("unseeded", 1)
    assert torch.equal(first["weights"], second["weights"])
    assert first["epsilon"] == second["epsilon"] == outcome("same-1")["plain"]["epsilon"]
    mine, others = by_step(first), by_step(second)
    for step, batches in mine.items():
        shares = [{index for batch in each for index in batch} for each in (batches, others[step])]
        assert not shares[0] & shares[1] or shares[1] == {0}  # which is the placeholder
    assert first["seen"] != outcome("same")["plain"]["seen"]


def test_p26_resumed_in_two_processes_equals_uninterrupted_and_everything_is_charged(outcome: Outcomes) -> None:
    step, whole = repr(SampledGaussian(1.0, RATE)), outcome("same-1")["plain"]["weights"]
    for rank in (0, 1):
        result = outcome("resumed", rank)
        close(result["first"]["weights"], whole)
        close(result["second"]["weights"], whole)
        assert result["first"]["history"] == [(step, 24)]
        assert result["second"]["history"] == [(step, 24), (step, 16)]  # 8 to 24 were done and are done again
    assert outcome("resumed")["second"]["epsilon"] == outcome("resumed", 1)["second"]["epsilon"]


def test_p26_one_process_writes_the_journal(outcome: Outcomes) -> None:
    (journal,) = (outcome.folder / "resumed" / "privacy_ledger").iterdir()
    lines = [json.loads(line)["total"] for line in journal.read_text().splitlines()]
    assert lines == [*range(4, 25), *range(24, 41)]  # the count at each opening, and then one line for each step


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("size", "the number of train examples: 37 in process 0, 38 in process 1"),
        ("split", "the order or choice of the train examples"),
        ("part", "the order or choice of the train examples"),
        ("batch", "batch_size: 5 in process 0, 6 in process 1"),
        ("noise", "noise_multiplier: 1.0 in process 0, 2.0 in process 1"),
        ("bound", "clipping: FlatClipping with [('_max_grad_norm', '1.0')] in process 0, FlatClipping with [('_max_"),
        ("seed", "the seed of the noise: 0 in process 0, 1 in process 1"),
        ("ledger", "what the ledger holds: [] in process 0, [('GaussianRelease(noise_multiplier=4.0)', 1)] in process"),
    ],
)
def test_p19_processes_that_differ_are_told_what_in(outcome: Outcomes, case: str, words: str) -> None:
    for rank in (0, 1):
        said = outcome("disagreeing", rank)[case]
        assert said.startswith(f"the 2 processes do not agree on {words}")
        assert "To train privately together, " in said


def test_the_batch_is_explained_once(outcome: Outcomes) -> None:
    words = "batch_size=5 is the batch of a whole step, shared by 2 processes"
    assert outcome.said("resumed", 0).count(words) == 2  # for each fit
    assert words not in outcome.said("resumed", 1)
    assert "times accumulate_grad_batches=2, shared by 2 processes" in outcome.said("same", 0)
    assert "shared by" not in outcome.said("same-1", 0)


@pytest.mark.parametrize("name", ["forked", "spawned"])
def test_p26_the_program_that_starts_the_processes_knows_what_they_spent(outcome: Outcomes, name: str) -> None:
    result, alone = outcome(name), outcome("same-1")["plain"]
    close(result["weights"], alone["weights"])
    assert (result["epsilon"], result["caveats"]) == (alone["epsilon"], alone["caveats"])
    assert (result["noise_multiplier"], result["next_number"]) == (1.0, 24)


def test_p26_the_program_is_told_when_what_its_processes_spent_is_lost(outcome: Outcomes) -> None:
    result = outcome("forked_failing")
    assert "a fault of the module's own" in result["error"]
    assert any("what they spent is not counted here" in caveat for caveat in result["caveats"])


def test_torchrun(outcome: Outcomes, tmp_path: Path) -> None:
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    start(*launch, str(SCRIPT), str(tmp_path), folder=tmp_path)
    for rank in (0, 1):
        result = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        close(result["weights"], outcome("same-1")["plain"]["weights"])
        assert result["epsilon"] == outcome("same-1")["plain"]["epsilon"]


# An end for all


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("killed", lambda ends: ends[1] == -signal.SIGKILL and ends[0] == 1),
        ("failing", lambda ends: ends == [1, 1]),
        ("failing_early", lambda ends: ends == [1, 1]),
        ("stopping", lambda ends: ends[0] == 1),
    ],
)
def test_no_process_waits_for_one_that_is_gone(
    outcome: Outcomes, name: str, check: Callable[[list[int | None]], bool]
) -> None:
    assert check(outcome.ends(name)), (outcome.ends(name), outcome.said(name, 0)[-2000:])
    assert not (outcome.folder / name / "0.pt").exists()
