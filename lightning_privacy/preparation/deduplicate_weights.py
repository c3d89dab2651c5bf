"""How much each degree of likeness says about two records being of one person, learned without any labels.

Fellegi and Sunter, "A Theory for Record Linkage", 1969: a level of a column is worth ``log2(m / u)`` bits, where m is
its probability among pairs of one person and u among pairs of two. The u are counted on random pairs, nearly all of
which are of two persons. The m are estimated by expectation maximisation on the candidate pairs (Winkler, "Using the
EM Algorithm for Weight Computation in the Fellegi-Sunter Model of Record Linkage", 1988). Agreement on a rare value is
worth more than on a frequent one: for equal values u is the frequency of the value.

Left alone, the estimation finds the largest cluster of pairs that agree in something, and where a table has few
duplicates or none that is people of one town. So what two records of one person look like is limited: they may differ
clearly in a column at most every second time, and over all columns at most every fifth time. With these limits a
table without duplicates ends in a share of matches near nothing.

Example:
    >>> import numpy as np
    >>> weights = MatchWeights((np.array([0.1, 0.9]),), (np.array([0.75, 0.25]),), share=0.01, prior=-10.0)
    >>> [round(float(bits), 2) for bits in weights.bits(0)]
    [0.0, -2.91, 1.85]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightning_privacy.preparation.deduplicate_columns import ComparedColumn, Levels

__all__ = ["MatchWeights", "estimate_weights", "random_levels"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# What is assumed of pairs of one person before any was seen, by number of levels; worth so many pairs.
_ASSUMED = {2: (0.1, 0.9), 4: (0.1, 0.1, 0.2, 0.6), 5: (0.1, 0.05, 0.1, 0.15, 0.6)}
_ASSUMED_PAIRS = 20.0
# The same of pairs of two persons.
_ASSUMED_CHANCE = {2: (0.5, 0.5), 4: (0.8, 0.1, 0.08, 0.02), 5: (0.9, 0.07, 0.015, 0.005, 0.01)}
_ASSUMED_CHANCE_PAIRS = 30.0
# The most that the lower levels of a column may have among pairs of one person, and of all columns on average.
_MOST_DIFFERENT, _MOST_DIFFERENT_MEAN = 0.5, 0.2
_ROUNDS, _TOLERANCE = 200, 1e-4
_RANDOM_PAIRS = 250_000


@dataclass(frozen=True)
class MatchWeights:
    """What was learned about the columns.

    Attributes:
        one_person: for each column the probabilities of levels 1, 2, ... among pairs of one person.
        two_persons: the same among pairs of two.
        share: share of candidate pairs that are of one person.
        prior: log2 of the odds that any two records are of one person.
    """

    one_person: tuple[Floats, ...]
    two_persons: tuple[Floats, ...]
    share: float
    prior: float

    def bits(self, column: int) -> Floats:
        """What each level of a column is worth, level 0 (missing) first."""
        return np.concatenate([[0.0], np.log2(self.one_person[column] / self.two_persons[column])])

    def score(self, columns: Sequence[ComparedColumn], first: Ints, second: Ints) -> npt.NDArray[np.float32]:
        """Log2 of the odds that the two records of each pair are of one person.

        Args:
            columns: the columns that the weights were learned of.
            first: positions of records, shape ``(pairs,)``.
            second: those they are compared with.
        """
        levels = compare(columns, first, second)
        return self.score_levels(columns, levels, first, second)

    def score_levels(
        self, columns: Sequence[ComparedColumn], levels: Sequence[Levels], first: Ints, second: Ints
    ) -> npt.NDArray[np.float32]:
        """As :meth:`score`, of pairs that were compared already."""
        total = np.full(len(first), self.prior, np.float32)
        for number, (column, level) in enumerate(zip(columns, levels, strict=True)):
            bits = self.bits(number)[level]
            equal = level == column.top
            bits[equal] = np.log2(self.one_person[number][-1] / column.chance(first[equal], second[equal]))
            total += bits.astype(np.float32)
        return total


def compare(columns: Sequence[ComparedColumn], first: Ints, second: Ints) -> list[Levels]:
    """The level of each column for each pair, with values of two columns that have changed places found alike."""
    levels = [column.levels(first, second) for column in columns]
    texts = [number for number, column in enumerate(columns) if column.kind == "text"]
    for place, one in enumerate(texts):
        for other in texts[place + 1 :]:
            low = (levels[one] == 1) & (levels[other] == 1)
            if low.any():
                pairs = np.flatnonzero(low)
                swapped = pairs[_swapped(columns[one], columns[other], first[pairs], second[pairs])]
                levels[one][swapped] = columns[one].top - 1
                levels[other][swapped] = columns[other].top - 1
    return levels


def _swapped(one: ComparedColumn, other: ComparedColumn, first: Ints, second: Ints) -> npt.NDArray[np.bool_]:
    # Values of both columns by hash, so that one can be looked up in the other.
    left, right = one.hashes, other.hashes
    swapped: npt.NDArray[np.bool_] = (left[first] == right[second]) & (right[first] == left[second])
    return swapped


def random_levels(columns: Sequence[ComparedColumn], generator: np.random.Generator) -> tuple[Floats, ...]:
    """Probabilities of the levels of each column among random pairs: all pairs of a small table, a million of a large.

    Args:
        columns: the columns.
        generator: of the draws.
    """
    count = len(columns[0].codes)
    if count * (count - 1) // 2 <= _RANDOM_PAIRS:
        first, second = np.triu_indices(count, 1)
    else:
        first, second = generator.integers(0, count, (2, _RANDOM_PAIRS))
        first, second = first[first != second], second[first != second]
    found: list[Floats] = []
    for column in columns:
        counts = np.bincount(column.levels(first, second), minlength=column.top + 1)[1:]
        found.append(_shares(counts + _ASSUMED_CHANCE_PAIRS * np.array(_ASSUMED_CHANCE[column.top])))
    return tuple(found)


def estimate_weights(
    columns: Sequence[ComparedColumn], levels: Sequence[Levels], chance: Sequence[Floats], *, repeated: int = 0
) -> MatchWeights:
    """Learn the weights from candidate pairs.

    Args:
        columns: the columns, of records no two of which are equal.
        levels: of each column, the levels of the candidate pairs.
        chance: of each column, the probabilities of the levels among pairs of two persons.
        repeated: how many records equal to one of these were left out.
    """
    records = len(columns[0].codes)
    all_pairs = records * (records - 1) / 2
    tops = [column.top for column in columns]
    patterns, counts = _patterns(levels, tops)
    one = [np.array(_ASSUMED[top]) for top in tops]
    two = [np.maximum(probabilities, 1e-9) for probabilities in chance]
    share = min(0.5, records / all_pairs)
    pairs = float(counts.sum())
    for number in range(_ROUNDS):
        bits = sum(np.log2(m / u)[level - 1] * (level > 0) for m, u, level in zip(one, two, patterns, strict=True))
        matched = counts / (1 + np.exp2(-np.clip(bits + np.log2(share / (1 - share)), -500, 500)))
        before, share = share, float(np.clip(matched.sum() / max(pairs, 1), 1e-12, 1 - 1e-9))
        if number and abs(share - before) <= _TOLERANCE * before:
            break
        one = _limited(
            [
                _shares(_totals(level, matched, top) + _ASSUMED_PAIRS * np.array(_ASSUMED[top]))
                for level, top in zip(patterns, tops, strict=True)
            ]
        )
        two = [_shares(_totals(level, counts - matched, top) + 0.1) for level, top in zip(patterns, tops, strict=True)]
    # One pair at least: that none was found among those that differ says little about those that are equal.
    everyone = records + repeated
    odds = min(max(share * pairs + repeated, 1.0) / (everyone * (everyone - 1) / 2), 0.5)
    prior = float(np.log2(odds / (1 - odds)))
    return MatchWeights(tuple(one), tuple(np.maximum(u, 1e-9) for u in chance), share, prior)


def _patterns(levels: Sequence[Levels], tops: Sequence[int]) -> tuple[list[Ints], Floats]:
    """The different combinations of levels, and how many pairs have each."""
    code = np.zeros(len(levels[0]), np.int64)
    for level, top in zip(levels, tops, strict=True):
        code = code * (top + 1) + level
    codes, counts = np.unique(code, return_counts=True)
    patterns: list[Ints] = []
    for top in reversed(tops):
        patterns.insert(0, codes % (top + 1))
        codes = codes // (top + 1)
    return patterns, counts.astype(np.float64)


def _totals(level: Ints, weights: Floats, top: int) -> Floats:
    return np.asarray(np.bincount(level, weights=weights, minlength=top + 1)[1:], np.float64)


def _shares(totals: Floats) -> Floats:
    return np.asarray(totals / totals.sum(), np.float64)


def _limited(one: list[Floats]) -> list[Floats]:
    """Scale down the lower levels where pairs of one person would differ more often than is allowed."""
    lower = [1 if len(m) == min(_ASSUMED) else 2 for m in one]
    different = np.array([m[:low].sum() for m, low in zip(one, lower, strict=True)])
    allowed = np.minimum(different, _MOST_DIFFERENT)
    allowed = allowed * min(1.0, _MOST_DIFFERENT_MEAN / max(float(allowed.mean()), 1e-12))
    for m, low, was, now in zip(one, lower, different, allowed, strict=True):
        if now < was:
            m[:low] *= now / was
            m[low:] *= (1 - now) / (1 - was) if was < 1 else 1.0
    return one
