"""A secret key: where it comes from, how it is called, and how long it may be used.

A key is 32 random bytes. It is never used to encrypt by itself: each file has a key of its own, derived from it by
HKDF-SHA256 (RFC 5869) with a salt of the file. What names it in those files is its id, by default a value derived from
the secret in the same way, which tells nothing about it. A passphrase becomes a key by scrypt (RFC 7914) with
N = 2**17, r = 8 and p = 1: 128 MiB and some tenths of a second for each guess.

Past its date a key is refused. As an *older* key of a :class:`~lightning_privacy.security.KeyRing` it still decrypts:
that is how a file gets to the next key.

Python can't wipe memory, so a secret stays in the memory of the process while it runs. It is not in the ``repr``, and
a key is pickled, for worker processes, only as the place it comes from.

Example:
    >>> import pathlib, tempfile
    >>> from lightning_privacy.security import Key
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "store.key")
    ...     Key.generate(key_id="2026").save(path)
    ...     Key.from_file(path)
    Key(key_id='2026', expires=None)
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from lightning_privacy._validate import positive_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.security.atomic_file import AtomicFile
from lightning_privacy.security.errors import EncryptionError, KeyExpiredError
from lightning_privacy.security.key_text import SECRET_BYTES, format_key, parse_key

__all__ = ["Key"]

_LONGEST_ID = 64
_SALT_BYTES = 16
_SHORTEST_PASSPHRASE = 8
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 2**17, 8, 1


class Key:
    """A key of 32 bytes with a name and, where wanted, a date of expiry. Immutable.

    Args:
        secret: 32 bytes from a source of randomness fit for keys.
        key_id: What files encrypted with it call it: 1 to 64 printable ASCII characters, no secret; derived from the
            secret when None.
        expires: From when on it is refused: a datetime with a time zone, or such a one in ISO form.

    Raises:
        ConfigurationError: An argument is not usable; the message never shows the secret.

    Example:
        >>> Key(bytes(32), key_id="zeros", expires="2020-01-01T00:00:00+00:00").check_usable()
        Traceback (most recent call last):
            ...
        lightning_privacy.security.errors.KeyExpiredError: the key 'zeros' expired on 2020-01-01T00:00:00+00:00: ...
    """

    __slots__ = ("_expires", "_key_id", "_origin", "_secret")

    def __init__(
        self, secret: bytes | bytearray, *, key_id: str | None = None, expires: datetime | str | None = None
    ) -> None:
        if not isinstance(secret, bytes | bytearray):
            raise ConfigurationError(
                f"secret must be {SECRET_BYTES} bytes, got {type(secret).__name__}; a passphrase becomes a key with "
                "Key.from_passphrase, a file with Key.from_file"
            )
        if len(secret) != SECRET_BYTES:
            raise ConfigurationError(
                f"secret must be {SECRET_BYTES} bytes, got {len(secret)}; make one with Key.generate()"
            )
        self._secret = bytes(secret)
        self._expires = _moment(expires)
        self._key_id = self.derive("key id", length=8).hex() if key_id is None else _checked_id(key_id)
        self._origin: tuple[Any, ...] | None = None

    @classmethod
    def generate(cls, *, key_id: str | None = None, expires: datetime | str | None = None) -> Key:
        """A new key from the operating system's randomness."""
        return cls(secrets.token_bytes(SECRET_BYTES), key_id=key_id, expires=expires)

    @classmethod
    def from_file(cls, path: str | Path, *, key_id: str | None = None) -> Key:
        """The key in a file that only its owner can read.

        Args:
            path: A file written by :meth:`save`, or one with 32 bytes, 64 hexadecimal digits or base64 of 32 bytes.
            key_id: Its name, where the file does not give one.

        Raises:
            ConfigurationError: Others than the owner may read or write the file, or it holds no key.
            OSError: It can't be read; the error names it.
        """
        with Path(path).expanduser().open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise ConfigurationError(
                    f"the key file {path} can be used by others than its owner (mode {mode:04o}): chmod 600 {path}"
                )
            content = file.read(1 << 16)
        return cls._parsed(
            content, f"the file {path}", key_id, ("file", str(Path(path).expanduser().absolute()), key_id)
        )

    @classmethod
    def from_environment(cls, name: str, *, key_id: str | None = None) -> Key:
        """The key in an environment variable, in one of the forms of text of :meth:`from_file`.

        Raises:
            ConfigurationError: The variable is not set, or holds no key.
        """
        value = os.environ.get(name)
        if not value:
            raise ConfigurationError(
                f"the environment variable {name} is not set: put a key there, such as the content of a file "
                "written by Key.generate().save(path)"
            )
        return cls._parsed(
            os.fsencode(value), f"the environment variable {name}", key_id, ("environment", name, key_id)
        )

    @classmethod
    def from_passphrase(
        cls,
        passphrase: str,
        *,
        salt: bytes | str | Path,
        key_id: str | None = None,
        expires: datetime | str | None = None,
    ) -> Key:
        """The key that scrypt makes of a passphrase and a salt; the same two give the same key.

        Args:
            passphrase: At least 8 characters; five or more random words are better.
            salt: At least 16 random bytes, no secret, but needed to read again. Or the path of a file that holds
                them, which is made with new ones when there is none: keep it with the data.
            key_id: Its name; derived when None.
            expires: From when on it is refused.

        Raises:
            ConfigurationError: The passphrase or salt is too short.
            OSError: The file of the salt can't be read or made.
        """
        if not isinstance(passphrase, str) or len(passphrase) < _SHORTEST_PASSPHRASE:
            raise ConfigurationError(
                f"passphrase must be text of at least {_SHORTEST_PASSPHRASE} characters: take five random words"
            )
        salt = _kept_salt(Path(salt)) if isinstance(salt, str | Path) else salt
        if not isinstance(salt, bytes) or len(salt) < _SALT_BYTES:
            raise ConfigurationError(f"salt must be at least {_SALT_BYTES} bytes: take os.urandom({_SALT_BYTES})")
        scrypt = Scrypt(salt=salt, length=SECRET_BYTES, n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P)
        return cls(scrypt.derive(passphrase.encode()), key_id=key_id, expires=expires)

    @classmethod
    def from_callable(
        cls,
        fetch: Callable[[], bytes | bytearray | Key],
        *,
        key_id: str | None = None,
        expires: datetime | str | None = None,
    ) -> Key:
        """The key a key management service gives: ``fetch`` is called once, now.

        Args:
            fetch: Gives 32 bytes or a key. A function of a module, which a worker process can import, lets the key
                be pickled for workers, which then fetch it themselves.
            key_id: Its name, where ``fetch`` gives bytes; derived when None.
            expires: From when on it is refused, where ``fetch`` gives bytes.

        Raises:
            EncryptionError: ``fetch`` failed; its error is the cause.
            ConfigurationError: It gave something that is not a key.
        """
        try:
            fetched = fetch()
        except Exception as error:
            raise EncryptionError(
                f"the key could not be fetched ({type(error).__name__}: {error}): see to the service behind "
                f"{getattr(fetch, '__qualname__', fetch)!s}"
            ) from error
        if isinstance(fetched, Key):
            key = cls(fetched.secret, key_id=key_id or fetched.key_id, expires=expires or fetched.expires)
        else:
            key = cls(fetched, key_id=key_id, expires=expires)
        key._origin = ("callable", fetch, key_id, None if expires is None else key._expires)
        return key

    @classmethod
    def _parsed(cls, content: bytes, place: str, key_id: str | None, origin: tuple[Any, ...]) -> Key:
        try:
            secret, written_id, expires = parse_key(content)
            key = cls(secret, key_id=written_id or key_id, expires=expires)
        except ConfigurationError as error:
            raise ConfigurationError(f"{place}: {error}") from None
        key._origin = origin
        return key

    @property
    def secret(self) -> bytes:
        """The 32 bytes. Derive from them with :meth:`derive` rather than use them."""
        return self._secret

    @property
    def key_id(self) -> str:
        """What files encrypted with this key call it."""
        return self._key_id

    @property
    def expires(self) -> datetime | None:
        """From when on it is refused; None for never."""
        return self._expires

    def derive(self, purpose: str, *, length: int = 32, salt: bytes | None = None) -> bytes:
        """Bytes for one purpose, from which neither the secret nor those of another purpose follow (HKDF-SHA256).

        Args:
            purpose: What they are for, such as ``"pseudonyms"``.
            length: How many, at least 1.
            salt: Sets apart several of one purpose.
        """
        return self.derive_bound(b"lightning_privacy/" + purpose.encode(), length=length, salt=salt)

    def derive_bound(self, info: bytes, *, length: int, salt: bytes | None) -> bytes:
        """Bytes that belong to exactly these ``info`` and ``salt``; the info of a file is its header."""
        kdf = HKDF(algorithm=hashes.SHA256(), length=positive_int(length=length), salt=salt, info=info)
        return kdf.derive(self._secret)

    def check_usable(self) -> None:
        """Nothing, unless the key is past its date.

        Raises:
            KeyExpiredError: It is.
        """
        if self._expires is not None and datetime.now(UTC) >= self._expires:
            raise KeyExpiredError(
                f"the key {self._key_id!r} expired on {self._expires.isoformat()}: take a new key for what is "
                "written, and read what is there with KeyRing(new, old), or re-encrypt it with rotate(path, ring)"
            )

    def save(self, path: str | Path) -> None:
        """Write the key to a new file that only its owner can read.

        Raises:
            ConfigurationError: There is a file already: overwriting a key loses what it encrypts.
            OSError: The file can't be written; the error names it.
        """
        path = Path(path)
        if path.exists():
            raise ConfigurationError(
                f"{path} is there already, and what its key has encrypted is lost without it: choose another name"
            )
        with AtomicFile(path, mode=0o600) as file:
            file.write(format_key(self._secret, self._key_id, self._expires).encode())

    def __repr__(self) -> str:
        return f"Key(key_id={self._key_id!r}, expires={None if self._expires is None else self._expires.isoformat()!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and hmac.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        return hash(self._key_id)

    def __copy__(self) -> Key:
        return self

    def __deepcopy__(self, memo: object) -> Key:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self._origin is None:
            raise ConfigurationError(
                f"the key {self._key_id!r} holds a secret and is not pickled: take one from a file, an environment "
                "variable or a function of a module, which worker processes fetch for themselves, or start the "
                "workers by fork"
            )
        return _fetch_again, self._origin


def _fetch_again(kind: str, *arguments: Any) -> Key:
    """What a worker process makes of a pickled key: it goes to the same place."""
    if kind == "file":
        path, key_id = arguments
        return Key.from_file(path, key_id=key_id)
    if kind == "environment":
        name, key_id = arguments
        return Key.from_environment(name, key_id=key_id)
    fetch, key_id, expires = arguments
    return Key.from_callable(fetch, key_id=key_id, expires=expires)


def _checked_id(key_id: object) -> str:
    if not isinstance(key_id, str) or not 0 < len(key_id) <= _LONGEST_ID:
        raise ConfigurationError(f"key_id must be text of 1 to {_LONGEST_ID} characters, got {key_id!r}")
    if not (key_id.isascii() and key_id.isprintable()):
        raise ConfigurationError(f"key_id must be printable ASCII, got {key_id!r}")
    return key_id


def _moment(expires: object) -> datetime | None:
    if expires is None:
        return None
    moment: object = expires
    if isinstance(expires, str):
        try:
            moment = datetime.fromisoformat(expires)
        except ValueError:
            moment = None
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise ConfigurationError(
            f"expires must be a datetime with a time zone, or one in ISO form such as "
            f"'2030-01-31T00:00:00+00:00', got {expires!r}"
        )
    return moment


def _kept_salt(path: Path) -> bytes:
    """What the file holds; new random bytes, written there, when there is none."""
    if not path.exists():
        with AtomicFile(path) as file:
            file.write(secrets.token_bytes(_SALT_BYTES))
    return path.read_bytes()
