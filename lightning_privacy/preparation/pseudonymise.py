"""Pseudonyms in place of names: keyed, so that nobody without the key can compute one or check a guess.

A pseudonym is HMAC-SHA256 (RFC 2104) of the name under a key that is kept outside the data, cut to 128 bits. The same
name gets the same pseudonym under the same key, in every table, so that rows of one person stay together. A hash
without a key would not do: who has a list of names hashes them all.

Under another key, as after a rotation, everybody has another pseudonym. And what is left is still data of people: who
has the key, or the rest of the row, may find out who it is (GDPR, recital 26). For the rest of the row
there are the modules ``generalise`` and ``anonymity``.

Example:
    >>> import polars as pl
    >>> from lightning_privacy.preparation import Context, Roles
    >>> table = pl.DataFrame({"name": ["Ada", "Bob", "Ada", None]})
    >>> step = Pseudonymise()
    >>> step.fit(table.lazy(), Context(roles=Roles(identifier="name"), key=bytes(32)))
    >>> hidden = step.run(table)["name"]
    >>> hidden[0] == hidden[2] != hidden[1], hidden[3], len(hidden[0])
    (True, None, 32)
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Any, ClassVar

import polars as pl

from lightning_privacy._validate import positive_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation._columns import column_names, require_columns
from lightning_privacy.preparation._key_material import derived_key
from lightning_privacy.preparation.step import Context, Step

__all__ = ["Pseudonymise", "pseudonym"]

_FEWEST_BITS, _MOST_BITS = 64, 256


def pseudonym(value: str, key: Any, *, domain: str = "person", bits: int = 128) -> str:
    """Return the pseudonym of one name.

    Args:
        value: the name, in the one spelling it is to have: normalise before.
        key: 32 bytes, or a key or ring of ``security``.
        domain: what kind of thing is named. Pseudonyms of different domains can't be matched.
        bits: length, a multiple of 4 from 64 to 256. Among n names two share one with probability n^2 / 2^(bits + 1).

    Returns:
        ``bits / 4`` hexadecimal digits.

    Raises:
        ConfigurationError: an argument is out of range, or the key is none.
    """
    return _digest(value, _domain_key(key, domain), _digits(bits))


def _digest(value: str, key: bytes, digits: int) -> str:
    return hmac.digest(key, value.encode("utf-8", "surrogatepass"), hashlib.sha256).hex()[:digits]


def _domain_key(key: Any, domain: str) -> bytes:
    return derived_key(key, f"pseudonyms of {domain}")


def _digits(bits: int) -> int:
    bits = positive_int(bits=bits)
    if bits % 4 or not _FEWEST_BITS <= bits <= _MOST_BITS:
        raise ConfigurationError(
            f"bits must be a multiple of 4 from {_FEWEST_BITS} to {_MOST_BITS}, got {bits}: with fewer, two people "
            f"may share a pseudonym"
        )
    return bits // 4


class Pseudonymise(Step):
    """Replaces identifiers by keyed pseudonyms; a missing one stays missing.

    Columns of one domain that hold the same names get the same pseudonyms, in this table and in others.

    Args:
        columns: the columns; None for the identifier of the roles.
        domain: what kind of thing is named, so that pseudonyms for another purpose can't be matched with these.
        bits: length of a pseudonym, a multiple of 4 from 64 to 256.

    Raises:
        ConfigurationError: an argument is out of range; at :meth:`fit`, there is no key, or no column to work on.
    """

    name: ClassVar[str] = "pseudonymise"
    learns: ClassVar[bool] = True  # the key and the roles, nothing from the rows

    def __init__(self, columns: str | Iterable[str] | None = None, *, domain: str = "person", bits: int = 128) -> None:
        super().__init__()
        self._columns = None if columns is None else column_names("columns", columns, empty=False)
        if not isinstance(domain, str) or not domain:
            raise ConfigurationError(f"domain must be a text such as 'person', got {domain!r}")
        self._domain, self._hex_digits = domain, _digits(bits)
        self._used: tuple[str, ...] = ()
        self._secret: bytes | None = None

    def check(self, schema: pl.Schema | None, context: Context) -> pl.Schema | None:
        """As of any step; there must be a key, and a column to work on."""
        super().check(schema, context)
        used = self._columns_of(context)
        if schema is not None:
            _check_columns(used, schema)
        if context.key is None:
            raise ConfigurationError(
                "pseudonymise needs a key that is kept outside the data: pass key=Key.from_file(…) or "
                "Key.from_environment(…) of lightning_privacy.security to the context"
            )
        _domain_key(context.key, self._domain)
        return None if schema is None else pl.Schema({**schema, **dict.fromkeys(used, pl.String())})

    def _columns_of(self, context: Context) -> tuple[str, ...]:
        if self._columns is not None:
            return self._columns
        if context.roles.identifier is None:
            raise ConfigurationError("pseudonymise has no column: give columns, or the role identifier to one")
        return (context.roles.identifier,)

    def _fit(self, frame: pl.LazyFrame, context: Context) -> None:
        self._used = self._columns_of(context)
        self._secret = _domain_key(context.key, self._domain)

    def _apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        _check_columns(self._used, frame.collect_schema())
        return frame.with_columns(
            pl.col(name).cast(pl.String).map_batches(self._hide, return_dtype=pl.String, is_elementwise=True)
            for name in self._used
        )

    def _hide(self, values: pl.Series) -> pl.Series:
        if self._secret is None:
            raise ConfigurationError("pseudonymise must be fitted with a key before it is applied")
        known: dict[str | None, str | None] = {None: None}
        hidden = []
        for value in values:
            if value not in known:
                known[value] = _digest(value, self._secret, self._hex_digits)
            hidden.append(known[value])
        return pl.Series(values.name, hidden, dtype=pl.String)

    def __getstate__(self) -> dict[str, Any]:
        # The key must not travel with the step, into a checkpoint, say.
        return self.__dict__ | {"_secret": None, "_fitted": False}


def _check_columns(names: Iterable[str], schema: pl.Schema) -> None:
    require_columns("columns", names, schema)
    for name in names:
        if schema[name].is_float() or schema[name].is_nested():
            raise ConfigurationError(
                f"column {name!r} holds {schema[name]}, which has no one way of being written: convert it to text"
            )
