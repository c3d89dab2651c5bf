"""Where keys come from, what is refused, and what a key tells about itself."""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import os
import pickle
from datetime import UTC, datetime, timedelta

import pytest

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.security import EncryptionError, Key, KeyExpiredError, KeyRing, WrongKeyError, as_key_ring

SECRET = bytes(range(200, 232))
SALT = bytes(range(16))
FORMS = {
    "bytes": SECRET,
    "hexadecimal": SECRET.hex().encode(),
    "capital hexadecimal with a newline": SECRET.hex().upper().encode() + b"\n",
    "base64": base64.b64encode(SECRET),
    "URL-safe base64 without padding": base64.urlsafe_b64encode(SECRET).rstrip(b"="),
}


def _hkdf(secret: bytes, salt: bytes | None, info: bytes, length: int) -> bytes:
    """RFC 5869, from its text."""
    pseudo = hmac.digest(salt or bytes(32), secret, hashlib.sha256)
    output, block = b"", b""
    while len(output) < length:
        block = hmac.digest(pseudo, block + info + bytes([len(output) // 32 + 1]), hashlib.sha256)
        output += block
    return output[:length]


def _file(tmp_path, content: bytes, mode: int = 0o600):
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_a_file_may_hold_the_key_in_any_usual_form(tmp_path, form):
    assert Key.from_file(_file(tmp_path, FORMS[form])).secret == SECRET


@pytest.mark.parametrize("form", [name for name in FORMS if name != "bytes"])
def test_so_may_an_environment_variable(monkeypatch, form):
    monkeypatch.setenv("STORE_KEY", FORMS[form].decode())
    assert Key.from_environment("STORE_KEY").secret == SECRET


def test_a_saved_key_comes_back_with_id_and_date(tmp_path):
    key = Key.generate(key_id="2026", expires="2030-01-31T00:00:00+00:00")
    key.save(tmp_path / "new" / "key")
    again = Key.from_file(tmp_path / "new" / "key")
    assert (again, again.key_id, again.expires) == (key, "2026", datetime(2030, 1, 31, tzinfo=UTC))
    assert (tmp_path / "new" / "key").stat().st_mode & 0o777 == 0o600


def test_saving_never_overwrites_a_key(tmp_path):
    Key.generate().save(tmp_path / "key")
    before = (tmp_path / "key").read_bytes()
    with pytest.raises(ConfigurationError, match="there already"):
        Key.generate().save(tmp_path / "key")
    assert (tmp_path / "key").read_bytes() == before


def test_a_key_file_a_kill_left_open_to_others_is_not_reused(tmp_path):
    (tmp_path / "key.partial").write_bytes(b"")
    (tmp_path / "key.partial").chmod(0o644)
    Key.generate().save(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_key_file_that_others_can_use_is_refused(tmp_path, mode):
    path = _file(tmp_path, SECRET, mode)
    with pytest.raises(ConfigurationError, match=rf"used by others .*mode {mode:04o}.*chmod 600"):
        Key.from_file(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"correct horse battery staple",
        b"a passphrase of 32 characters...",
        SECRET[:31],
        SECRET + b"\x00",
        SECRET.hex().encode()[:-1] + b"g",
        b"{}",
        b'{"lightning_privacy_key": 1}',
        b'{"lightning_privacy_key": true, "secret": "' + SECRET.hex().encode() + b'"}',
        b'{"lightning_privacy_key": 1, "secret": "abcd"}',
        b'{"lightning_privacy_key": 1, "secret": "' + SECRET.hex().encode() + b'", "expires": "soon"}',
        b"[" * 5000,
        b"{" + b'"a":[' * 700,
    ],
    ids=lambda content: repr(content[:24]),
)
def test_what_is_no_key_is_refused_and_not_quoted(tmp_path, content):
    with pytest.raises(ConfigurationError, match="not a key") as raised:
        Key.from_file(_file(tmp_path, content))
    assert str(tmp_path / "key") in str(raised.value)
    assert not content or content[-20:].decode("latin1") not in str(raised.value)


def test_a_key_of_a_newer_form_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigurationError, match="version 2"):
        Key.from_file(_file(tmp_path, b'{"lightning_privacy_key": 2}'))


def test_a_missing_file_or_variable_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Key.from_file(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match="NO_SUCH_KEY is not set"):
        Key.from_environment("NO_SUCH_KEY")


def test_a_passphrase_goes_through_scrypt():
    key = Key.from_passphrase("correct horse battery staple", salt=SALT)
    expected = hashlib.scrypt(b"correct horse battery staple", salt=SALT, n=2**17, r=8, p=1, maxmem=2**28, dklen=32)
    assert key.secret == expected


def test_the_salt_may_be_in_a_file_that_is_made_once(tmp_path):
    first = Key.from_passphrase("correct horse battery staple", salt=tmp_path / "salt")
    assert len((tmp_path / "salt").read_bytes()) == 16
    assert Key.from_passphrase("correct horse battery staple", salt=str(tmp_path / "salt")) == first


@pytest.mark.parametrize(
    ("passphrase", "salt", "named"),
    [("short", SALT, "passphrase"), (b"x" * 20, SALT, "passphrase"), ("x" * 20, SALT[:15], "salt")],
)
def test_a_weak_passphrase_or_salt_is_refused(passphrase, salt, named):
    with pytest.raises(ConfigurationError, match=named):
        Key.from_passphrase(passphrase, salt=salt)


def test_a_service_gives_the_key():
    assert Key.from_callable(lambda: SECRET, key_id="service").key_id == "service"
    given = Key(SECRET, key_id="its own", expires="2030-01-01T00:00:00+00:00")
    assert Key.from_callable(lambda: given).expires == given.expires


def test_a_service_that_fails_is_named_with_its_cause():
    def vault() -> bytes:
        raise TimeoutError("no answer")

    with pytest.raises(EncryptionError, match=r"TimeoutError: no answer.*vault") as raised:
        Key.from_callable(vault)
    assert isinstance(raised.value.__cause__, TimeoutError)
    with pytest.raises(ConfigurationError, match="secret must be 32 bytes, got 5"):
        Key.from_callable(lambda: b"short")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"secret": "text"}, "secret must be 32 bytes, got str"),
        ({"secret": bytes(16)}, "secret must be 32 bytes, got 16"),
        ({"key_id": ""}, "key_id must be"),
        ({"key_id": "x" * 65}, "key_id must be"),
        ({"key_id": "née"}, "key_id must be printable ASCII"),
        ({"key_id": "a\nb"}, "key_id must be printable ASCII"),
        ({"expires": "tomorrow"}, "expires must be"),
        ({"expires": "2030-01-01"}, "expires must be a datetime with a time zone"),
        ({"expires": 3}, "expires must be"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named(arguments, named):
    with pytest.raises(ConfigurationError, match=named):
        Key(**{"secret": SECRET, **arguments})


def test_what_is_derived_follows_rfc_5869():
    key = Key(SECRET)
    assert key.derive("pseudonyms") == _hkdf(SECRET, None, b"lightning_privacy/pseudonyms", 32)
    assert key.derive("pseudonyms", length=70, salt=b"s") == _hkdf(SECRET, b"s", b"lightning_privacy/pseudonyms", 70)
    assert key.key_id == _hkdf(SECRET, None, b"lightning_privacy/key id", 8).hex()


def test_the_secret_is_in_no_text():
    key = Key(SECRET, key_id="visible")
    for text in (repr(key), str(key), repr(KeyRing(key)), f"{key}"):
        assert SECRET.hex() not in text
        assert repr(SECRET)[2:-1] not in text
        assert "visible" in text


def test_a_key_is_pickled_as_the_place_it_comes_from(tmp_path, monkeypatch):
    Key(SECRET).save(tmp_path / "key")
    monkeypatch.setenv("STORE_KEY", SECRET.hex())
    fetched = Key.from_callable(_service, key_id="of the service", expires="2030-01-01T00:00:00+00:00")
    for key in (Key.from_file(tmp_path / "key"), Key.from_environment("STORE_KEY"), fetched):
        pickled = pickle.dumps(key)
        assert SECRET not in pickled
        assert SECRET.hex().encode() not in pickled
        again = pickle.loads(pickled)
        assert (again, again.key_id, again.expires) == (key, key.key_id, key.expires)


def _service() -> bytes:
    return SECRET


def test_a_bare_secret_is_not_pickled():
    with pytest.raises(ConfigurationError, match=r"not pickled.*file"):
        pickle.dumps({"hyper_parameters": Key(SECRET)})
    assert copy.deepcopy({"key": Key(SECRET)})["key"] == Key(SECRET)


def test_an_expired_key_is_refused_and_as_an_older_one_still_decrypts():
    past = datetime.now(UTC) - timedelta(seconds=1)
    old, new = Key(SECRET, key_id="old", expires=past), Key.generate(key_id="new")
    with pytest.raises(KeyExpiredError, match=r"'old' expired on .*KeyRing\(new, old\)"):
        KeyRing(old).encrypting()
    with pytest.raises(KeyExpiredError):
        KeyRing(old).decrypting("old")
    ring = KeyRing(new, old)
    assert ring.decrypting("old") is old
    assert ring.encrypting() is ring.current is new
    Key(SECRET, expires=datetime.now(UTC) + timedelta(hours=1)).check_usable()


def test_a_ring_names_the_key_it_lacks():
    with pytest.raises(WrongKeyError, match="'third', and only 'a', 'b' is here"):
        KeyRing(Key(SECRET, key_id="a"), Key(SALT * 2, key_id="b")).decrypting("third")


def test_a_ring_needs_ids_that_differ():
    with pytest.raises(ConfigurationError, match="ids that differ"):
        KeyRing(Key(SECRET, key_id="a"), Key(SALT * 2, key_id="a"))


@pytest.mark.parametrize(
    "given", [SECRET, bytearray(SECRET), Key(SECRET), KeyRing(SECRET)], ids=lambda g: type(g).__name__
)
def test_a_key_may_be_given_as_bytes_as_key_or_as_ring(given):
    assert as_key_ring(given).current.secret == SECRET


@pytest.mark.parametrize("given", ["text", None, 5, os.urandom(31)], ids=lambda g: type(g).__name__)
def test_what_can_not_be_a_key_is_refused(given):
    with pytest.raises(ConfigurationError, match="32 bytes"):
        as_key_ring(given)
