"""From likely pairs of records to persons, without chains.

If a is like b and b like c, the transitive closure makes a and c one person, and in a large table a few weak links
join thousands of people. Here two groups become one person only while the mean score of *all* pairs between them
speaks for it (average linkage): one weak link between two groups that otherwise differ does not.

The groups are found within the connected parts of the graph of likely pairs; all pairs within a part are compared, so
that what blocking missed counts too. A part that is larger than fits is broken up first, at its weakest links.

Example:
    >>> import numpy as np
    >>> first, second = np.array([0, 1, 0]), np.array([1, 2, 2])
    >>> tree = cluster(3, first, second, np.array([5.0, 1.0, -20.0]), lambda one, other: np.array([5.0, -20.0, 1.0]))
    >>> tree.persons(0.0).tolist()
    [0, 0, 1]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

__all__ = ["PersonTree", "cluster"]

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]

_LARGEST_PART = 400
# Linkage wants distances that are not negative; scores of a pair lie well within.
_FAR = 10_000.0
_PAIRS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class PersonTree:
    """In which order records become groups, from the surest on.

    Attributes:
        count: number of records.
        parts: for each part of two records or more, its records and the tree of scipy's ``linkage``.
    """

    count: int
    parts: Sequence[tuple[Ints, npt.NDArray[np.float64]]]

    def persons(self, score: float) -> Ints:
        """A number for each record, the same for records of one person, counted from 0 in order of appearance.

        Args:
            score: the least mean score at which groups are one person.
        """
        labels = np.arange(self.count)
        for members, tree in self.parts:
            groups = fcluster(tree, _FAR - score, criterion="distance")
            _, earliest, place = np.unique(groups, return_index=True, return_inverse=True)
            labels[members] = members[earliest][place]  # members are in order: the first stands for the group
        return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def cluster(
    count: int, first: Ints, second: Ints, scores: Floats, compare: Callable[[Ints, Ints], Floats]
) -> PersonTree:
    """Find groups.

    Args:
        count: number of records.
        first: positions of records of the likely pairs.
        second: those they are likely one person with.
        scores: of the pairs: the larger, the surer.
        compare: the scores of any other pairs of positions.
    """
    labels = _parts(count, first, second, scores)
    order = np.argsort(labels, kind="stable").astype(np.int64)
    sizes = np.bincount(labels)
    ends = np.cumsum(sizes)
    members = [order[end - size : end] for size, end in zip(sizes, ends, strict=True) if size > 1]
    parts: list[tuple[Ints, npt.NDArray[np.float64]]] = []
    for batch in _batches(members):
        pairs = [np.triu_indices(len(rows), 1) for rows in batch]
        one = np.concatenate([rows[pair[0]] for rows, pair in zip(batch, pairs, strict=True)])
        other = np.concatenate([rows[pair[1]] for rows, pair in zip(batch, pairs, strict=True)])
        found = np.asarray(compare(one, other), np.float64)
        start = 0
        for rows, pair in zip(batch, pairs, strict=True):
            distances = _FAR - found[start : start + len(pair[0])]
            start += len(pair[0])
            parts.append((rows, linkage(distances, "average")))
    return PersonTree(count, parts)


def _batches(members: Sequence[Ints]) -> list[list[Ints]]:
    """Parts together, so that comparing them takes few calls and little memory."""
    batches: list[list[Ints]] = []
    pairs = _PAIRS_AT_ONCE
    for rows in members:
        if pairs >= _PAIRS_AT_ONCE:
            batches.append([])
            pairs = 0
        batches[-1].append(rows)
        pairs += len(rows) * (len(rows) - 1) // 2
    return batches


def _parts(count: int, first: Ints, second: Ints, scores: Floats) -> npt.NDArray[np.int32]:
    """Connected parts of at most so many records: in larger ones the links below a rising score are cut.

    It ends, at the latest with no links left: what can't be told apart within the limit is then nobody's duplicate,
    which keeps people apart rather than joining them.
    """
    used = np.ones(len(first), dtype=bool)
    limit = float(np.floor(scores.min())) if len(scores) else 0.0
    while True:
        graph = coo_matrix((np.ones(int(used.sum()), np.int8), (first[used], second[used])), shape=(count, count))
        labels: npt.NDArray[np.int32] = connected_components(graph, directed=False)[1]
        large = np.bincount(labels)[labels] > _LARGEST_PART
        if not large.any():
            return labels
        limit += 1
        used &= ~(large[first] & (scores < limit))
