"""Which pairs of records are worth comparing: those that agree in two things, or in one that is rare.

All pairs of a million records are half a trillion. Two records of one person nearly always share two of: a whole
value, a word of a text, the month or the year of a date. Records that share such a pair of keys form a block, and
only records of one block are compared; blocks with many records (all women of London) are left out, as one more key
breaks them up.

Example:
    >>> import polars as pl
    >>> table = pl.DataFrame({"name": ["ada byron", "ada biron", "carl gauss"], "place": ["london", "london", "ulm"]})
    >>> columns = [ComparedColumn(table[name], "text") for name in table.columns]
    >>> candidate_pairs(columns).first.tolist(), candidate_pairs(columns).second.tolist()
    ([0], [1])
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import polars as pl

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation.deduplicate_columns import ComparedColumn

__all__ = ["CandidatePairs", "candidate_pairs"]

_SHORTEST_WORD = 3
_MONTH, _YEAR = 7, 4


@dataclass(frozen=True)
class CandidatePairs:
    """Pairs of records, each once.

    Attributes:
        first: position of the earlier record, shape ``(pairs,)``.
        second: position of the later one.
        block_limit: the most records a block had.
    """

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    block_limit: int


def candidate_pairs(
    columns: Sequence[ComparedColumn], *, block_limit: int = 50, pair_limit: int = 50_000_000
) -> CandidatePairs:
    """Pairs of records that share a block.

    Args:
        columns: the compared columns, at least one.
        block_limit: blocks with more records are left out.
        pair_limit: where there would be more pairs, counted once for each block, the limit of a block is halved until
            there are not.

    Returns:
        The pairs, ordered.
    """
    count = len(columns[0].codes)
    keys = [_Key(column.name, frame) for column in columns for frame in _keys(column)]
    while True:
        codes = _collect(keys, count, block_limit, pair_limit)
        if codes is not None:
            return CandidatePairs(codes // count, codes % count, block_limit)
        if block_limit <= 2:
            raise ConfigurationError(
                f"blocks of two records alone make more than pair_limit={pair_limit:,} pairs: raise it, or compare "
                f"fewer columns"
            )
        block_limit = max(2, block_limit // 2)


@dataclass(frozen=True)
class _Key:
    """One thing that records may share: the column it is of, and frames of record and hashed key."""

    column: str
    frame: pl.DataFrame


def _keys(column: ComparedColumn) -> Iterator[pl.DataFrame]:
    frame = pl.DataFrame({"record": np.arange(len(column.codes)), "key": column.texts}).drop_nulls()

    def hashed(key: pl.Expr) -> pl.DataFrame:
        return frame.select("record", key.hash().alias("key"))

    yield hashed(pl.col("key"))
    if column.kind == "text":
        words = frame.with_columns(pl.col("key").str.extract_all(rf"\w{{{_SHORTEST_WORD},}}"))
        words = words.explode("key", empty_as_null=True).drop_nulls().unique(maintain_order=True)
        yield words.select("record", pl.col("key").hash())
    elif column.kind == "date":
        yield hashed(pl.col("key").str.slice(0, _MONTH))
        yield hashed(pl.col("key").str.slice(0, _YEAR))


def _collect(keys: Sequence[_Key], count: int, block_limit: int, pair_limit: int) -> npt.NDArray[np.int64] | None:
    """Codes ``first * count + second`` of all pairs, or None when there are more than the limit."""
    found: list[pl.Series] = []
    total = 0
    for block_keys in _combined(keys):
        blocks = block_keys.group_by("key").agg("record")
        blocks = blocks.filter(pl.col("record").list.len().is_between(2, block_limit)).select("record")
        sizes = blocks["record"].list.len().cast(pl.Int64)
        total += int((sizes * (sizes - 1) // 2).sum())
        if total > pair_limit:
            return None
        members = blocks.with_row_index("block").explode("record", empty_as_null=True)
        pairs = members.join(members, on="block").filter(pl.col("record") < pl.col("record_right"))
        found.append(pairs.select((pl.col("record") * count + pl.col("record_right")).unique()).to_series())
    return pl.concat(found).unique().sort().to_numpy()


def _combined(keys: Sequence[_Key]) -> Iterator[pl.DataFrame]:
    """Each key by itself, and each two keys of different columns."""
    for key in keys:
        yield key.frame
    for one, other in combinations(keys, 2):
        if one.column != other.column:
            both = one.frame.join(other.frame, on="record")
            yield both.select("record", pl.struct("key", "key_right").hash().alias("key"))
