"""Who may ask: clients and the hashes of their keys.

A key is ``lp_<id>_<secret>``, with 256 random bits as secret; it is shown once, when it is made. The file holds its
SHA-256, from which nobody gets back to it, and is no secret, but whoever can write to it can let themselves in.

Example:
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "clients.json")
    ...     key = ApiKeys.add(path, "clinic")
    ...     keys = ApiKeys.load(path)
    >>> keys.client_of(key), keys.client_of(key[:-1] + "!"), keys.client_of("lp_0_0")
    ('clinic', None, None)
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.security.atomic_file import AtomicFile
from lightning_privacy.serving.predictor_ledger import check_client

__all__ = ["ApiKeys"]

_KIND = "lightning_privacy api keys"
_SCHEMA = 1
_LARGEST = 16 * 2**20
_LONGEST_KEY = 200
# Compared with where no key has the id, so that an unknown id takes as long as a wrong secret.
_NOBODY = "0" * 64


@dataclass(frozen=True)
class _Entry:
    client: str
    sha256: str


class ApiKeys:
    """The clients of a service.

    Args:
        entries: Client and hash by the key's id.
    """

    def __init__(self, entries: Mapping[str, _Entry]) -> None:
        self._entries = dict(entries)

    @property
    def clients(self) -> tuple[str, ...]:
        """Names, each once."""
        return tuple(dict.fromkeys(entry.client for entry in self._entries.values()))

    def client_of(self, key: str) -> str | None:
        """Whose key it is, or None.

        Args:
            key: What a request brought.
        """
        if len(key) > _LONGEST_KEY:
            return None
        prefix, _, rest = key.partition("_")
        key_id, _, _ = rest.partition("_")
        entry = self._entries.get(key_id) if prefix == "lp" else None
        given = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        right = hmac.compare_digest(given, _NOBODY if entry is None else entry.sha256)
        return entry.client if right and entry is not None else None

    @classmethod
    def load(cls, path: str | Path) -> ApiKeys:
        """Read the file.

        Raises:
            ConfigurationError: It is missing, not such a file, or others than its owner can write to it.
        """
        path = Path(path)
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            content = path.read_bytes() if path.stat().st_size <= _LARGEST else b""
        except FileNotFoundError as error:
            raise ConfigurationError(
                f"{path} is not there: make it with `lightning-privacy serve --api-keys {path} --add-client NAME`"
            ) from error
        if mode & 0o022:
            raise ConfigurationError(f"others than its owner can write to {path} (mode {mode:04o}): chmod 600 {path}")
        return cls(_read(content, path))

    @classmethod
    def add(cls, path: str | Path, client: str) -> str:
        """Make a key for a client, new or known, and write its hash to the file, which is made when missing.

        Args:
            path: The file.
            client: Its name, 1 to 256 characters.

        Returns:
            The key. It is not kept anywhere.

        Raises:
            ConfigurationError: The name is not usable, or the file is not such a file.
            OSError: It can't be written.
        """
        path = Path(path)
        check_client(client)
        entries = cls.load(path)._entries if path.exists() else {}
        key_id = secrets.token_hex(8)
        key = f"lp_{key_id}_{secrets.token_urlsafe(32)}"
        entries[key_id] = _Entry(client, hashlib.sha256(key.encode()).hexdigest())
        keys = {each: {"client": entry.client, "sha256": entry.sha256} for each, entry in entries.items()}
        text = json.dumps({"kind": _KIND, "schema": _SCHEMA, "keys": keys}, indent=1) + "\n"
        with AtomicFile(path, mode=0o600) as file:
            file.write(text.encode())
        return key


def _read(content: bytes, path: Path) -> dict[str, _Entry]:
    wrong = ConfigurationError(
        f"{path} is not a file of API keys as `lightning-privacy serve --add-client` writes it: make a new one"
    )
    try:
        values: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise wrong from error
    if not isinstance(values, dict) or values.get("kind") != _KIND:
        raise wrong
    if values.get("schema") != _SCHEMA:
        raise ConfigurationError(f"{path} has schema {values.get('schema')!r:.40}; this version reads {_SCHEMA}")
    keys = values.get("keys")
    if not isinstance(keys, dict):
        raise wrong
    entries = {}
    for key_id, entry in keys.items():
        if not isinstance(entry, dict) or set(entry) != {"client", "sha256"}:
            raise wrong
        digest = entry["sha256"]
        if not isinstance(digest, str) or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise wrong
        entries[key_id] = _Entry(check_client(entry["client"]), digest)
    return entries
