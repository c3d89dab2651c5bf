"""What every benchmark needs: pinned threads, interleaved timing, peak memory, hardware, result files.

Imports no torch, so that thread counts can be fixed in the environment before torch reads them.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import platform
import statistics
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from ctypes import CDLL
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = [
    "Timing",
    "hardware",
    "interleave",
    "machine_line",
    "mapped_allocations",
    "parsed",
    "parser_of",
    "peak_resident_bytes",
    "pin_threads",
    "run_benchmark",
    "show_claims",
    "write_result",
]

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_MAX_STEPS = 20
_FEWEST_ROUNDS = 3
_SETTLE_BELOW_SECONDS = 1.0
_SELF = Path("/proc/self")


def pin_threads(threads: int) -> None:
    """Fix the number of threads of libraries that are not imported yet.

    Args:
        threads: at least 1.

    Raises:
        ValueError: ``threads`` is below 1.
    """
    if threads < 1:
        raise ValueError(f"threads must be >= 1, got {threads}")
    for variable in _THREAD_VARIABLES:
        os.environ[variable] = str(threads)


@dataclass
class Timing:
    """Seconds per step of one contender: for each round the seconds of its steps, on the clock and of processors."""

    rounds: list[list[float]] = field(default_factory=list)
    processor_rounds: list[list[float]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Median over rounds of the median step of a round."""
        return statistics.median(statistics.median(steps) for steps in self.rounds)

    @property
    def best_seconds(self) -> float:
        """The fastest step of all: the figure least disturbed by other processes."""
        return min(min(steps) for steps in self.rounds)

    def multiple_of(self, other: Timing) -> float:
        """Median over rounds of this one's time divided by the other's in the same round."""
        return _multiple(self.rounds, other.rounds)

    def processor_multiple_of(self, other: Timing) -> float:
        """The same for processor time over all threads; it hardly notices other processes if threads wait asleep."""
        return _multiple(self.processor_rounds, other.processor_rounds)


def _multiple(these: list[list[float]], those: list[list[float]]) -> float:
    pairs = zip(these, those, strict=True)
    return statistics.median(statistics.median(a) / statistics.median(b) for a, b in pairs)


def interleave(
    steps: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    turn_seconds: float = 0.5,
    enough_seconds: float = float("inf"),
    synchronize: Callable[[], None] = lambda: None,
) -> dict[str, Timing]:
    """Time several callables in turn, round by round.

    A turn has one step at least. Its first step is not counted where a step is short:
    it pays for what the contender before left in the caches. Whoever starts changes from round to round.

    Args:
        steps: name to step.
        rounds: how often each one has its turn.
        turn_seconds: about how long a turn takes.
        enough_seconds: after so long no round begins, once there were three.
        synchronize: waits until the device is done; called before each look at the clock.
    """

    def timed(step: Callable[[], object]) -> tuple[float, float]:
        synchronize()
        start, start_processor = time.perf_counter(), time.process_time()
        step()
        synchronize()
        return time.perf_counter() - start, time.process_time() - start_processor

    for step in steps.values():
        step()  # compilation, first allocations
    length = {name: timed(step)[0] for name, step in steps.items()}
    names = list(steps)
    timings = {name: Timing() for name in names}
    start = time.monotonic()
    for number in range(rounds):
        if number >= _FEWEST_ROUNDS and time.monotonic() - start > enough_seconds:
            break
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            gc.collect()
            if length[name] < _SETTLE_BELOW_SECONDS:
                steps[name]()
            count = max(1, min(_MAX_STEPS, round(turn_seconds / length[name])))
            clock, processor = zip(*(timed(steps[name]) for _ in range(count)), strict=True)
            timings[name].rounds.append(list(clock))
            timings[name].processor_rounds.append(list(processor))
    return timings


@contextmanager
def mapped_allocations() -> Any:
    """Let processes started here give every freed block above 64 KiB back to the system at once.

    Without it glibc keeps freed memory, and resident memory says little about what a step needs.
    """
    variable = "MALLOC_MMAP_THRESHOLD_"
    before = os.environ.get(variable)
    os.environ[variable] = str(2**16)
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


def _resident(field_name: str) -> int:
    for line in (_SELF / "status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field_name:
            return int(value.split()[0]) * 1024
    raise OSError(f"/proc/self/status has no {field_name}")


def peak_resident_bytes(run: Callable[[], object]) -> int:
    """Return by how much resident memory grew at its peak while ``run`` ran (Linux).

    Args:
        run: what to measure. Call it in a process of its own, started within :func:`mapped_allocations`, after
            something like it has run at a small size, so that code pages are in memory.

    Raises:
        OSError: the system can't reset its peak, or doesn't report it.
    """
    gc.collect()
    CDLL("libc.so.6").malloc_trim(0)
    (_SELF / "clear_refs").write_text("5")  # resets VmHWM to the present size
    before = _resident("VmRSS")
    run()
    return max(0, _resident("VmHWM") - before)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: the platform module knows a shorter name
    return platform.processor() or platform.machine()


def hardware(*, threads: int, packages: Sequence[str], device: str | None = None) -> dict[str, Any]:
    """Describe machine and software.

    Args:
        threads: what :func:`pin_threads` was given.
        packages: distributions whose versions matter.
        device: name of the accelerator, if one is used.
    """
    try:
        cores = len(os.sched_getaffinity(0))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError):  # not Linux
        cores, memory = os.cpu_count() or 1, float("nan")
    return {
        "cpu": _processor(),
        "cores": cores,
        "threads": threads,
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
        "memory_gib": round(memory, 1),
        "accelerator": device,
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def machine_line(machine: Mapping[str, Any]) -> str:
    """Return the last line of a table: the machine, and how busy it was.

    Args:
        machine: what :func:`hardware` gave, with the ``load_average_at_end``.
    """
    return (
        f"{machine['threads']} thread(s), {machine['cpu']}, load average {machine['load_average_at_start']} to "
        f"{machine['load_average_at_end']}"
    )


def show_claims(claims: Mapping[str, bool], about: str = "") -> int:
    """Print which claims hold.

    Args:
        claims: name to whether it holds.
        about: what comes before each.

    Returns:
        The exit status: 1 where one doesn't.
    """
    for claim, holds in claims.items():
        print(f"{'holds' if holds else 'FAILS'}: {about}{claim}", flush=True)
    return int(not all(claims.values()))


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write ``result`` as JSON, whole or not at all.

    Args:
        path: the file; its folder is made when missing.
        result: plain Python types.
    """
    text = json.dumps(result, indent=1, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def parser_of(doc: str | None, *, rounds: int, threads: int, quick: str) -> ArgumentParser:
    """Return a parser of what all benchmarks understand.

    Args:
        doc: the benchmark's docstring, whose first line is its claim.
        rounds: how many there are unless told otherwise.
        threads: likewise.
        quick: what ``--quick`` makes small.
    """
    parser = ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--quick", action="store_true", help=f"{quick}: shows that it runs, measures nothing")
    parser.add_argument("--output", type=Path, help="result file; a complete run has a place of its own")
    return parser


def parsed(
    parser: ArgumentParser,
    argv: Sequence[str],
    *,
    result: str,
    complete: Callable[[Namespace], bool],
    numbers: Sequence[str] = ("rounds", "threads"),
) -> Namespace:
    """Read a command line; a complete run gets the file of the committed result as its output.

    Args:
        parser: as :func:`parser_of` makes it, with the benchmark's own arguments.
        argv: the command line without the program's name.
        result: name of the committed result.
        complete: whether a run that is not quick is all of the benchmark.
        numbers: arguments that must be at least 1; others end the program with a message.
    """
    arguments = parser.parse_args(argv)
    for name in numbers:
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be >= 1, got {getattr(arguments, name)}")
    if arguments.output is None and not arguments.quick and complete(arguments):
        arguments.output = Path(__file__).parent / "results" / result
    return arguments


def run_benchmark(
    arguments: Namespace,
    run: Callable[[Namespace], dict[str, Any]],
    text: Callable[[dict[str, Any]], str] | None = None,
) -> int:
    """Run a benchmark with its number of threads, show its result and write it if it has a file.

    Args:
        arguments: the command line, with ``threads`` and ``output``.
        run: the benchmark.
        text: of its result, for those that print nothing themselves.

    Returns:
        The exit status.
    """
    pin_threads(arguments.threads)
    result = run(arguments)
    if text is not None:
        print(text(result))
    if arguments.output is not None:
        write_result(arguments.output, result)
        print(f"written to {arguments.output}")
    return 0
