"""A file is complete or not there: after a kill, a full disk, an exception, a forgotten close, a second writer."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys

import pytest

from lightning_privacy.security import EncryptedReader, EncryptedWriter, EncryptionError, Key, write_records
from lightning_privacy.security.atomic_file import AtomicFile

KEY = Key(bytes(range(32)))


def _names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def _write(path, content: bytes = b"old") -> None:
    with EncryptedWriter(path, KEY) as file:
        file.write(content)


def _read(path) -> bytes:
    with EncryptedReader(path, KEY) as file:
        return file.read()


def test_the_name_comes_with_the_last_byte(tmp_path):
    path = tmp_path / "new folder" / "sealed"
    with EncryptedWriter(path, KEY) as file:
        file.write(bytes(1 << 20))
        assert not path.exists()
    assert _names(path.parent) == ["sealed"]


def _raise_inside(path) -> None:
    with EncryptedWriter(path, KEY) as file:
        file.write(b"new")
        raise KeyboardInterrupt


def _forget(path) -> None:
    EncryptedWriter(path, KEY).write(b"new")
    gc.collect()


def _records_fail(path) -> None:
    write_records(path, (1 // number and b"new" for number in (1, 0)), KEY)


@pytest.mark.parametrize("leave", [_raise_inside, _forget, _records_fail])
def test_what_is_not_finished_leaves_the_old_file(tmp_path, leave):
    path = tmp_path / "sealed"
    _write(path)
    with contextlib.suppress(KeyboardInterrupt, ZeroDivisionError):
        leave(path)
    assert _read(path) == b"old"
    assert _names(tmp_path) == ["sealed"]


def test_a_link_is_replaced_and_what_it_points_to_is_not(tmp_path):
    _write(tmp_path / "one")
    (tmp_path / "link").symlink_to("one")
    _write(tmp_path / "link", b"new")
    assert _read(tmp_path / "one") == b"old"
    assert _read(tmp_path / "link") == b"new"


def test_a_second_writer_is_told_and_the_first_goes_on(tmp_path):
    with EncryptedWriter(tmp_path / "sealed", KEY) as first:
        first.write(b"fir")
        with pytest.raises(EncryptionError, match="being written by another process or thread"):
            EncryptedWriter(tmp_path / "sealed", KEY)
        gc.collect()
        first.write(b"st")
    assert _read(tmp_path / "sealed") == b"first"
    _write(tmp_path / "sealed", b"second")
    assert _read(tmp_path / "sealed") == b"second"


def test_a_child_that_ends_does_not_take_the_file_with_it(tmp_path):
    writer = EncryptedWriter(tmp_path / "sealed", KEY)
    writer.write(b"of the parent")
    child = os.fork()
    if child == 0:
        writer.abort()
        os._exit(0)
    os.waitpid(child, 0)
    writer.close()
    assert _read(tmp_path / "sealed") == b"of the parent"


def test_what_a_kill_left_is_overwritten(tmp_path):
    (tmp_path / "sealed.partial").write_bytes(b"half" * 1000)
    _write(tmp_path / "sealed")
    assert _read(tmp_path / "sealed") == b"old"
    assert _names(tmp_path) == ["sealed"]


def test_a_place_that_can_not_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        AtomicFile(tmp_path / "file" / "sealed")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        _write(tmp_path / "folder")
    assert _names(tmp_path) == ["file", "folder"]


# What a full disk does: a write beyond the limit fails with an OSError. A process of its own, because a hard limit
# can't be raised again.
_DISK_FULL = """
import resource, signal, sys
import numpy as np, polars as pl
from lightning_privacy.security import Key, encrypt_file, write_arrays, write_parquet, write_records, write_table
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
path, key, big = sys.argv[1], bytes(range(32)), np.random.default_rng(0).integers(0, 2**60, 100_000)
for write in (
    lambda: write_table(pl.DataFrame({"x": big}), path, key),
    lambda: write_arrays(path, {"x": big}, key),
    lambda: write_records(path, (block.tobytes() for block in np.split(big, 100)), key),
    lambda: write_parquet(pl.DataFrame({"x": big}), path, key),
    lambda: encrypt_file(sys.argv[2], path, key),
):
    try:
        write()
    except OSError as error:
        print(type(error).__name__, error.filename, error.strerror)
"""


def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path):
    (tmp_path / "plain").write_bytes(bytes(200_000))
    _write(tmp_path / "sealed")
    command = [sys.executable, "-c", _DISK_FULL, tmp_path / "sealed", tmp_path / "plain"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [f"OSError {tmp_path / 'sealed'} File too large"] * 5
    assert _names(tmp_path) == ["plain", "sealed"]
    assert _read(tmp_path / "sealed") == b"old"


# Forks a child that writes again and again, and kills it at ever later moments once its first file is there.
_KILLED = """
import os, pathlib, random, signal, sys, time
from lightning_privacy.security import EncryptedReader, EncryptedWriter
key, path, rng = bytes(range(32)), pathlib.Path(sys.argv[1]), random.Random(0)
inside = 0
for attempt in range(24):
    path.unlink(missing_ok=True)
    child = os.fork()
    while child == 0:
        for number in range(256):
            with EncryptedWriter(path, key) as file:
                file.write(bytes([number]) * 1_000_000)
    while not path.exists():
        time.sleep(0.0005)
    time.sleep(0.02 * rng.random())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with EncryptedReader(path, key) as file:
        content = file.read()
    assert len(content) == 1_000_000 and len(set(content)) == 1
    inside += path.with_name(path.name + ".partial").exists()
print(inside)
"""


def test_a_kill_at_any_moment_leaves_the_old_or_the_new_file(tmp_path):
    """Killed at 24 moments, many of them inside a write: the file is complete after each."""
    command = [sys.executable, "-c", _KILLED, tmp_path / "sealed"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 0
