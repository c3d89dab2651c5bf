"""Keys of clients: shown once, kept as hashes."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.serving import ApiKeys


@pytest.fixture
def path(tmp_path):
    return tmp_path / "clients.json"


def test_each_key_is_its_clients(path):
    made = {name: ApiKeys.add(path, name) for name in ("clinic", "school")}
    second = ApiKeys.add(path, "clinic")
    keys = ApiKeys.load(path)
    assert keys.clients == ("clinic", "school")
    assert [keys.client_of(key) for key in (made["clinic"], made["school"], second)] == ["clinic", "school", "clinic"]
    assert len({*made.values(), second}) == 3


def test_the_file_does_not_hold_the_keys(path):
    key = ApiKeys.add(path, "clinic")
    assert key.rpartition("_")[2] not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0


def test_other_secrets_and_the_hash_itself_are_no_keys(path):
    key = ApiKeys.add(path, "clinic")
    keys = ApiKeys.load(path)
    (entry,) = json.loads(path.read_text())["keys"].values()
    key_id = key.split("_")[1]
    for other in (
        key[:-2],
        key + "x",
        key.upper(),
        f"lp_{key_id}_",
        f"lp_{key_id}_{entry['sha256']}",
        "",
        "_",
        "\ud800",
    ):
        assert keys.client_of(other) is None


def test_a_file_that_others_may_write_is_refused(path):
    ApiKeys.add(path, "clinic")
    path.chmod(0o620)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        ApiKeys.load(path)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "add-client"),
        (b"", "not a file of API keys"),
        (b"[" * 100_000, "not a file of API keys"),
        (b'{"kind": "lightning_privacy api keys", "schema": 2}', "schema 2"),
        (b'{"kind": "lightning_privacy api keys", "schema": 1}', "not a file of API keys"),
        (b'{"kind": "lightning_privacy api keys", "schema": 1, "keys": {"a": {"client": "x", "sha256": "0"}}}', "keys"),
        (
            b'{"kind": "lightning_privacy api keys", "schema": 1, "keys": {"a": {"client": "", "sha256": "%s"}}}'
            % (b"0" * 64),
            "client",
        ),
    ],
    ids=["missing", "empty", "deep", "newer", "no keys", "hash", "name"],
)
def test_other_files_are_refused_by_name(path, content, named):
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    with pytest.raises(ConfigurationError, match=named):
        ApiKeys.load(path)


@given(content=st.binary(max_size=100), cut=st.integers(0, 300))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_in_the_file(path, content, cut):
    if path.exists():
        path.unlink()
    key = ApiKeys.add(path, "clinic")
    whole = path.read_bytes()
    path.write_bytes(whole[:cut] + content + whole[cut + len(content) :])
    try:
        keys = ApiKeys.load(path)
    except ConfigurationError:
        return
    assert keys.client_of(key) in ("clinic", None) or keys.client_of(key) in keys.clients
