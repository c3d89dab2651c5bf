"""What is written is what is read, at any place; and it is what another library makes of the format."""

from __future__ import annotations

import hashlib
import hmac
import io
import os
import pickle
import random
import threading

import pytest
from Crypto.Cipher import AES

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.security import (
    Content,
    EncryptedReader,
    EncryptedWriter,
    Key,
    KeyRing,
    NotEncryptedError,
    WrongKeyError,
    decrypt_file,
    decrypt_stream,
    encrypt_file,
    encrypt_stream,
    rotate,
)

KEY = Key(bytes(range(32)), key_id="k1")
SEGMENT = 1 << 10
SIZES = [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 2 * SEGMENT + 5]


def _content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def _written(content: bytes, pieces: list[int] | None = None, **options) -> bytes:
    """The encrypted form, from writes of these lengths and one of the rest."""
    target = io.BytesIO()
    with EncryptedWriter(target, KEY, segment_bits=10, **options) as file:
        rest = memoryview(content)
        for length in pieces or []:
            assert file.write(rest[:length]) == len(rest[:length])
            rest = rest[length:]
        file.write(rest)
        assert file.tell() == len(content)
    return target.getvalue()


def _decrypted_by_hand(sealed: bytes, secret: bytes, context: bytes = b"") -> bytes:
    """The format from its description, with PyCryptodome and the standard library."""
    assert sealed[:8] == b"LPCRYPT\x9a"
    version, _, bits, length = sealed[8:12]
    assert version == 1
    salt, bound = sealed[12:44], sealed[: 44 + length]
    commitment, body = sealed[44 + length : 76 + length], sealed[76 + length :]
    pseudo = hmac.digest(salt, secret, hashlib.sha256)
    info = b"lightning_privacy encrypted file\x00" + bound + context
    key = hmac.digest(pseudo, info + b"\x01", hashlib.sha256)
    assert hmac.digest(pseudo, key + info + b"\x02", hashlib.sha256) == commitment
    sealed_bytes = (1 << bits) + 16
    segments = [body[start : start + sealed_bytes] for start in range(0, len(body), sealed_bytes)]
    plain = []
    for number, segment in enumerate(segments):
        last = number == len(segments) - 1
        cipher = AES.new(key, AES.MODE_GCM, nonce=number.to_bytes(11, "big") + bytes([last]))
        plain.append(cipher.decrypt_and_verify(segment[:-16], segment[-16:]))
    return b"".join(plain)


@pytest.mark.parametrize("size", SIZES)
def test_another_library_decrypts_the_format(size):
    content = _content(size)
    assert _decrypted_by_hand(_written(content, context=b"use"), KEY.secret, b"use") == content


def test_files_have_segments_of_64_kib_and_nothing_in_common(tmp_path):
    content = bytes(3 << 16)
    for name in ("a", "b"):
        with EncryptedWriter(tmp_path / name, KEY) as file:
            file.write(content)
    a, b = ((tmp_path / name).read_bytes() for name in ("a", "b"))
    assert _decrypted_by_hand(a, KEY.secret) == content
    assert len(a) == len(b) == 76 + 2 + len(content) + 3 * 16
    # Equal segments at different places and equal files differ: the nonce and the salt see to that.
    segments = {part[start : start + 65552] for part in (a, b) for start in range(78, len(a), 65552)}
    assert len(segments) == 6


@pytest.mark.parametrize("size", SIZES)
def test_how_it_is_written_does_not_matter(size):
    content = _content(size)
    for seed in range(20):
        pieces = [random.Random(seed).choice([0, 1, 3, 500, SEGMENT, 2 * SEGMENT]) for _ in range(8)]
        assert _decrypted_by_hand(_written(content, pieces), KEY.secret) == content


@pytest.mark.parametrize("size", SIZES)
def test_reads_at_any_place_as_a_plain_file_does(tmp_path, size):
    content, rng = _content(size), random.Random(0)
    (tmp_path / "sealed").write_bytes(_written(content))
    plain = io.BytesIO(content)
    for source in (tmp_path / "sealed", io.BytesIO((tmp_path / "sealed").read_bytes())):
        plain.seek(0)
        with EncryptedReader(source, KEY) as sealed:
            assert sealed.length == size
            for _ in range(300):
                action, amount = rng.randrange(6), rng.randrange(-3, size + 10)
                if action == 0:
                    assert sealed.read(amount) == plain.read(amount)
                elif action == 1:
                    assert sealed.seek(abs(amount)) == plain.seek(abs(amount))
                elif action == 2:
                    # BytesIO stops at zero where a file refuses.
                    step = max(amount - size, -size)
                    assert sealed.seek(step, io.SEEK_END) == plain.seek(step, io.SEEK_END)
                elif action == 3:
                    ours, theirs = bytearray(abs(amount)), bytearray(abs(amount))
                    assert sealed.readinto(ours) == plain.readinto(theirs)
                    assert ours == theirs
                elif action == 4:
                    assert sealed.readline() == plain.readline()
                else:
                    assert sealed.read_at(abs(amount), 7) == content[abs(amount) : abs(amount) + 7]
                assert sealed.tell() == plain.tell()
            sealed.seek(0)
            assert sealed.read() == content
            with pytest.raises(ValueError, match="no such place"):
                sealed.seek(-1)


def test_a_read_decrypts_only_the_segments_it_touches(tmp_path, monkeypatch):
    (tmp_path / "sealed").write_bytes(_written(_content(100 * SEGMENT)))
    with EncryptedReader(tmp_path / "sealed", KEY) as sealed:
        opened = []
        fetch = sealed._fetch
        monkeypatch.setattr(sealed, "_fetch", lambda *place: opened.append(place) or fetch(*place))
        sealed.read_at(50 * SEGMENT - 1, 2)
        assert [length for _, length in opened] == [SEGMENT + 16] * 2
        sealed.read_at(50 * SEGMENT + 3, 5)
        assert len(opened) == 2


def test_a_context_or_content_or_key_that_differs_does_not_open_it(tmp_path):
    path = tmp_path / "sealed"
    with EncryptedWriter(path, KEY, context=b"patients", content=Content.TABLE) as file:
        file.write(b"x")
    good = {"key": KEY, "context": b"patients", "content": Content.TABLE}
    assert EncryptedReader(path, **good).read() == b"x"
    for wrong, named in (
        ({"context": b"payroll"}, "context differs"),
        ({"content": Content.BYTES}, "holds table, not bytes"),
        ({"key": Key(bytes(32), key_id="k1")}, "another secret of that name"),
        ({"key": Key(bytes(32), key_id="k2")}, "encrypted with the key 'k1', and only 'k2' is here"),
    ):
        with pytest.raises(WrongKeyError, match=named) as raised:
            EncryptedReader(path, **{**good, **wrong})
        assert str(path) in str(raised.value)


def test_processes_made_by_fork_read_beside_each_other(tmp_path):
    content = _content(64 * SEGMENT)
    (tmp_path / "sealed").write_bytes(_written(content))
    reader = EncryptedReader(tmp_path / "sealed", KEY)
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            rng = random.Random(number)
            places = [rng.randrange(len(content)) for _ in range(500)]
            os._exit(0 if all(reader.read_at(place, 9) == content[place : place + 9] for place in places) else 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    reader.close()


def test_a_pickled_reader_opens_the_file_anew(tmp_path):
    KEY.save(tmp_path / "key")
    (tmp_path / "sealed").write_bytes(_written(b"content"))
    reader = EncryptedReader(tmp_path / "sealed", Key.from_file(tmp_path / "key"))
    pickled = pickle.dumps(reader)
    reader.close()
    assert KEY.secret not in pickled
    with pickle.loads(pickled) as again:
        assert again.read() == b"content"
    with pytest.raises(ConfigurationError, match="not pickled"):
        pickle.dumps(EncryptedReader(io.BytesIO(_written(b"content")), KEY))


def test_a_closed_file_says_so(tmp_path):
    with EncryptedWriter(tmp_path / "sealed", KEY) as writer:
        writer.write(b"x")
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"y")
    reader = EncryptedReader(tmp_path / "sealed", KEY)
    reader.close()
    with pytest.raises(ValueError, match="closed"):
        reader.read()


@pytest.mark.parametrize("size", [0, 1, 1 << 16, (1 << 16) + 1, 200_000])
def test_a_file_goes_there_and_back(tmp_path, size):
    (tmp_path / "plain").write_bytes(_content(size))
    encrypt_file(tmp_path / "plain", tmp_path / "sealed", KEY, context=b"use")
    decrypt_file(tmp_path / "sealed", tmp_path / "again", KEY, context=b"use")
    assert (tmp_path / "again").read_bytes() == _content(size)
    assert (tmp_path / "again").stat().st_mode & 0o777 == 0o600
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["again", "plain", "sealed"]


@pytest.mark.parametrize("function", [encrypt_file, decrypt_file])
def test_a_file_is_not_its_own_target(tmp_path, function):
    (tmp_path / "plain").write_bytes(b"x")
    (tmp_path / "link").symlink_to("plain")
    with pytest.raises(ConfigurationError, match="same file"):
        function(tmp_path / "plain", tmp_path / "link", KEY)
    assert (tmp_path / "plain").read_bytes() == b"x"


@pytest.mark.parametrize("size", [0, 1, 1 << 16, (1 << 17) + 3, 1 << 20])
def test_a_stream_goes_through_a_pipe(size):
    content = _content(size)
    receiving, sending = os.pipe()

    def send() -> None:
        with open(sending, "wb", buffering=0) as pipe:  # noqa: PTH123 - a descriptor
            encrypt_stream(io.BytesIO(content), pipe, KEY)

    thread = threading.Thread(target=send)
    thread.start()
    with open(receiving, "rb", buffering=0) as pipe:  # noqa: PTH123 - a descriptor
        pieces = list(decrypt_stream(pipe, KEY))
    thread.join()
    assert b"".join(pieces) == content
    assert all(len(piece) <= 1 << 16 for piece in pieces)


def test_a_target_that_takes_nothing_is_refused():
    class Full(io.RawIOBase):
        def write(self, content) -> None:
            return None

    with pytest.raises(ConfigurationError, match="target took no bytes"):
        EncryptedWriter(Full(), KEY)


@pytest.mark.parametrize("content", list(Content), ids=lambda content: content.name)
def test_rotation_moves_any_file_to_the_new_key(tmp_path, content):
    path, new = tmp_path / "sealed", Key(bytes(32), key_id="k2")
    with EncryptedWriter(path, KEY, context=b"use", content=content, segment_bits=10) as file:
        file.write(_content(3 * SEGMENT))
    before = path.read_bytes()
    assert rotate(path, KeyRing(new, KEY), context=b"use")
    with EncryptedReader(path, new, context=b"use", content=content) as file:
        assert file.read() == _content(3 * SEGMENT)
    with pytest.raises(WrongKeyError, match="'k2'"):
        EncryptedReader(path, KEY, context=b"use", content=content)
    assert len(path.read_bytes()) == len(before)
    assert path.read_bytes()[80:] != before[80:]
    after = path.stat()
    assert not rotate(path, KeyRing(new, KEY), context=b"use")
    assert path.stat() == after


def test_a_rotation_that_fails_leaves_the_file(tmp_path):
    path = tmp_path / "sealed"
    path.write_bytes(_written(_content(3 * SEGMENT)))
    damaged = bytearray(path.read_bytes())
    damaged[100] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(Exception, match="segment 1 of 3"):
        rotate(path, KeyRing(Key.generate(), KEY))
    assert path.read_bytes() == damaged
    assert [entry.name for entry in tmp_path.iterdir()] == ["sealed"]
    with pytest.raises(ConfigurationError, match=r"KeyRing\(new_key, old_key\)"):
        rotate(path, KEY)


def test_a_plain_file_is_named_as_such(tmp_path):
    (tmp_path / "plain").write_bytes(b"just text")
    with pytest.raises(NotEncryptedError, match="plain is not encrypted"):
        EncryptedReader(tmp_path / "plain", KEY)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        EncryptedReader(tmp_path / "nowhere", KEY)
