"""Plain text never touches the disk: after everything was written, and after kills in the middle of it, no file in the
folders a process may write to has any of it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

# Every byte of the content is one of markers, which are random, so that nothing else on this machine has them.
_WRITING = """
import os, pathlib, sys, tempfile, time
import numpy as np, polars as pl, torch
from lightning_privacy.plugins import EncryptedCheckpointIO
from lightning_privacy.security import *

marker, folder = sys.argv[1].encode(), pathlib.Path(sys.argv[2])
once = sys.argv[3] == "once"
key, new = Key(bytes(range(32)), key_id="old"), Key.generate(key_id="new")
text = (marker * 100_000)[:3_000_000]
frame = pl.DataFrame({marker.decode(): [marker.decode() * 3] * 50_000, "n": list(range(50_000))})
numbers = np.frombuffer(text, dtype=np.uint8)
tensor = torch.frombuffer(bytearray(text), dtype=torch.uint8)
checkpoint = {"state_dict": {marker.decode(): tensor}, "pytorch-lightning_version": "2.6.0"}
assert tempfile.gettempdir() == os.environ["TMPDIR"]
print("ready", flush=True)
while True:
    with EncryptedWriter(folder / "stream", key) as file:
        for start in range(0, len(text), 10_000):
            file.write(text[start:start + 10_000])
    rotate(folder / "stream", KeyRing(new, key))
    write_table(frame, folder / "table", key, compression="uncompressed")
    write_table(frame.lazy(), folder / "lazy", key)
    write_parquet(frame, folder / "parquet", key)
    write_arrays(folder / "arrays", {marker.decode(): numbers}, key)
    write_records(folder / "records", (text[start:start + 1000] for start in range(0, len(text), 1000)), key)
    EncryptedCheckpointIO(key).save_checkpoint(checkpoint, folder / "last.ckpt")
    # Reading does not write either.
    assert read_table(folder / "table", key, columns=["n"]).height == 50_000
    assert read_table(folder / "lazy", key).equals(frame) and read_parquet(folder / "parquet", key).equals(frame)
    assert read_arrays(folder / "arrays", key)[marker.decode()].tobytes() == text
    assert b"".join(EncryptedRecords(folder / "records", key)) == text
    assert EncryptedCheckpointIO(key).load_checkpoint(folder / "last.ckpt")["state_dict"][marker.decode()].equal(tensor)
    if once:
        break
"""


def _files_with(marker: bytes, folders: list[Path], since: float) -> list[Path]:
    """Files written since then that have the marker, or a piece of it, in their content or name."""
    found = []
    for folder in folders:
        for path in [folder] if folder.is_file() else folder.rglob("*"):
            try:
                if path.is_file() and path.stat().st_mtime >= since:
                    content = path.read_bytes()
                    if marker[3:15] in content or marker[3:15].decode() in path.name:
                        found.append(path)
            except OSError:
                continue  # of another process, or gone by now
    return found


def _start(tmp_path: Path, marker: bytes, mode: str) -> subprocess.Popen[bytes]:
    for name in ("store", "temporary", "work", "home"):
        (tmp_path / name).mkdir(exist_ok=True)
    places = {"TMPDIR": "temporary", "POLARS_TEMP_DIR": "temporary", "HOME": "home", "XDG_CACHE_HOME": "home"}
    environment = os.environ | {name: str(tmp_path / folder) for name, folder in places.items()}
    command = [sys.executable, "-c", _WRITING, marker.decode(), str(tmp_path / "store"), mode]
    return subprocess.Popen(command, env=environment, cwd=tmp_path / "work", stdout=subprocess.PIPE)


def _elsewhere(tmp_path: Path, since: float) -> list[Path]:
    """The folders of the process, and what is new where a library may put temporary files whatever it is told."""
    found = [tmp_path]
    for place in (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")):
        for path in place.iterdir() if place.is_dir() else ():
            with contextlib.suppress(OSError):  # of another process, and gone by now
                if path.lstat().st_mtime >= since and not path.name.startswith("pytest-"):
                    found.append(path)
    return found


@pytest.fixture
def marker() -> bytes:
    return os.urandom(10).hex().encode()


def test_the_search_finds_plain_text(tmp_path, marker):
    start = time.time() - 2
    with tempfile.NamedTemporaryFile(dir=tmp_path) as file:
        file.write(b"x" * 1000 + marker)
        file.flush()
        assert _files_with(marker, [tmp_path], start) == [Path(file.name)]


def test_nothing_written_has_plain_text_in_it(tmp_path, marker):
    start = time.time() - 2
    process = _start(tmp_path, marker, "once")
    process.communicate(timeout=200)
    assert process.returncode == 0
    assert len(list((tmp_path / "store").iterdir())) == 7
    assert [path.name for folder in ("temporary", "work") for path in (tmp_path / folder).rglob("*")] == []
    assert _files_with(marker, _elsewhere(tmp_path, start), start) == []


def test_nothing_a_kill_leaves_has_plain_text_in_it(tmp_path, marker):
    """Temporary files that are removed in the end would be there now."""
    start = time.time() - 2
    process = _start(tmp_path, marker, "for ever")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    looked = 0
    for pause in (0.05, 0.11, 0.23, 0.31, 0.47, 0.71):
        time.sleep(pause)
        looked += len(list((tmp_path / "store").iterdir()))
        assert _files_with(marker, [tmp_path], start) == []  # while it writes
    process.kill()
    process.communicate()
    assert looked
    assert _files_with(marker, _elsewhere(tmp_path, start), start) == []
