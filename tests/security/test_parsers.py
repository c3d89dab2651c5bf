"""Every parser, given anything: an error by name, and nothing else.

FUZZ_SECONDS=40 in the environment runs each of them for so long in place of its few cases.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_privacy import security
from lightning_privacy.errors import LightningPrivacyError
from lightning_privacy.plugins import EncryptedCheckpointIO
from lightning_privacy.security.key_text import parse_key

KEY = security.Key(bytes(range(32)), key_id="k1")
FRAME = pl.DataFrame({"name": ["Ada", "Alan", None] * 20, "age": list(range(60))})
CHECKPOINT = {"state_dict": {"w": torch.arange(6.0)}, "pytorch-lightning_version": "2.6.0", "epoch": 3}
SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
CASES = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fuzzed")
    with security.EncryptedWriter(folder / "stream", KEY, segment_bits=10) as file:
        file.write(bytes(3000))
    security.write_table(FRAME, folder / "table", KEY)
    security.write_arrays(folder / "arrays", {"a": np.arange(5), "b": np.eye(2)}, KEY)
    security.write_records(folder / "records", [b"one", b"", b"three"], KEY)
    security.write_parquet(FRAME, folder / "parquet", KEY)
    EncryptedCheckpointIO(KEY).save_checkpoint(CHECKPOINT, folder / "checkpoint")
    return folder


def _read_stream(path: Path) -> Any:
    with security.EncryptedReader(path, KEY) as file:
        return file.read()


def _read_records(path: Path) -> Any:
    with security.EncryptedRecords(path, KEY) as records:
        return [records[number] for number in range(len(records))]


READERS: dict[str, Callable[[Path], Any]] = {
    "stream": _read_stream,
    "table": lambda path: security.read_table(path, KEY),
    "arrays": lambda path: security.read_arrays(path, KEY),
    "records": _read_records,
    "parquet": lambda path: security.read_parquet(path, KEY),
    "checkpoint": lambda path: EncryptedCheckpointIO(KEY).load_checkpoint(path),
}
OTHERS: dict[str, Callable[[Path], Any]] = {
    "pipe": lambda path: list(security.decrypt_stream(io.BytesIO(path.read_bytes()), KEY)),
    "rotation": lambda path: security.rotate(path, security.KeyRing(security.Key(bytes(32), key_id="k2"), KEY)),
}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, pl.DataFrame):
        return one.equals(other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, np.ndarray | torch.Tensor):
        return one.tolist() == other.tolist()
    return bool(one == other)


def _named_error_or(value: Callable[[], Any], check: Callable[[Any], bool]) -> None:
    try:
        found = value()
    except LightningPrivacyError:
        return
    assert check(found)


def _fuzz(strategy: st.SearchStrategy[Any], property_: Callable[[Any], None]) -> None:
    """The property over the strategy: a few cases that are always the same, or FUZZ_SECONDS of new ones."""

    def run(**options: Any) -> None:
        @settings(deadline=None, database=None, suppress_health_check=list(HealthCheck), **options)
        @given(strategy)
        def holds(case: Any) -> None:
            property_(case)

        (hypothesis.seed(seed)(holds) if SECONDS else holds)()

    if not SECONDS:
        run(max_examples=CASES, derandomize=True)
        return
    seed, start, cases = int.from_bytes(os.urandom(4), "big"), time.monotonic(), 0
    while time.monotonic() - start < SECONDS:
        seed, cases = seed + 1, cases + 200
        run(max_examples=200)
    print(f"{cases} cases in {time.monotonic() - start:.0f} s, the last seed {seed}")  # noqa: T201 - of the campaign


@st.composite
def _damage(draw: st.DrawFn, whole: bytes) -> bytes:
    """The file with bytes changed, cut out, repeated, put in and cut off, or something else altogether."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        length = draw(st.integers(1, 2000))
        action = draw(st.sampled_from(["change", "cut", "repeat", "put", "end", "other"]))
        if action == "change" and start < len(content):
            content[start] ^= draw(st.integers(1, 255))
        elif action == "cut":
            del content[start : start + length]
        elif action == "repeat":
            content[start:start] = content[start : start + length]
        elif action == "put":
            content[start:start] = draw(st.binary(min_size=1, max_size=40))
        elif action == "end":
            del content[start:]
        elif action == "other":
            content = bytearray(whole[: draw(st.integers(0, 90))] + draw(st.binary(max_size=200)))
    return bytes(content)


@pytest.mark.parametrize("kind", [*READERS, *OTHERS])
def test_a_damaged_file_gives_a_named_error(folder, tmp_path, kind):
    name = kind if kind in READERS else "stream"
    read, whole, path = (READERS | OTHERS)[kind], (folder / name).read_bytes(), tmp_path / "damaged"
    path.write_bytes(whole)
    expected = read(path)

    def holds(damaged: bytes) -> None:
        path.write_bytes(damaged)
        _named_error_or(lambda: read(path), lambda found: _same(found, expected))

    _fuzz(_damage(whole), holds)


def _sealed(path: Path, payload: bytes, content: security.Content) -> None:
    with security.EncryptedWriter(path, KEY, content=content) as file:
        file.write(payload)


def _index(entries: Any) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + bytes(64)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["<f8", "|u1", "<U3", "|O", "<M8[D]", "V"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)
# An entry of the index with each field of its own kind, or not.
ENTRY = st.tuples(
    st.text(max_size=3) | JSON,
    st.sampled_from(["<f8", "|u1", "<U3", "<U0", "|S0", "|O", "<M8[D]", "|V8", "f8,f8"]) | st.text(max_size=5) | JSON,
    st.lists(st.integers(0, 2**70) | st.integers(0, 3), max_size=70) | JSON,
    st.integers(-5, 100) | st.integers(0, 2**70) | JSON,
)
PAYLOADS: dict[str, tuple[security.Content, st.SearchStrategy[bytes]]] = {
    "arrays": (
        security.Content.ARRAYS,
        st.binary(max_size=80) | st.lists(ENTRY, max_size=3).map(_index) | JSON.map(_index),
    ),
    "records": (
        security.Content.RECORDS,
        st.binary(max_size=80)
        | st.lists(st.integers(0, 20) | st.integers(0, 2**64 - 1), max_size=6).map(
            lambda words: bytes(8) + np.array(words, dtype="<u8").tobytes()
        ),
    ),
}


@pytest.mark.parametrize("kind", PAYLOADS)
def test_an_authentic_file_of_other_content_gives_a_named_error(tmp_path, kind):
    """What only a holder of the key can make."""
    content, payloads = PAYLOADS[kind]
    path = tmp_path / "sealed"

    def holds(payload: bytes) -> None:
        _sealed(path, payload, content)
        _named_error_or(lambda: READERS[kind](path), lambda found: isinstance(found, dict | list))

    _fuzz(payloads, holds)


@pytest.mark.parametrize("code", ["a", "a3", "f8", "i4,i4", "<f8 ", "|O", 3, None, ["<f8"]])
def test_types_that_numpy_would_read_and_never_writes_are_refused(tmp_path, code):
    """Some are deprecated, and what they do then is not what is wrong with the file."""
    path = tmp_path / "sealed"
    _sealed(path, _index([["x", code, [0], 0]]), security.Content.ARRAYS)
    with pytest.raises(security.EncryptionError, match="entry 0 has the type"):
        security.read_arrays(path, KEY)


@pytest.mark.parametrize("shape", [{}, "", None, 3, {"2": 2}])
def test_shapes_that_are_no_lists_are_refused(tmp_path, shape):
    path = tmp_path / "sealed"
    _sealed(path, _index([["x", "<f8", shape, 0]]), security.Content.ARRAYS)
    with pytest.raises(security.EncryptionError, match="entry 0 has the shape"):
        security.read_arrays(path, KEY)


@pytest.mark.parametrize("kind", ["table", "checkpoint"])
def test_an_authentic_file_that_another_library_can_not_read_gives_a_named_error(folder, tmp_path, kind):
    content = security.Content.TABLE if kind == "table" else security.Content.CHECKPOINT
    with security.EncryptedReader(folder / kind, KEY, content=content) as file:
        whole = file.read()
    path = tmp_path / "sealed"

    def holds(payload: bytes) -> None:
        _sealed(path, payload, content)
        _named_error_or(lambda: READERS[kind](path), lambda found: isinstance(found, pl.DataFrame | dict))

    # Not the table with a few bytes changed: polars ends the process on some of those, for want of petabytes of memory.
    # That is why it only ever sees what was authenticated.
    damaged = st.integers(0, len(whole)).map(lambda end: whole[:end]) if kind == "table" else _damage(whole)
    _fuzz(st.binary(max_size=200) | damaged, holds)


WRITTEN = json.dumps({"lightning_privacy_key": 1, "key_id": "k", "secret": "00" * 32, "expires": None}).encode()


def test_what_is_no_key_gives_a_named_error():
    texts = st.binary(max_size=100) | st.text(max_size=80).map(str.encode) | _damage(WRITTEN)
    fields = st.fixed_dictionaries(
        {},
        optional={
            name: JSON | st.text(max_size=70) for name in ("lightning_privacy_key", "key_id", "secret", "expires")
        },
    )
    written = st.tuples(fields, st.booleans()).map(
        lambda pair: json.dumps(
            ({"lightning_privacy_key": 1, "secret": "00" * 32} if pair[1] else {}) | pair[0]
        ).encode()
    )

    def holds(text: bytes) -> None:
        def parsed() -> security.Key:
            secret, key_id, expires = parse_key(text)
            return security.Key(secret, key_id=key_id, expires=expires)

        _named_error_or(parsed, lambda key: len(key.secret) == 32)

    _fuzz(texts | written, holds)
