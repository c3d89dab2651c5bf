"""The command that serves: what it refuses, and the service itself, as processes on this machine."""

from __future__ import annotations

import datetime as dt
import http.client
import ipaddress
import json
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lightning_privacy.security import Key
from lightning_privacy.serving import ApiKeys, PredictorLedger, export, serve_command

# Interrupts are ignored by what a shell starts in the background, and by what that starts.
_COMMAND = (
    "import signal, sys; from lightning_privacy.serving import serve_command; "
    "signal.signal(signal.SIGINT, signal.default_int_handler); sys.exit(serve_command(sys.argv[1:]))"
)
_BODY = json.dumps({"inputs": [[0.1, 0.2, 0.3, 0.4]]})


@contextmanager
def _serving(*arguments):
    """A process that serves, and its port."""
    command = [
        sys.executable,
        "-c",
        _COMMAND,
        *map(str, arguments),
        "--port",
        "0",
        "--rate",
        "1e6",
        "--burst",
        "100000",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stdout:
                if line.startswith("Listening on"):
                    yield process, int(line.split()[2].rpartition(":")[2])
                    break
            else:
                raise AssertionError(process.stderr.read())
        finally:
            process.kill()


class _Client:
    """One connection with a key."""

    def __init__(self, port, key, context=None):
        connect = http.client.HTTPConnection if context is None else http.client.HTTPSConnection
        options = {} if context is None else {"context": context}
        self._connection = connect("127.0.0.1", port, timeout=60, **options)
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def ask(self, body=_BODY):
        """Status and, if answered, how many answers; None if the service is gone."""
        try:
            self._connection.request("POST", "/v1/predict", body, self._headers)
            response = self._connection.getresponse()
            content = json.loads(response.read())
        except (OSError, http.client.HTTPException):
            return None, 0
        return response.status, len(content.get("answers", ()))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._connection.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Of this machine, signed by itself."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


def test_a_budget_is_exact_under_50_clients_and_holds_after_a_kill(public_export, tmp_path, certificate):
    """50 clients at once, each with a budget of its own and all with a shared one; then the process is killed while
    it answers, and goes on with TLS. At no time is there an answer that the ledger does not know."""
    keys_file, ledger_file, key_file = (tmp_path / name for name in ("clients.json", "answers.db", "ledger.key"))
    names = ["shared", "killed", *(f"client {number}" for number in range(50))]
    keys = {name: ApiKeys.add(keys_file, name) for name in names}
    arguments = [
        public_export, "--api-keys", keys_file, "--mode", "noisy_argmax", "--epsilon", "0.1", "--budget", "3",
        "--ledger", ledger_file, "--key-file", key_file,
    ]  # fmt: skip
    twenty = json.dumps({"inputs": [[0.0] * 4] * 20})

    with _serving(*arguments) as (process, port):

        def own_and_shared(number):
            with _Client(port, keys[f"client {number}"]) as own, _Client(port, keys["shared"]) as shared:
                asked = [own.ask(twenty), shared.ask(), own.ask(twenty), shared.ask(), *(own.ask() for _ in range(11))]
            return sum(asked[place][1] for place in (0, 2, *range(4, 15))), asked[1][1] + asked[3][1]

        with ThreadPoolExecutor(50) as pool:
            own, shared = zip(*pool.map(own_and_shared, range(50)), strict=True)
        assert set(own) == {30}
        assert sum(shared) == 30

        counts: Counter[int | None] = Counter()
        lock = threading.Lock()

        def until_gone(_):
            with _Client(port, keys["killed"]) as client:
                status = 200
                while status is not None:
                    status, _ = client.ask()
                    with lock:
                        counts[status] += 1
                        if counts[200] == kill_after:
                            process.send_signal(signal.SIGKILL)

        kill_after = random.Random(0).randrange(5, 15)
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(until_gone, range(6)))
    assert counts[200] >= kill_after
    assert counts[403] == 0

    ledger = PredictorLedger(ledger_file, Key.from_file(key_file), create=False)
    charged = ledger.answers("killed")
    assert counts[200] <= charged <= counts[200] + 6  # what was on its way is charged, and lost
    assert ledger.answers("shared") == 30

    cert, cert_key = certificate
    context = ssl.create_default_context(cafile=str(cert))
    with _serving(*arguments, "--tls-cert", cert, "--tls-key", cert_key) as (process, port):
        with _Client(port, keys["killed"], context) as client:
            statuses = [client.ask()[0] for _ in range(30 - charged + 3)]
        assert statuses == [200] * (30 - charged) + [403] * 3
        with _Client(port, keys["shared"], context) as client:
            assert client.ask()[0] == 403
        with _Client(port, keys["shared"]) as client:
            assert client.ask()[0] is None  # not without TLS
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)
    assert ledger.answers("killed") == 30


def test_a_sealed_export_is_served_with_its_key_until_an_interrupt(small_network, tmp_path, capsys):
    key = Key.generate()
    key.save(tmp_path / "sealed.key")
    export(small_network, tmp_path / "model", example_input=torch.zeros(1, 4), formats=["torch"], key=key)
    assert serve_command([str(tmp_path / "model"), "--no-auth"]) == 1
    assert "--verify-key" in capsys.readouterr().err
    arguments = [tmp_path / "model", "--no-auth", "--verify-key", tmp_path / "sealed.key"]
    with _serving(*arguments) as (process, port):
        with _Client(port, "none") as client:
            assert client.ask() == (200, 1)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert "Traceback" not in process.stderr.read()


def test_a_key_is_made_for_a_client(tmp_path, capsys):
    path = tmp_path / "clients.json"
    assert serve_command(["--api-keys", str(path), "--add-client", "clinic"]) == 0
    said = capsys.readouterr()
    key = said.out.strip()
    assert ApiKeys.load(path).client_of(key) == "clinic"
    assert "shown this once" in said.err
    assert "already" not in said.err


def test_a_further_key_of_a_client_is_told_as_one(tmp_path, capsys):
    path = tmp_path / "clients.json"
    keys = []
    for client in ("clinic", "other", "clinic"):
        assert serve_command(["--api-keys", str(path), "--add-client", client]) == 0
        said = capsys.readouterr()
        keys.append(said.out.strip())
    assert "'clinic' had a key already, and it stays valid" in said.err
    assert [ApiKeys.load(path).client_of(key) for key in keys] == ["clinic", "other", "clinic"]


@pytest.mark.parametrize(
    ("arguments", "status", "named"),
    [
        ([], 2, "FOLDER is missing"),
        (["{model}", "--mode", "zoo"], 2, "--mode"),
        (["--add-client", "x"], 1, "--api-keys"),
        (["{model}"], 1, "either --api-keys FILE, or --no-auth"),
        (["{model}", "--no-auth", "--api-keys", "x"], 1, "either --api-keys FILE, or --no-auth"),
        (["{model}", "--api-keys", "{tmp}/x"], 1, "add-client"),
        (["{tmp}", "--no-auth"], 1, "no exported model"),
        (["{model}", "--no-auth", "--host", "0.0.0.0"], 1, "--no-auth is for this machine only"),
        (["{model}", "--api-keys", "x", "--host", "0.0.0.0"], 1, "plain text"),
        (["{model}", "--no-auth", "--tls-cert", "x"], 1, "belong together"),
        (["{model}", "--no-auth", "--tls-cert", "{tmp}/x", "--tls-key", "{tmp}/x"], 1, "No such file"),
        (["{model}", "--no-auth", "--port", "70000"], 1, "--port"),
        (["{model}", "--no-auth", "--host", "192.0.2.1", "--behind-proxy"], 1, "--no-auth"),
        (["{model}", "--no-auth", "--rate", "0"], 1, "per_second"),
        (["{model}", "--no-auth", "--threads", "0"], 1, "threads"),
        (["{model}", "--no-auth", "--mode", "noisy_argmax"], 1, "epsilon"),
        (["{model}", "--no-auth", "--mode", "noisy_argmax", "--epsilon", "1", "--budget", "5"], 1, "ledger_path"),
        (["{model}", "--no-auth", "--backend", "onnx"], 1, "backend"),
        (["{model}", "--no-auth", "--verify-key", "{tmp}/x"], 1, "x: there is no such file"),
    ],
    ids=[
        "nothing", "mode", "no file", "who", "both", "no keys", "no model", "exposed", "plain", "half tls", "no tls",
        "port", "proxy", "rate", "threads", "epsilon", "no ledger", "backend", "no key",
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_named(public_export, tmp_path, capsys, arguments, status, named):
    filled = [each.format(model=public_export, tmp=tmp_path) for each in arguments]
    assert serve_command(filled) == status
    assert named in capsys.readouterr().err


def test_a_ledger_without_its_key_file_is_not_begun_anew(public_export, tmp_path, capsys):
    ledger, key = tmp_path / "answers.db", tmp_path / "ledger.key"
    PredictorLedger(ledger, bytes(32))
    arguments = ["--no-auth", "--mode", "noisy_argmax", "--epsilon", "1", "--budget", "5"]
    assert serve_command([str(public_export), *arguments, "--ledger", str(ledger), "--key-file", str(key)]) == 1
    assert "needs its key" in capsys.readouterr().err
    assert not key.exists()


def test_a_port_that_is_taken_is_named(public_export, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert serve_command([str(public_export), "--no-auth", "--port", port]) == 1
    assert "can't be listened on" in capsys.readouterr().err
