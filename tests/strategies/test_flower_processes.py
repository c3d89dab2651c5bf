"""The readme of the example as it stands: SuperLink, two SuperNodes and a run, compared with the simulation."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "flower"
SECONDS = 240  # for a machine that is busy with other things; alone it takes a tenth

pytestmark = [
    pytest.mark.skipif(
        find_spec("flwr") is None, reason="flwr is not installed: pip install 'lightning-privacy[flower]'"
    ),
    pytest.mark.timeout(2 * SECONDS),
    pytest.mark.xdist_group("flower"),
]


def environment() -> dict[str, str]:
    """Ours, with the commands of this Python first and nothing that is reported to anybody."""
    here = str(Path(sys.executable).parent)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FLWR_", "LP_"))}
    return kept | {
        "PATH": here + os.pathsep + os.environ["PATH"],
        "OMP_NUM_THREADS": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "NO_PROXY": "127.0.0.1",
    }


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def blocks(*, secure: bool) -> list[str]:
    """The commands of the readme, on free ports; without TLS in the way that its last paragraph says."""
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    for port, free in zip(("8000", "9094", "9095"), free_ports(3), strict=True):
        text = text.replace(port, str(free))
    found = [block.replace("\\\n", " ") for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)]
    assert len(found) == 6
    if secure:
        return found
    found = [re.sub(r"root-certificates = .*", "insecure = true", block) for block in found]
    found = [re.sub(r"--(ssl-\S+|root-certificates|auth-supernode-private-key) \S+|--enable-\S+", "", b) for b in found]
    return [re.sub(r"(flower-super(?:link|node)) ", r"\1 --insecure ", block) for block in found]


@contextmanager
def running(command: str, folder: Path, name: str) -> Iterator[None]:
    """A process that goes on in the background, ended with all that it started."""
    with (folder / name).open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command.strip()}"],
            cwd=folder,
            env=environment() | {"FLWR_HOME": str(folder / ".flwr")},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def shell(script: str, folder: Path) -> str:
    """Run a block of the readme to its end."""
    done = subprocess.run(
        ["bash", "-ec", script],
        cwd=folder,
        env=environment() | {"FLWR_HOME": str(folder / ".flwr")},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    logs = "\n".join(path.read_text(errors="replace")[-3000:] for path in folder.glob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    return done.stdout + logs


def wait_for(port: int, log: Path) -> None:
    """Until something listens."""
    end = time.monotonic() + SECONDS / 2
    while time.monotonic() < end:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail(f"nothing listens on {port}: {log.read_text(errors='replace')}")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("simulated") / "app"
    shutil.copytree(EXAMPLE, folder)
    shell('python -c \'from simulate import main; main(1, "1.pt"); main(3, "3.pt")\'', folder)
    return {rounds: torch.load(folder / f"{rounds}.pt", weights_only=True) for rounds in (1, 3)}


# Flower starts a process per message, which imports torch and Lightning: without TLS one round is enough.
@pytest.mark.parametrize(("secure", "rounds"), [(False, 1), (True, 3)], ids=["insecure", "tls"])
def test_the_readme_trains_what_the_simulation_trains(secure, rounds, simulated, tmp_path):
    expected = simulated[rounds]
    folder = tmp_path / "app"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("keys", ".flwr", "*.ckpt*", "*.pt", "__pycache__"))
    prepare, link, register, first, second, run = blocks(secure=secure)
    shell(prepare, folder)
    port = int(re.search(r"--port (\d+)", link)[1])
    with ExitStack() as stack:
        stack.enter_context(running(link, folder, "link.log"))
        wait_for(port, folder / "link.log")
        if secure:
            shell(register, folder)
        stack.enter_context(running(first, folder, "first.log"))
        stack.enter_context(running(second, folder, "second.log"))
        printed = shell(run if rounds == 3 else f"{run.strip()} --run-config num-server-rounds={rounds}", folder)
    state = torch.load(folder / "model.ckpt", weights_only=True)
    assert state["next_round"] == rounds, printed
    assert state["state_dict"].keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(state["state_dict"][name], tensor, rtol=0, atol=1e-5, msg=name)
    assert float((expected["net.3.weight"] - nothing_learned()).abs().max()) > 0.01


def nothing_learned() -> torch.Tensor:
    """The last layer as it was before training, with the example's seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.nn.Linear(64, 32)
        return torch.nn.Linear(32, 10).weight.detach()
