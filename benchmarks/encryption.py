"""Claim: encryption and decryption of large files run at well over 500 MB/s on one core.

Everything runs in one process on one thread, in turn: the package's streaming writer and reader over memory, so that
the disk has no part in it; files from disk to disk, beside a plain copy of them; a checkpoint through the plugin beside
plain torch; one record of 784 bytes at random; and the cipher alone, which is the ceiling.

    python benchmarks/encryption.py                 # all of it; writes benchmarks/results/encryption.json
    python benchmarks/encryption.py --quick         # small files: shows that it runs, measures nothing
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _harness import hardware, interleave, machine_line, parsed, parser_of, run_benchmark

_PACKAGES = ("lightning-privacy", "cryptography", "torch")
_MEGABYTES = 512
_QUICK_MEGABYTES = 4
_ROUNDS = 5
_RECORDS = 20_000
_RECORD_BYTES = 784
_LOOKUPS = 500


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = parser_of(__doc__, rounds=_ROUNDS, threads=1, quick="small files")
    parser.add_argument("--megabytes", type=int, default=_MEGABYTES)
    parser.add_argument("--folder", type=Path, help="where the files are written; by default the temporary folder")
    return parsed(
        parser,
        argv,
        result="encryption.json",
        complete=lambda given: given.threads == 1 and given.rounds >= _ROUNDS and given.megabytes >= _MEGABYTES,
    )


class _Discarding(io.RawIOBase):
    """Takes everything and keeps nothing."""

    def write(self, content: Any) -> int:
        return memoryview(content).nbytes

    def writable(self) -> bool:
        return True


def _contenders(size: int, folder: Path) -> dict[str, tuple[Callable[[], object], int]]:
    """Name to a step and the bytes it goes through."""
    # Not at the top: the libraries read the number of threads from the environment when they are imported.
    import shutil

    import numpy as np
    import torch
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from lightning_privacy.plugins import EncryptedCheckpointIO
    from lightning_privacy.security import (
        EncryptedReader,
        EncryptedRecords,
        EncryptedWriter,
        Key,
        decrypt_file,
        encrypt_file,
        write_records,
    )

    key, plain = Key.generate(), os.urandom(size)
    sealed = io.BytesIO()
    with EncryptedWriter(sealed, key) as file:
        file.write(plain)
    (folder / "plain").write_bytes(plain)
    encrypt_file(folder / "plain", folder / "sealed", key)
    blocks = [memoryview(plain)[start : start + (1 << 16)] for start in range(0, size, 1 << 16)]
    cipher = AESGCM(key.secret)
    piece, target = 1 << 20, bytearray(1 << 20)
    weights = {"w": torch.frombuffer(bytearray(plain), dtype=torch.float32)}
    checkpoint = {"state_dict": weights, "pytorch-lightning_version": "2.6.0"}
    plugin = EncryptedCheckpointIO(key)
    plugin.save_checkpoint(checkpoint, folder / "encrypted.ckpt")
    torch.save(checkpoint, folder / "plain.ckpt")
    write_records(folder / "records", (os.urandom(_RECORD_BYTES) for _ in range(_RECORDS)), key)
    records = EncryptedRecords(folder / "records", key)
    order = np.random.default_rng(0).integers(0, _RECORDS, _LOOKUPS).tolist()

    def alone() -> None:
        for block in blocks:
            cipher.encrypt(bytes(12), block, None)

    def encrypt() -> None:
        with EncryptedWriter(_Discarding(), key) as file:
            for start in range(0, size, piece):
                file.write(memoryview(plain)[start : start + piece])

    def decrypt() -> None:
        with EncryptedReader(sealed, key) as file:
            while file.readinto(target):
                pass

    return {
        "cipher alone": (alone, size),
        "encrypt": (encrypt, size),
        "decrypt": (decrypt, size),
        "copy of a file": (lambda: shutil.copyfile(folder / "plain", folder / "copy"), size),
        "encrypt a file": (lambda: encrypt_file(folder / "plain", folder / "again", key), size),
        "decrypt a file": (lambda: decrypt_file(folder / "sealed", folder / "opened", key), size),
        "torch.save": (lambda: torch.save(checkpoint, folder / "saved.ckpt"), size),
        "save, encrypted": (lambda: plugin.save_checkpoint(checkpoint, folder / "kept.ckpt"), size),
        "torch.load": (lambda: torch.load(folder / "plain.ckpt"), size),
        "load, encrypted": (lambda: plugin.load_checkpoint(folder / "encrypted.ckpt"), size),
        "records at random": (lambda: [records[number] for number in order], _LOOKUPS * _RECORD_BYTES),
    }


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(arguments.threads)
    machine = hardware(threads=arguments.threads, packages=_PACKAGES)
    megabytes = _QUICK_MEGABYTES if arguments.quick else arguments.megabytes
    cells = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        contenders = _contenders(megabytes * 10**6, Path(folder))
        steps = {name: step for name, (step, _) in contenders.items()}
        timings = interleave(steps, rounds=arguments.rounds, turn_seconds=0.01)
        for name, (_, count) in contenders.items():
            timing = timings[name]
            processor = min(min(steps) for steps in timing.processor_rounds)
            cells[name] = {
                "megabytes_per_second": round(count / timing.seconds / 1e6),
                "best_megabytes_per_second": round(count / timing.best_seconds / 1e6),
                "megabytes_per_processor_second": round(count / processor / 1e6) if processor else None,
                "milliseconds": round(timing.seconds * 1e3, 3),
            }
        cells["records at random"]["microseconds_per_record"] = round(
            timings["records at random"].seconds / _LOOKUPS * 1e6, 1
        )
    return {
        "benchmark": "encryption",
        "quick": arguments.quick,
        "rounds": arguments.rounds,
        "megabytes": megabytes,
        "time_method": "turns of one call for each contender, round by round, the starter changing; median over "
        "rounds; best: the fastest call; per processor second: bytes over the least processor time, in which waiting "
        "for the disk and other processes has no part",
        "hardware": machine | {"load_average_at_end": round(os.getloadavg()[0], 2)},
        "contenders": cells,
    }


def _format(result: dict[str, Any]) -> str:
    lines = [f"{'':20}{'MB/s':>8}{'best':>8}{'MB/cpu s':>10}{'ms':>11}"]
    for name, cell in result["contenders"].items():
        lines.append(
            f"{name:20}{cell['megabytes_per_second']:8}{cell['best_megabytes_per_second']:8}"
            f"{cell['megabytes_per_processor_second'] or 0:10}{cell['milliseconds']:11.2f}"
        )
    each = result["contenders"]["records at random"]["microseconds_per_record"]
    lines.append(f"one record of {_RECORD_BYTES} bytes at random: {each} microseconds")
    lines.append(f"{result['megabytes']} MB, {machine_line(result['hardware'])}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_benchmark(_parse(sys.argv[1:]), _run, _format))
