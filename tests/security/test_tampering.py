"""Whatever is done to an encrypted file, it is noticed, and no other content is ever handed out."""

from __future__ import annotations

import io
import random

import numpy as np
import polars as pl
import pytest

from lightning_privacy.security import (
    EncryptedReader,
    EncryptedRecords,
    EncryptedWriter,
    EncryptionError,
    Key,
    KeyRing,
    NewerFormatError,
    NotEncryptedError,
    TamperedError,
    WrongKeyError,
    decrypt_file,
    decrypt_stream,
    read_arrays,
    read_parquet,
    read_table,
    rotate,
    write_arrays,
    write_parquet,
    write_records,
    write_table,
)

KEY = Key(bytes(range(32)), key_id="k1")
SEGMENT = 1 << 10
SEALED = SEGMENT + 16
CONTENT = random.Random(0).randbytes(4 * SEGMENT + 100)
HEADER = 44 + 2 + 32


def _sealed(content: bytes = CONTENT) -> bytes:
    target = io.BytesIO()
    with EncryptedWriter(target, KEY, segment_bits=10) as file:
        file.write(content)
    return target.getvalue()


def _refused(tampered: bytes, expected: bytes = CONTENT) -> None:
    """Both ways to read refuse it, and hand out nothing that was not written at that place before they do."""
    with pytest.raises(EncryptionError), EncryptedReader(io.BytesIO(tampered), KEY) as file:
        file.read()
    pieces: list[bytes] = []
    with pytest.raises(EncryptionError):
        pieces.extend(decrypt_stream(io.BytesIO(tampered), KEY))
    assert expected.startswith(b"".join(pieces))
    try:
        file = EncryptedReader(io.BytesIO(tampered), KEY)
    except EncryptionError:
        return
    for start in range(0, file.length, SEGMENT):
        try:
            piece = file.read_at(start, SEGMENT)
        except EncryptionError:
            continue
        assert piece == expected[start : start + SEGMENT]


def test_a_flipped_bit_anywhere_is_noticed():
    sealed, rng = _sealed(), random.Random(1)
    for _ in range(1000):
        tampered, place = bytearray(sealed), rng.randrange(len(sealed))
        tampered[place] ^= 1 << rng.randrange(8)
        _refused(bytes(tampered))


def test_every_bit_of_header_and_tags_matters():
    sealed = _sealed(b"short")
    for place in range(len(sealed)):
        for bit in range(8):
            tampered = bytearray(sealed)
            tampered[place] ^= 1 << bit
            _refused(bytes(tampered), b"short")


def test_a_cut_anywhere_is_noticed():
    sealed = _sealed()
    whole = [HEADER + number * SEALED for number in range(5)]  # where cuts fall between segments
    for length in {*range(HEADER + 40), *whole, *(cut + step for cut in whole for step in (-1, 1, 15, 16, 17))}:
        _refused(sealed[:length])


def test_a_file_that_ends_early_in_whole_segments_is_refused_at_once():
    with pytest.raises(TamperedError, match="segment 3 of 3"):
        EncryptedReader(io.BytesIO(_sealed()[: HEADER + 3 * SEALED]), KEY)


@pytest.mark.parametrize("more", [b"\x00", bytes(15), bytes(16), bytes(17), bytes(SEALED), bytes(5 * SEALED)], ids=len)
@pytest.mark.parametrize("content", [b"", CONTENT, CONTENT[: 2 * SEGMENT]], ids=len)
def test_what_is_appended_is_noticed(content, more):
    _refused(_sealed(content) + more, content)
    _refused(_sealed(content) + _sealed(content), content)


def test_segments_exchanged_repeated_or_left_out_are_noticed():
    sealed = _sealed()
    header, body = sealed[:HEADER], sealed[HEADER:]
    segments = [body[start : start + SEALED] for start in range(0, len(body), SEALED)]
    for order in ([1, 0, 2, 3, 4], [0, 1, 2, 2, 4], [0, 1, 2, 3, 3], [0, 2, 3, 4], [4], [0, 4], [0, 1, 2, 4, 3], [0]):
        _refused(header + b"".join(segments[number] for number in order))


def test_segments_and_headers_of_two_files_do_not_mix():
    one, other = _sealed(), _sealed()
    _refused(one[: HEADER + SEALED] + other[HEADER + SEALED :])
    _refused(one[:HEADER] + other[HEADER:])


def test_a_marked_last_segment_that_is_empty_is_refused():
    """Only an empty file ends in an empty segment: one that follows a full one was never written by a writer."""
    target = io.BytesIO()
    with EncryptedWriter(target, KEY, segment_bits=10) as file:
        file._seal(bytearray(SEGMENT))
    _refused(target.getvalue(), bytes(SEGMENT))


@pytest.mark.parametrize(
    ("place", "value", "error", "named"),
    [
        (0, 0x00, NotEncryptedError, "is not encrypted by lightning_privacy"),
        (8, 2, NewerFormatError, "version 2 of the format, and this package knows 1: update"),
        (8, 255, NewerFormatError, "version 255"),
        (8, 0, TamperedError, "header"),
        (9, 1, WrongKeyError, "header was altered"),
        (10, 9, TamperedError, "header"),
        (10, 25, TamperedError, "header"),
        (10, 11, WrongKeyError, "header was altered"),
        (11, 0, TamperedError, "header"),
        (11, 65, TamperedError, "header"),
        (12, None, WrongKeyError, "header was altered"),
        (44, 0xFF, TamperedError, "header"),
        (45, ord("2"), WrongKeyError, "'k2'"),
        (46, None, WrongKeyError, "header was altered"),
        (HEADER, None, TamperedError, "segment 1 of 5"),
        (-1, None, TamperedError, "segment 5 of 5"),
    ],
)
def test_each_part_of_the_file_has_its_own_error(tmp_path, place, value, error, named):
    tampered = bytearray(_sealed())
    tampered[place] = tampered[place] ^ 1 if value is None else value
    (tmp_path / "sealed").write_bytes(tampered)
    with pytest.raises(error, match=named) as raised, EncryptedReader(tmp_path / "sealed", KEY) as file:
        file.read()
    assert str(tmp_path / "sealed") in str(raised.value)


def test_another_file_under_the_name_of_one_with_another_context_is_noticed(tmp_path):
    for name in ("train", "test"):
        write_arrays(tmp_path / name, {"x": np.arange(3)}, KEY, context=name.encode())
    (tmp_path / "test").replace(tmp_path / "train")
    with pytest.raises(WrongKeyError, match="context"):
        read_arrays(tmp_path / "train", KEY, context=b"train")


FRAME = pl.DataFrame({"name": [f"person {number}" for number in range(200)], "age": list(range(200))})
KINDS = {
    "table": (lambda path: write_table(FRAME, path, KEY), lambda path: read_table(path, KEY)),
    "arrays": (
        lambda path: write_arrays(path, {"a": np.arange(500), "b": np.eye(9)}, KEY),
        lambda path: read_arrays(path, KEY),
    ),
    "records": (
        lambda path: write_records(path, (b"%d" % number for number in range(900)), KEY),
        lambda path: list(EncryptedRecords(path, KEY)),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_notices_a_flipped_bit(tmp_path, kind):
    write, read = KINDS[kind]
    path, rng = tmp_path / "sealed", random.Random(2)
    write(path)
    sealed = path.read_bytes()
    for _ in range(1000):
        tampered, place = bytearray(sealed), rng.randrange(len(sealed))
        tampered[place] ^= 1 << rng.randrange(8)
        path.write_bytes(tampered)
        with pytest.raises(EncryptionError):
            read(path)


def test_parquet_never_gives_other_data(tmp_path):
    """All but a few bytes of the footer are authenticated; what those say changes nothing that is read."""
    path, rng = tmp_path / "sealed", random.Random(3)
    write_parquet(FRAME, path, KEY)
    sealed, unnoticed = path.read_bytes(), 0
    for _ in range(1000):
        tampered, place = bytearray(sealed), rng.randrange(len(sealed))
        tampered[place] ^= 1 << rng.randrange(8)
        path.write_bytes(tampered)
        try:
            read = read_parquet(path, KEY)
        except EncryptionError:
            continue
        unnoticed += 1
        assert read.equals(FRAME)
    assert unnoticed <= 10


def test_a_damaged_file_decrypts_to_nothing(tmp_path):
    damaged = bytearray(_sealed())
    damaged[HEADER + 2 * SEALED] ^= 4
    (tmp_path / "sealed").write_bytes(damaged)
    (tmp_path / "plain").write_bytes(b"as it was")
    with pytest.raises(TamperedError):
        decrypt_file(tmp_path / "sealed", tmp_path / "plain", KEY)
    with pytest.raises(TamperedError):
        rotate(tmp_path / "sealed", KeyRing(Key.generate(), KEY))
    assert (tmp_path / "plain").read_bytes() == b"as it was"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["plain", "sealed"]
