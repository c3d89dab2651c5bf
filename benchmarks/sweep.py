"""Claim: a sweep of 3 x 2 runs in parallel loses nothing but the run that is killed, and reports what all of them cost.

The default experiment at three epsilons and two learning rates, two runs at a time. One run is killed (SIGKILL) in the
middle of its training. The others finish; the sweep's epsilon counts what the killed one had released. Then the sweep
is started again in its folder: it does the one run that is missing and leaves out those that are finished.

    python benchmarks/sweep.py              # all of it; writes benchmarks/results/sweep.json
    python benchmarks/sweep.py --quick      # a few steps a run; writes nothing unless told where
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _harness import hardware, parsed, parser_of, run_benchmark, show_claims

_PACKAGES = ("lightning-privacy", "torch", "pytorch-lightning", "hydra-core", "hydra-joblib-launcher", "joblib")
_EPSILONS, _RATES = (1, 3, 8), (0.0005, 0.002)
_VICTIM, _QUICK_VICTIM = "3", "1"
_PARALLEL = 2
_QUICK = ("trainer.max_epochs=2", "data.batch_size=720", "callbacks.plan=null")
_MOST_BYTES, _MOST_SECONDS = 2 * 10**6, 5.0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = parser_of(__doc__, rounds=1, threads=1, quick="a few steps a run")
    return parsed(parser, argv, result="sweep.json", complete=lambda given: given.threads == 1)


def _command(folder: Path, *, quick: bool) -> list[str]:
    swept = [
        f"callbacks.privacy.epsilon={','.join(map(str, _EPSILONS[:1] if quick else _EPSILONS))}",
        f"model.optimizer.lr={','.join(map(str, _RATES))}",
    ]
    launcher = ["hydra/launcher=joblib_parallel", f"hydra.launcher.n_jobs={_PARALLEL}"]
    settings = [f"hydra.sweep.dir={folder}", "compare_nonprivate=false", *(_QUICK if quick else ())]
    return [sys.executable, "-m", "lightning_privacy", "-m", *launcher, *settings, *swept]


def _sweep(folder: Path, log: Path, *, quick: bool, victim: str | None) -> dict[str, Any]:
    """Run the sweep; kill one run once it has taken some steps, if one is named."""
    start, killed = time.monotonic(), None
    with log.open("ab") as output:
        process = subprocess.Popen(_command(folder, quick=quick), stdout=output, stderr=output)
        while process.poll() is None:
            if victim is not None and killed is None:
                killed = _kill(folder, victim, after=1 if quick else 20)
            time.sleep(0.05)
    return {"status": process.returncode, "seconds": round(time.monotonic() - start, 1), "killed_after_steps": killed}


def _kill(folder: Path, run: str, *, after: int) -> int | None:
    """Kill a run whose journal has so many steps; returns how many there are then."""
    steps = _steps(folder / run)
    if steps < after:
        return None
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
            command = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # over, or somebody else's
        mine = f"LIGHTNING_PRIVACY_SWEEP_RUN={run}".encode() in environment
        if mine and b"sweep-job" in command and (process / "cwd").readlink() == Path.cwd():
            os.kill(int(process.name), signal.SIGKILL)
            return _steps(folder / run)
    return None


def _steps(run: Path) -> int:
    return sum(path.read_bytes().count(b'"release"') for path in (run / "privacy_ledger").glob("attempt_*.jsonl"))


def _composed(folder: Path) -> float:
    """Epsilon of all attempts by dp_accounting alone, from the files as they are."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.privacy_accountant import NeighboringRelation

    accountant = PLDAccountant(NeighboringRelation.REPLACE_SPECIAL)
    for path in sorted(folder.glob("*/privacy_ledger/attempt_*.jsonl")):
        totals: dict[str, int] = {}
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            if "release" in entry:  # the other lines are caveats
                totals[json.dumps(entry["release"])] = entry["total"]
        for text, count in totals.items():
            release = json.loads(text)
            event = GaussianDpEvent(release["noise_multiplier"])
            accountant.compose(PoissonSampledDpEvent(release["sample_rate"], event), count)
    return float(accountant.get_epsilon(1e-5))


def _read(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "sweep.json").read_text())
    return report


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    from lightning_privacy.report.sweep_command import tell_sweep

    machine = hardware(threads=arguments.threads, packages=_PACKAGES)
    victim = _QUICK_VICTIM if arguments.quick else _VICTIM
    runs = [str(number) for number in range(len(_RATES) * (1 if arguments.quick else len(_EPSILONS)))]
    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name, "sweep"), Path(name, "log.txt")
        first = _sweep(folder, log, quick=arguments.quick, victim=victim)
        lost, expected_lost = _read(folder), _composed(folder)
        again = _sweep(folder, log, quick=arguments.quick, victim=None)
        whole, expected = _read(folder), _composed(folder)
        events = [json.loads(line) for line in (folder / "attempts.jsonl").read_text().splitlines()]
        start = time.perf_counter()
        page = tell_sweep(folder)
        seconds, size = time.perf_counter() - start, page.stat().st_size
        if first["status"] != 1 or again["status"] != 0:
            print(log.read_text()[-4000:], file=sys.stderr)
    started = [event["run"] for event in events if event["event"] == "started"]
    claims = {
        "the other runs finish when one is killed": sorted(run["run"] for run in lost["runs"])
        == [run for run in runs if run != victim],
        "the killed run is told of, by exit status and report": first["status"] == 1
        and [(entry["run"], entry["status"]) for entry in lost["lost"]] == [(victim, "killed")],
        "its cost is known and counted": bool(lost["privacy"]["known"])
        and abs(lost["privacy"]["epsilon"] / expected_lost - 1) < 1e-6,
        "started again, the sweep does that run alone": again["status"] == 0
        and sorted(started) == sorted([*runs, victim]),
        "all attempts compose as dp_accounting says": bool(whole["privacy"]["known"])
        and abs(whole["privacy"]["epsilon"] / expected - 1) < 1e-6
        and expected > expected_lost,
        "the report is made in under 5 s and has under 2 MB": seconds < _MOST_SECONDS and size < _MOST_BYTES,
    }
    return {
        "benchmark": "sweep",
        "quick": arguments.quick,
        "runs": "default experiment, epsilon 1, 3, 8 x learning rate 0.0005, 0.002; two at a time; run 3 is killed",
        "hardware": machine | {"load_average_at_end": round(os.getloadavg()[0], 2)},
        "first": first | {"epsilon_of_the_sweep": lost["privacy"]["epsilon"]},
        "again": again | {"epsilon_of_the_sweep": whole["privacy"]["epsilon"]},
        "figures": {run["run"]: run["figures"] for run in whole["runs"]},
        "report": {"seconds": round(seconds, 2), "bytes": size},
        "claims": claims,
    }


def _format(result: dict[str, Any]) -> str:
    lines = [f"{'run':5}{'epsilon':>9}{'accuracy':>10}"]
    for run, figures in sorted(result["figures"].items()):
        lines.append(f"{run:5}{figures['epsilon']:9.3f}{figures['accuracy']:10.3f}")
    for name in ("first", "again"):
        part = result[name]
        lines.append(f"{name}: {part['seconds']:.0f} s, epsilon of the sweep {part['epsilon_of_the_sweep']:.3f}")
    lines.append(f"report: {result['report']['seconds']} s, {result['report']['bytes']} bytes")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Run it; the exit status is 1 where a claim doesn't hold."""
    results: list[dict[str, Any]] = []

    def run(arguments: argparse.Namespace) -> dict[str, Any]:
        results.append(_run(arguments))
        return results[0]

    run_benchmark(_parse(argv), run, _format)
    return show_claims(results[0]["claims"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
