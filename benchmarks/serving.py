"""Claim: the service answers at least 200 requests a second for PersonaNet on two cores, with and without a budget.

Server and clients are processes of one machine and share its cores. Each client has one connection, sends one image,
waits for the answer, and sends the next. With a budget every answer is on the disk before it is given. Beside the
service, what it is made of: the model by itself, and a commit of the ledger by itself.

    python benchmarks/serving.py                    # all of it; writes benchmarks/results/serving.json
    python benchmarks/serving.py --rounds 1         # part of it; writes nothing unless told where
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _harness import hardware, parsed, parser_of, run_benchmark

_PACKAGES = ("lightning-privacy", "torch", "onnxruntime", "fastapi", "starlette", "uvicorn")
_ROUNDS, _SECONDS, _TARGET = 3, 5, 200.0
_CONCURRENCIES = (1, 8, 50)
_NOISY = ("--mode", "noisy_argmax", "--epsilon", "0.001", "--budget", "100000")
_MODES = {
    "label": ("label only, no budget", ()),
    "noisy_argmax": ("noisy argmax, each answer charged on the disk before it is given", _NOISY),
}
_COMMAND = "import sys; from lightning_privacy.serving import serve_command; sys.exit(serve_command(sys.argv[1:]))"


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = parser_of(__doc__, rounds=_ROUNDS, threads=1, quick="half a second each")
    parser.add_argument("--seconds", type=int, default=_SECONDS, help="of a round, for each mode and number of clients")
    return parsed(
        parser,
        argv,
        result="serving.json",
        complete=lambda given: given.threads == 1 and given.rounds >= _ROUNDS and given.seconds >= _SECONDS,
        numbers=("rounds", "threads", "seconds"),
    )


class _Server:
    """A service in a process of its own."""

    def __init__(self, folder: Path, mode: str, options: tuple[str, ...]) -> None:
        from lightning_privacy.serving import ApiKeys

        keys = folder / f"{mode}.clients.json"
        self.key = ApiKeys.add(keys, "benchmark")
        ledger = ("--ledger", str(folder / "answers.db"), "--key-file", str(folder / "ledger.key")) if options else ()
        command = [sys.executable, "-c", _COMMAND, str(folder / "model"), "--api-keys", str(keys), *options, *ledger]
        command += ["--port", "0", "--rate", "1e6", "--burst", "1000000"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout or ():
            if line.startswith("Listening on"):
                self.port = int(line.split()[2].rpartition(":")[2])
                return
        raise RuntimeError("the service did not start")

    def processor_seconds(self) -> float:
        """What the process has used of the processors so far (Linux)."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate(timeout=30)


def _load(server: _Server, bodies: list[str], *, clients: int, seconds: float) -> dict[str, Any]:
    """Ask from several threads for some seconds; statuses, requests a second, latencies."""
    statuses: Counter[int] = Counter()
    latencies: list[float] = []
    lock, ready = threading.Lock(), threading.Barrier(clients + 1)
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}

    def ask(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        mine: list[float] = []
        seen: Counter[int] = Counter()
        ready.wait()
        end = time.perf_counter() + seconds
        count = number
        while (start := time.perf_counter()) < end:
            connection.request("POST", "/v1/predict", bodies[count % len(bodies)], headers)
            response = connection.getresponse()
            response.read()
            seen[response.status] += 1
            mine.append(time.perf_counter() - start)
            count += 1
        connection.close()
        with lock:
            statuses.update(seen)
            latencies.extend(mine)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    ready.wait()
    start, own, servers = time.perf_counter(), time.process_time(), server.processor_seconds()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - start
    own, servers = time.process_time() - own, server.processor_seconds() - servers
    requests = max(1, sum(statuses.values()))
    ordered = sorted(latencies)
    return {
        "clients": clients,
        "requests_per_second": round(statuses[200] / took, 1),
        "not_answered": sum(statuses.values()) - statuses[200],
        "server_processor_milliseconds": round(1e3 * servers / requests, 3),
        "clients_processor_milliseconds": round(1e3 * own / requests, 3),
        "median_milliseconds": round(1e3 * statistics.median(ordered), 2),
        "p99_milliseconds": round(1e3 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 2),
    }


def _middle(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One cell of several rounds."""
    found = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    found["best_requests_per_second"] = max(each["requests_per_second"] for each in rounds)
    found["not_answered"] = sum(each["not_answered"] for each in rounds)
    return found


def _parts(folder: Path, images: Any) -> dict[str, float]:
    """Milliseconds of what an answer is made of."""
    from lightning_privacy import LaplaceRelease
    from lightning_privacy.serving import Limits, Order, PredictorLedger, load_exported

    found = {}
    for backend in ("onnx", "onnx-int8", "torch"):
        model = load_exported(folder / "model", backend=backend)
        found[f"one image, {backend}"] = _milliseconds(lambda model=model: model(images[:1]))
    ledger = PredictorLedger(folder / "parts.db", bytes(32))
    order, limits = [Order("a", LaplaceRelease(0.001))], Limits(budget=1e6)
    found["one entry in the ledger"] = _milliseconds(lambda: ledger.charge(order, limits))
    return found


def _milliseconds(step: Any) -> float:
    times = []
    for _ in range(40):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return round(1e3 * statistics.median(times), 3)


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    # Not at the top: the libraries read the number of threads from the environment when they are imported.
    import torch

    from lightning_privacy.models import PersonaNet
    from lightning_privacy.serving import DeclaredData, export

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    machine = hardware(threads=arguments.threads, packages=_PACKAGES)
    images = torch.rand(64, 1, 28, 28).mul(255).round().div(255)
    bodies = [json.dumps({"inputs": [[[[round(v, 4) for v in row] for row in image[0].tolist()]]]}) for image in images]
    cells: list[dict[str, Any]] = []
    seconds = 0.5 if arguments.quick else float(arguments.seconds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = DeclaredData(images, source="public")
        export(PersonaNet(), folder / "model", example_input=images, quantise="static", calibration=data)
        for mode, (description, options) in _MODES.items():
            with _Server(folder, mode, options) as server:
                _load(server, bodies, clients=4, seconds=min(1.0, seconds))  # first allocations
                rounds = [
                    [_load(server, bodies, clients=clients, seconds=seconds) for clients in _CONCURRENCIES]
                    for _ in range(arguments.rounds)
                ]
            cells += [{"mode": mode, "description": description, **_middle(each)} for each in zip(*rounds, strict=True)]
        parts = _parts(folder, images)
    return {
        "benchmark": "serving",
        "quick": arguments.quick,
        "rounds": arguments.rounds,
        "seconds_of_a_round": seconds,
        "figures": "medians over rounds; best: the round least disturbed by other processes",
        "model": "PersonaNet, 28x28 images as JSON, one in a request; onnxruntime with one thread",
        "bytes_of_a_request": len(bodies[0]),
        "target_requests_per_second": _TARGET,
        "hardware": machine | {"load_average_at_end": round(os.getloadavg()[0], 2)},
        "milliseconds": parts,
        "cells": cells,
    }


def _format(result: dict[str, Any]) -> str:
    times = f"{'median ms':>11}{'p99 ms':>9}{'server cpu':>12}{'clients cpu':>12}"
    lines = [f"{'mode':16}{'clients':>8}{'requests/s':>12}{'best':>8}{times}"]
    for cell in result["cells"]:
        lines.append(
            f"{cell['mode']:16}{cell['clients']:8}{cell['requests_per_second']:12.1f}"
            f"{cell['best_requests_per_second']:8.1f}{cell['median_milliseconds']:11.2f}{cell['p99_milliseconds']:9.2f}"
            f"{cell['server_processor_milliseconds']:12.2f}{cell['clients_processor_milliseconds']:12.2f}"
        )
    lines += [f"{name}: {value:.3f} ms" for name, value in result["milliseconds"].items()]
    machine = result["hardware"]
    lines.append(
        f"target: {result['target_requests_per_second']:.0f} requests/s; {machine['cores']} cores, {machine['cpu']}, "
        f"load average {machine['load_average_at_start']} to {machine['load_average_at_end']}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_benchmark(_parse(sys.argv[1:]), _run, _format))
