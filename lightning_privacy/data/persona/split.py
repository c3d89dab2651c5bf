"""Which records are trained on and which are held out, person by person.

Each person's side follows from that person alone: whether the records are public, or, in a table that does not say, a
hash of who it is. Which of a person's records are kept follows from what these records hold. Somebody more or less in
the table moves nobody else.

Example:
    >>> import polars as pl
    >>> table = pl.DataFrame({"record": [0, 1, 2], "person": ["a", "a", "b"], "public": [False, False, True]})
    >>> sides = split_by_person(table, person="person", held_out=0.2, val_share=0.0, seed=0)
    >>> sides["train"]["record"].to_list(), sides["test"]["record"].to_list(), len(sides["val"])
    ([0, 1], [2], 0)
"""

from __future__ import annotations

import hashlib

import polars as pl

from lightning_privacy.data.persona.own_records import row_hashes
from lightning_privacy.data.persona.publicness import PRIVATE, PUBLIC, PrivatePeople
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation._columns import ROW

__all__ = ["at_most", "split_by_person"]

_HASH_BYTES = 8


def split_by_person(
    table: pl.DataFrame, *, person: str, held_out: float, val_share: float, seed: int, by: str | None = None
) -> dict[str, pl.DataFrame]:
    """Divide the rows so that nobody is on two sides.

    Args:
        table: One row per record. Where there is a column ``public`` of truth values, people all of whose records are
            public are held out, and public records of other people are left out: they belong to neither side. So are
            those of people of whom :class:`~lightning_privacy.data.persona.publicness.PrivatePeople` has seen a private
            record that is not in the table any more.
        person: The column that says who a row is about, without nulls.
        held_out: Share of people who are held out when there is no column ``public``.
        val_share: Share of the people held out who are for validation.
        seed: Of the hashes.
        by: A column whose values are hashed in place of the person's, where those are running numbers, which depend on
            who else is in the table; the same in all rows of a person. None for ``person``.

    Returns:
        The rows by side: ``"train"``, ``"val"``, ``"test"``, and ``"neither"``.

    Raises:
        ConfigurationError: There is nobody to train on.
    """
    hashed = table[person if by is None else by]
    if PUBLIC in table.columns:
        table = PrivatePeople([person])(table)
        public = pl.col(PUBLIC).cast(pl.Boolean).fill_null(value=False)
        outside = ~pl.col(PRIVATE)
        neither = public & ~outside
    else:
        outside = pl.lit(_uniform(hashed, f"{seed}/side") < held_out)
        neither = pl.lit(value=False)
    val = outside & pl.lit(_uniform(hashed, f"{seed}/validation") < val_share)
    side = (
        pl.when(neither)
        .then(pl.lit("neither"))
        .when(val)
        .then(pl.lit("val"))
        .when(outside)
        .then(pl.lit("test"))
        .otherwise(pl.lit("train"))
    )
    marked = table.with_columns(_side=side)
    sides = {
        name: marked.filter(pl.col("_side") == name).drop("_side", PRIVATE, strict=False)
        for name in ("train", "val", "test", "neither")
    }
    if not len(sides["train"]):
        raise ConfigurationError(
            "nobody is left to train on: all records are public, or held_out is too large for so few people"
        )
    return sides


def at_most(table: pl.DataFrame, count: int, *, person: str, seed: int) -> pl.DataFrame:
    """At most so many records of each person, in the order of the table.

    Which of a person's records are kept depends on nobody else, and on no order: those of which a hash of what they
    hold, in the raw table where a pipeline carries that along, has the smallest hash. Equal ones are as good as each
    other.

    Args:
        table: One row per record.
        count: Records a person may have.
        person: The column that says who a row is about.
        seed: Of the hashes.
    """
    records = table[ROW] if ROW in table.columns else row_hashes(table)
    ranked = table.with_columns(_hash=_uniform(records, f"{seed}/record"))
    return ranked.filter(pl.col("_hash").rank("ordinal").over(person) <= count).drop("_hash")


def _uniform(values: pl.Series, salt: str) -> pl.Series:
    """A number from 0 to 1 of each value, the same on every machine."""
    key = salt.encode()
    texts = (value if isinstance(value, bytes) else str(value).encode() for value in values.to_list())
    hashes = [int.from_bytes(hashlib.blake2b(text, digest_size=_HASH_BYTES, key=key).digest(), "big") for text in texts]
    return pl.Series(hashes, dtype=pl.UInt64).cast(pl.Float64) / 2.0 ** (8 * _HASH_BYTES)
