"""``lightning-privacy serve FOLDER``: answers over HTTP what an exported model says, with protection.

    lightning-privacy serve --api-keys clients.json --add-client clinic      # shows a new key, once
    lightning-privacy serve model --api-keys clients.json
    lightning-privacy serve model --api-keys clients.json --mode noisy_argmax --epsilon 1 --budget 50 \
        --ledger answers.db --key-file answers.key

It listens on this machine only, unless told otherwise, and on other addresses only with TLS.

Example:
    >>> serve_command(["nowhere", "--no-auth"])
    1
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import logging
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lightning_privacy.errors import ConfigurationError, LightningPrivacyError
from lightning_privacy.security.keys import Key
from lightning_privacy.serving.answers import MODES
from lightning_privacy.serving.api_keys import ApiKeys
from lightning_privacy.serving.exported_model import load_exported
from lightning_privacy.serving.private_predictor import PrivatePredictor
from lightning_privacy.serving.service import ServiceLimits, create_app

__all__ = ["serve_command"]


def serve_command(argv: Sequence[str]) -> int:
    """Serve until the process is told to stop (SIGINT, SIGTERM).

    Args:
        argv: What follows ``lightning-privacy serve``.

    Returns:
        The exit status: 0, 1 after an error whose message is on the error stream, 2 after a wrong command line.
    """
    try:
        arguments = _parse(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    try:
        return _add_client(arguments) if arguments.add_client is not None else _serve(arguments)
    except (LightningPrivacyError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201 - the command's own output
        return 1


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="lightning-privacy serve", description="Answer over HTTP what an exported model says, with protection."
    )
    parser.add_argument("folder", nargs="?", type=Path, help="what `export` wrote")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000, help="0 for any that is free (default 8000)")
    who = parser.add_argument_group("who may ask")
    who.add_argument("--api-keys", type=Path, metavar="FILE", help="clients and the hashes of their keys")
    who.add_argument("--add-client", metavar="NAME", help="make a key for a client, show it, and end")
    who.add_argument("--no-auth", action="store_true", help="anybody on this machine, all with one budget")
    answers = parser.add_argument_group("answers")
    answers.add_argument("--mode", choices=list(MODES), default="label")
    answers.add_argument("--epsilon", type=float, help="of one answer, for modes with noise")
    answers.add_argument("--budget", type=float, help="epsilon for each client")
    answers.add_argument("--total-budget", type=float, help="epsilon for all clients together")
    answers.add_argument("--max-answers", type=int, help="answers for each client, in any mode")
    answers.add_argument("--decimals", type=int, help="of --mode rounded (default 2)")
    answers.add_argument(
        "--sensitivity", type=float, help="how far one training record can move the scores (default 1)"
    )
    answers.add_argument("--ledger", type=Path, metavar="FILE", help="account of the answers; needed with a limit")
    answers.add_argument("--key-file", type=Path, metavar="FILE", help="key of the account; both are made when missing")
    model = parser.add_argument_group("model")
    model.add_argument("--backend", choices=["auto", "onnx", "onnx-int8", "torch"], default="auto")
    model.add_argument("--threads", type=int, default=1, help="for one pass of the model (default 1)")
    model.add_argument("--verify-key", type=Path, metavar="FILE", help="key the manifest was authenticated with")
    limits = parser.add_argument_group("limits")
    default = ServiceLimits()
    limits.add_argument("--rate", type=float, default=default.per_second, help="requests a second for each client")
    limits.add_argument("--burst", type=int, default=default.burst, help="requests at once for each client")
    limits.add_argument("--max-bytes", type=int, default=default.max_bytes, help="of one request")
    limits.add_argument("--max-examples", type=int, default=default.max_examples, help="of one request")
    tls = parser.add_argument_group("TLS")
    tls.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain, PEM")
    tls.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    tls.add_argument("--behind-proxy", action="store_true", help="a proxy in front of it does TLS")
    arguments = parser.parse_args(argv)
    if arguments.folder is None and arguments.add_client is None:
        parser.error("FOLDER is missing: the folder that `export` wrote")
    return arguments


def _add_client(arguments: argparse.Namespace) -> int:
    if arguments.api_keys is None:
        raise ConfigurationError("--add-client needs --api-keys FILE, where the hash of the key is kept")
    path, client = arguments.api_keys, arguments.add_client
    before = path.exists() and client in ApiKeys.load(path).clients
    key = ApiKeys.add(path, client)
    # Beside the key, which alone is on the standard output.
    if before:
        print(  # noqa: T201 - the command's own output
            f"{client!r} had a key already, and it stays valid: this is one more. To end it, remove it from {path}",
            file=sys.stderr,
        )
    print("The key is shown this once and kept nowhere: note it now.", file=sys.stderr)  # noqa: T201
    print(key)  # noqa: T201 - the only time it is shown
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    try:
        import uvicorn
    except ImportError as error:
        raise ConfigurationError("serve needs uvicorn: pip install 'lightning-privacy[serve]'") from error
    _check_exposure(arguments)
    if (arguments.api_keys is None) is not arguments.no_auth:
        raise ConfigurationError(
            "give either --api-keys FILE, or --no-auth for anybody on this machine. A file is made with "
            "`lightning-privacy serve --api-keys FILE --add-client NAME`"
        )
    api_keys = None if arguments.no_auth else ApiKeys.load(arguments.api_keys)
    torch.set_num_threads(arguments.threads if arguments.threads > 0 else 1)
    limits = ServiceLimits(
        per_second=arguments.rate,
        burst=arguments.burst,
        max_bytes=arguments.max_bytes,
        max_examples=arguments.max_examples,
    )
    predictor = _predictor(arguments)
    app = create_app(predictor, api_keys=api_keys, limits=limits)
    tls: dict[str, Any] = {}
    if arguments.tls_cert is not None:
        for path in (arguments.tls_cert, arguments.tls_key):
            path.open("rb").close()  # an error that names the file
        tls = {"ssl_certfile": str(arguments.tls_cert), "ssl_keyfile": str(arguments.tls_key)}
    config = uvicorn.Config(
        app,
        log_config=None,  # the process's own, below
        log_level="warning",
        access_log=False,  # addresses of people
        server_header=False,
        limit_concurrency=1024,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=10,
        lifespan="on",
        **tls,
    )
    with _listen(arguments.host, arguments.port) as listener:
        host, port = listener.getsockname()[:2]
        place = f"[{host}]" if ":" in host else host
        said = f"{'https' if tls else 'http'}://{place}:{port}"
        print(predictor.guarantee(), flush=True)  # noqa: T201 - the command's own output
        print(f"Listening on {said} (a page to try it by hand is there; Ctrl+C ends it)", flush=True)  # noqa: T201
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
        # The server has ended its answers by then, and passes the interrupt on.
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
    return 0


def _predictor(arguments: argparse.Namespace) -> PrivatePredictor:
    verify = None if arguments.verify_key is None else _verifying(arguments.verify_key)
    model = load_exported(arguments.folder, backend=arguments.backend, key=verify, threads=arguments.threads)
    key = None
    if arguments.key_file is not None:
        if not arguments.key_file.exists():
            if arguments.ledger is not None and arguments.ledger.exists():
                raise ConfigurationError(f"{arguments.key_file} is not there, and {arguments.ledger} needs its key")
            Key.generate().save(arguments.key_file)
        key = Key.from_file(arguments.key_file)
    return PrivatePredictor(
        model,
        mode=arguments.mode,
        epsilon=arguments.epsilon,
        budget=arguments.budget,
        total_budget=arguments.total_budget,
        max_answers=arguments.max_answers,
        decimals=arguments.decimals,
        sensitivity=arguments.sensitivity,
        ledger_path=arguments.ledger,
        key=key,
    )


def _verifying(path: Path) -> Key:
    if not path.exists():
        raise ConfigurationError(
            f"--verify-key {path}: there is no such file; give the key that the model was exported with (of a run of "
            "the command it is the file keys/lightning-privacy.key)"
        )
    try:
        return Key.from_file(path)
    except (LightningPrivacyError, OSError) as error:
        raise ConfigurationError(f"--verify-key {path}: {error}") from error


def _check_exposure(arguments: argparse.Namespace) -> None:
    if (arguments.tls_cert is None) is not (arguments.tls_key is None):
        raise ConfigurationError("--tls-cert and --tls-key belong together")
    if _is_local(arguments.host):
        return
    if arguments.no_auth:
        raise ConfigurationError(f"--no-auth is for this machine only, and --host is {arguments.host}: give --api-keys")
    if arguments.tls_cert is None and not arguments.behind_proxy:
        raise ConfigurationError(
            f"--host {arguments.host} is reached from other machines, and keys and data would cross the network in "
            "plain text: give --tls-cert and --tls-key, or --behind-proxy if a proxy does TLS"
        )


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port < 2**16:
        raise ConfigurationError(f"--port must be in [0, 65536), got {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named asyncio sends each response at once; otherwise the kernel holds it for 40 milliseconds.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)  # who connects from here on waits, and is not turned away
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"--host {host} --port {port} can't be listened on: {error.strerror or error}"
        ) from error
    return listener
