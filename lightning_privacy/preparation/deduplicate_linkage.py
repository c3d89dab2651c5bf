"""Learns from a table which of its records are of one person, and keeps the answer for every degree of caution.

Example:
    >>> import polars as pl
    >>> people = [("ada byron", "1815-12-10", "london"), ("carl gauss", "1777-04-30", "braunschweig")]
    >>> table = pl.DataFrame(people + [("ada biron", "1815-12-10", "london")], ["name", "born", "place"], orient="row")
    >>> link_records(table).persons(0.5).tolist()
    [0, 1, 0]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log2

import numpy as np
import numpy.typing as npt
import polars as pl

from lightning_privacy._validate import one_of, within_open_unit
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation._columns import column_names, require_columns
from lightning_privacy.preparation.deduplicate_blocking import candidate_pairs
from lightning_privacy.preparation.deduplicate_clusters import PersonTree, cluster
from lightning_privacy.preparation.deduplicate_columns import KINDS, ComparedColumn, contained_columns, kind_of
from lightning_privacy.preparation.deduplicate_repeats import RepeatingColumn, repeated_columns
from lightning_privacy.preparation.deduplicate_weights import MatchWeights, compare, estimate_weights, random_levels

__all__ = ["Linkage", "equal_records", "link_records"]

Ints = npt.NDArray[np.int64]

_MOST_COLUMNS = 20  # patterns of levels are numbered in 64 bits
# Pairs are compared so many at a time, which bounds the memory of their texts.
_PAIRS_AT_ONCE = 1_000_000
# Links this much below even odds still lead two records into one part, where all pairs decide.
_MARGIN = 3.0


@dataclass(frozen=True, eq=False)
class Linkage:
    """Which records are of one person, as a function of the probability asked for.

    Attributes:
        columns: the names of the columns that were compared, to how each was.
        left_out: columns that were not compared, to the reason.
        repeats: columns that were compared beyond what they repeat of others, to these.
        candidates: pairs of different records that were compared.
        block_limit: the most records of a block whose pairs were compared.
        weights: what was learned about the columns; None where fewer than two different records are there.
    """

    columns: Mapping[str, str]
    left_out: Mapping[str, str]
    repeats: Mapping[str, tuple[str, ...]]
    candidates: int
    block_limit: int
    weights: MatchWeights | None
    _distinct: Ints
    _own_score: npt.NDArray[np.float32]
    _tree: PersonTree | None

    def persons(self, threshold: float) -> Ints:
        """The number of each record's person, counted from 0 in the order in which persons first appear.

        Args:
            threshold: probability of one person, by the mean score of all pairs between two groups, from which they
                are joined.

        Returns:
            Shape ``(records,)``.
        """
        threshold = within_open_unit(threshold=threshold)
        score = log2(threshold / (1 - threshold))
        if self._tree is None:
            persons = np.zeros(int(self._distinct.max(initial=-1)) + 1, np.int64)
        else:
            persons = self._tree.persons(score)
        # Records that are equal are one person only if what they share is rare enough to say so.
        labels = persons[self._distinct]
        alone = (self._own_score < score)[self._distinct] & ~_first_of_each(self._distinct)
        labels[alone] = len(labels) + np.flatnonzero(alone)
        return _in_order(labels)


def link_records(
    table: pl.DataFrame,
    columns: Sequence[str] | None = None,
    *,
    kinds: Mapping[str, str] | None = None,
    block_limit: int = 50,
    pair_limit: int = 50_000_000,
    seed: int = 0,
) -> Linkage:
    """Learn which records of a table are of one person. Nothing is written to disk.

    Args:
        table: the records.
        columns: what to compare; None for all columns.
        kinds: column to ``"text"``, ``"code"``, ``"date"``, ``"number"`` or ``"category"``; the others are guessed.
        block_limit: groups of records that agree in two things are compared if they have no more records.
        pair_limit: the most pairs to compare; the block limit is lowered until it holds.
        seed: of the random pairs on which chance agreement is counted.

    Raises:
        ConfigurationError: a column is unknown or can't be compared, or more than 20 would be compared.
    """
    names = tuple(table.columns) if columns is None else column_names("columns", columns, empty=False)
    require_columns("columns", names, table.columns)
    compared, left_out = _compared(table, names, dict(kinds or {}))
    codes = np.column_stack([column.codes for column in compared]) if compared else np.zeros((table.height, 0))
    representatives, distinct = _distinct_rows(codes)
    described = {column.name: column.kind for column in compared}
    repeats = {column.name: column.repeats for column in compared if isinstance(column, RepeatingColumn)}
    if len(representatives) < 2:
        own = np.full(len(representatives), np.inf if compared else -np.inf, np.float32)
        return Linkage(described, left_out, repeats, 0, block_limit, None, distinct, own, None)
    unique = [column.take(representatives) for column in compared]
    pairs = candidate_pairs(unique, block_limit=block_limit, pair_limit=pair_limit)
    first, second = pairs.first, pairs.second
    chunks = [slice(start, start + _PAIRS_AT_ONCE) for start in range(0, len(first), _PAIRS_AT_ONCE)]
    found = [compare(unique, first[chunk], second[chunk]) for chunk in chunks]
    levels = [
        np.concatenate([part[number] for part in found]) if found else np.zeros(0, np.int8)
        for number in range(len(unique))
    ]
    chance = random_levels(unique, np.random.default_rng(seed))
    weights = estimate_weights(unique, levels, chance, repeated=table.height - len(representatives))
    scores = weights.score_levels(unique, levels, first, second)
    likely = scores >= -_MARGIN
    tree = cluster(
        len(representatives),
        first[likely],
        second[likely],
        scores[likely],
        lambda one, other: weights.score(unique, one, other),
    )
    everyone = np.arange(len(representatives))
    own = weights.score(unique, everyone, everyone)
    return Linkage(described, left_out, repeats, len(first), pairs.block_limit, weights, distinct, own, tree)


def equal_records(table: pl.DataFrame, columns: Sequence[str] | None = None) -> Ints:
    """A number for each record, the same for records equal in all columns, in order of appearance.

    Case and outer white space make no difference. Records of which half or more is missing are nobody's duplicate.

    Args:
        table: the records.
        columns: what to compare; None for all columns.

    Raises:
        ConfigurationError: a column is unknown or can't be compared.
    """
    names = tuple(table.columns) if columns is None else column_names("columns", columns, empty=False)
    require_columns("columns", names, table.columns)
    codes = np.column_stack([ComparedColumn(table[name], kind_of(table[name])).codes for name in names])
    labels = _distinct_rows(codes)[1]
    sparse = (codes < 0).mean(axis=1) >= 0.5
    labels[sparse] = len(labels) + np.flatnonzero(sparse)
    return _in_order(labels)


def _compared(
    table: pl.DataFrame, names: Sequence[str], kinds: dict[str, str]
) -> tuple[list[ComparedColumn], dict[str, str]]:
    require_columns("kinds", kinds, table.columns)
    for name, kind in kinds.items():
        one_of(sorted(KINDS), **{f"kind of column {name!r}": kind})
    columns, left_out = [], {}
    for name in names:
        column = ComparedColumn(table[name], kinds.get(name) or kind_of(table[name]))
        if column.distinct == 0:
            left_out[name] = "every value is missing"
        elif column.distinct == 1:
            left_out[name] = "every value is the same"
        else:
            columns.append(column)
    if len(columns) > _MOST_COLUMNS:
        raise ConfigurationError(
            f"columns: {len(columns)} are too many to compare, at most {_MOST_COLUMNS}; name those that tell people "
            f"apart"
        )
    if table.height > 1:
        for name, part in contained_columns(columns).items():
            left_out[name] = f"repeats {part!r}"
    kept = [column for column in columns if column.name not in left_out]
    repeated = repeated_columns(kept) if table.height > 1 else {}
    return [
        RepeatingColumn(column, repeated[column.name]) if column.name in repeated else column for column in kept
    ], left_out


def _distinct_rows(codes: npt.NDArray[np.generic]) -> tuple[Ints, Ints]:
    """The first row of each kind, and for each row the number of its kind in order of appearance."""
    frame = pl.DataFrame({str(number): codes[:, number] for number in range(codes.shape[1])})
    if not frame.width:
        return np.zeros(min(1, len(codes)), np.int64), np.zeros(len(codes), np.int64)
    rows = pl.int_range(pl.len(), dtype=pl.Int64).alias("row")
    first = frame.with_columns(rows).select(pl.col("row").first().over(frame.columns)).to_series().to_numpy()
    return np.unique(first), np.unique(first, return_inverse=True)[1].astype(np.int64)


def _first_of_each(labels: Ints) -> npt.NDArray[np.bool_]:
    first = np.zeros(len(labels), dtype=bool)
    first[np.unique(labels, return_index=True)[1]] = True
    return first


def _in_order(labels: Ints) -> Ints:
    _, earliest, place = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(earliest), np.int64)
    rank[np.argsort(earliest)] = np.arange(len(earliest))
    return rank[place]
