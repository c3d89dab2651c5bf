"""A whole run's folder, and a headless browser for pages: Chromium, spoken to over its DevTools pipe."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_privacy.accounting import LaplaceRelease, PrivacyLedger, SampledGaussian
from lightning_privacy.audit.audit_file import AuditCurve, AuditImage, AuditResult
from lightning_privacy.callbacks._fairness_files import write_records
from lightning_privacy.callbacks.classification_tally import CLASSIFICATION_FILE, Tally
from lightning_privacy.fairness import GroupSample
from lightning_privacy.fairness.table import FairnessTable
from lightning_privacy.preparation.preparation_report import PreparationReport
from lightning_privacy.preparation.step import StepReport
from lightning_privacy.report import Guarantee, Outcome, RunSummary
from lightning_privacy.report.environment import write_environment
from lightning_privacy.report.ledger_file import write_ledger

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_PATIENCE = 120.0  # the machine may be busy with other tests
# Contrast of text as WCAG 2.1 (1.4.3) defines it, for what has text of its own; and what is wider than the window.
_LOOK = """(() => {
  const channels = text => (text.match(/[\\d.]+/g) || [0, 0, 0]).map(Number);
  const light = rgb => rgb.slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const blend = (top, below) => top.slice(0, 3).map((c, i) => c * (top[3] ?? 1) + below[i] * (1 - (top[3] ?? 1)));
  const behind = element => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const text = getComputedStyle(e).backgroundColor;
      const parts = channels(text.replace('color(srgb', ''));
      const c = text.startsWith('color(srgb') ? parts.map((v, i) => i < 3 ? v * 255 : v) : parts;
      if ((c[3] ?? 1) > 0) layers.push(c);
      if ((c[3] ?? 1) === 1) break;
    }
    return layers.reverse().reduce((below, top) => blend(top, below), [255, 255, 255]);
  };
  const faint = [];
  let texts = 0;
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || e.classList.contains('skip') || !e.getClientRects().length) continue;
    texts += 1;
    const style = getComputedStyle(e);
    const svg = e instanceof SVGElement;
    const a = light(channels(svg ? style.fill : style.color));
    const b = light(behind(svg ? e.closest('svg').parentElement : e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = parseFloat(style.fontSize) >= 24;
    if (ratio < (large ? 3 : 4.5)) faint.push([e.tagName, ratio.toFixed(2), e.textContent.trim().slice(0, 30)]);
  }
  return {
    faint, texts, width: document.documentElement.scrollWidth, window: window.innerWidth,
    height: document.documentElement.scrollHeight,
    title: document.title, headings: [...document.querySelectorAll('h1,h2,h3')].map(h => h.tagName),
    unnamed: [...document.querySelectorAll('svg,img,[role=region]')].filter(e =>
      !(e.getAttribute('aria-label') || e.getAttribute('alt'))).length,
    ids: [...document.querySelectorAll('[id]')].map(e => e.id),
    links: [...document.querySelectorAll('a[href^="#"]')].map(e => e.getAttribute('href').slice(1)),
    smallest: Math.min(...[...document.querySelectorAll('svg text')].map(e => e.getBoundingClientRect().height)),
    scripts: document.querySelectorAll('script,[onload],[onerror],[onclick],iframe,object,embed').length,
  };
})()"""


@dataclass
class Seen:
    """What a page was found to be."""

    look: dict[str, Any]
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    screenshot: bytes = b""


class Browser:
    """One browser process; each page is looked at in a tab of its own."""

    def __init__(self, program: str, profile: Path) -> None:
        read_here, write_there = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in os.pipe())
        read_there, write_here = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in os.pipe())

        def arrange() -> None:
            os.dup2(read_there, 3)
            os.dup2(write_there, 4)

        arguments = [
            "--headless=new",
            "--remote-debugging-pipe",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-first-run",
        ]
        arguments += ["--disable-dev-shm-usage", "--disable-background-networking", f"--user-data-dir={profile}"]
        if os.geteuid() == 0:
            arguments.append("--no-sandbox")
        self.process = subprocess.Popen(
            [program, *arguments, "about:blank"],
            preexec_fn=arrange, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read_there)
        os.close(write_there)
        self._read, self._write = read_here, write_here
        self._buffer = b""
        self._next = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events that come meanwhile are kept."""
        self._next += 1
        number = self._next
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def wait(self, method: str) -> None:
        """Wait for an event."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._message())

    def _message(self) -> dict[str, Any]:
        deadline = time.monotonic() + _PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError("the browser does not answer")
            received = os.read(self._read, 1 << 20)
            if not received:
                raise ConnectionError("the browser has ended")
            self._buffer += received
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def look(self, path: Path, *, width: int, dark: bool = False, printed: bool = False) -> Seen:
        """Open a page.

        Args:
            path: Of the page.
            width: Of the window.
            dark: Whether the reader prefers dark colours.
            printed: Whether it is laid out for paper.
        """
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable", session)
        self.call(
            "Emulation.setDeviceMetricsOverride", session, width=width, height=900, deviceScaleFactor=1,
            mobile=width < 600,
        )  # fmt: skip
        self.call(
            "Emulation.setEmulatedMedia", session, media="print" if printed else "screen",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )  # fmt: skip
        self.events.clear()
        self.call("Page.navigate", session, url=path.as_uri())
        self.wait("Page.loadEventFired")
        found = self.call("Runtime.evaluate", session, expression=_LOOK, returnByValue=True)
        assert "exceptionDetails" not in found, found
        look = found["result"]["value"]
        shot = self.call(
            "Page.captureScreenshot", session, format="png", captureBeyondViewport=True,
            clip={"x": 0, "y": 0, "width": width, "height": min(look["height"], 12_000), "scale": 1},
        )  # fmt: skip
        events, self.events = self.events, []
        self.call("Target.closeTarget", targetId=target)
        errors = [
            json.dumps(event["params"])
            for event in events
            if event.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        ]
        requests = [
            event["params"]["request"]["url"] for event in events if event.get("method") == "Network.requestWillBeSent"
        ]
        return Seen(look, errors, requests, base64.b64decode(shot["data"]))

    def pdf(self, path: Path) -> bytes:
        """Print a page."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable", session)
        self.events.clear()
        self.call("Page.navigate", session, url=path.as_uri())
        self.wait("Page.loadEventFired")
        data = self.call("Page.printToPDF", session, preferCSSPageSize=True)["data"]
        self.call("Target.closeTarget", targetId=target)
        return base64.b64decode(data)

    def close(self) -> None:
        """End the browser."""
        self.call("Browser.close")
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._write)
        os.close(self._read)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A browser, where there is one."""
    program = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser to open pages with: none of {', '.join(_NAMES)} is installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        running = Browser(program, Path(profile))
        try:
            running.call("Browser.getVersion")
        except (TimeoutError, ConnectionError) as error:
            running.process.kill()
            running.process.wait()
            pytest.skip(f"{program} does not start here: {error}")
        yield running
        running.close()


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with everything a report can have; for reading."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    folder.mkdir()
    fill_run(folder)
    return folder


@pytest.fixture
def run_copy(whole_run: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return Path(shutil.copytree(whole_run, tmp_path / "run"))


def fill_run(folder: Path) -> None:
    """Write what a run leaves, with the writers that a run uses."""
    ledger = PrivacyLedger(delta=1e-5, budget=3.0)
    ledger.charge(LaplaceRelease(epsilon=0.05), label="class counts")
    ledger.charge(SampledGaussian(noise_multiplier=4.9, sample_rate=0.35), count=80, label="training")
    ledger.add_caveat("Logged while training: train/loss. What such a metric takes is neither bounded nor noised.")
    write_ledger(folder, ledger)
    outcome = Outcome(80, 12.5, train={"acc": 0.91, "loss": 0.3}, test={"acc": 0.9, "loss": 0.32})
    RunSummary(outcome, Guarantee.of(ledger), Outcome(80, 9.0, {"acc": 1.0}, {"acc": 0.98})).write(folder)
    write_environment(folder, ["callbacks.privacy.epsilon=3"])
    (folder / "config.yaml").write_text(
        "seed: 0\ndata:\n  _target_: some.DigitsDataModule\n  token: hush\nmodel:\n  backbone:\n"
        "    _target_: some.PersonaNet\ncallbacks:\n  privacy:\n    epsilon: 3.0\n"
    )
    metrics = folder / "metrics"
    metrics.mkdir()
    lines = [("epoch,step,privacy/epsilon,train/loss,val/loss,train/acc,federated/loss,federated/loss_best,"
             "federated/loss_worst")]  # fmt: skip
    for step in range(80):
        value = 2.3 / (1 + step / 10)
        lines.append(f"{step // 8},{step},{0.3 * (1 + step) ** 0.5},{value},,{1 - value / 3},{value},,")
        lines.append(f"{step // 8},{step},,,{value * 1.1},,,{value * 0.8},{value * 1.3}")
    (metrics / "metrics.csv").write_text("\n".join(lines) + "\n")
    counts = torch.tensor([[[40, 10], [10, 40]], [[20, 30], [5, 45]], [[1, 0], [0, 1]]])
    table = FairnessTable.of(GroupSample(counts), attribute="gender", group_names=("female", "male", "other"),
                             min_group_size=30)  # fmt: skip
    about = {"stage": "test", "epoch": 9, "step": 80, "dataloader": 0}
    write_records(metrics / "fairness", "test-step=80", [about | record for record in table.records()])
    tally = Tally()
    tally.add(target=[0, 1, 2, 2, 1], predicted=[0, 1, 2, 1, 1], confidence=[0.9, 0.8, 0.95, 0.4, 0.6])
    (folder / CLASSIFICATION_FILE).write_text(json.dumps(tally.values()))
    steps = (StepReport("deduplicate", 1200, 1100, caveats=("compares",), private="compares"),
             StepReport("age", 1100, 1100, {"age": 33}, private="released"))  # fmt: skip
    (folder / "preparation.json").write_text(
        json.dumps({**PreparationReport(steps, peak_memory=2**20).to_dict(), "counts": {"train": 1000}})
    )
    AuditResult(
        kind="canaries", title="Canaries in one run", verdict="holds", sentence="At least 0.4 was shown; 3 promised.",
        rows=(("Lower bound", "0.40"), ("Promised", "3.00")),
        curves=(AuditCurve("found out", (0.0, 10.0, 20.0), (0.0, 7.0, 11.0), "guesses", "right ones"),),
    ).write(folder)  # fmt: skip
    AuditResult(
        kind="inversion", title="Pictures from updates", verdict="measured", sentence="Nothing is seen.",
        images=(AuditImage("what was sent", tuple(tuple((i + j) / 14 for i in range(8)) for j in range(8))),),
        curves=(AuditCurve("roc", (0.001, 0.01, 1.0), (0.002, 0.02, 1.0), "FPR", "TPR", log=True),),
    ).write(folder)  # fmt: skip
