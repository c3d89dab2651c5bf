"""What speaks against the persons that were found: things of one person that should not differ and do.

One person may have two customer numbers, which is what de-duplication is to find out, and a day of birth may be wrong.
But where many joined records have other numbers, or the learned weights say that days of birth differ in every third
pair, the estimation has taken namesakes for one person.

Example:
    >>> import polars as pl
    >>> numbers = pl.Series("number", ["a1", "b2", "c3", "d4", "a1"])
    >>> other_identifiers(numbers, np.array([0, 0, 0, 0, 1]))
    (3, 3)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from lightning_privacy.preparation.deduplicate_columns import ComparedColumn, kind_of
from lightning_privacy.preparation.deduplicate_linkage import Linkage

__all__ = ["differing_dates", "doubts", "other_identifiers"]

# Share of the pairs of one person, by the weights. In a table of damaged records, whose people were all found rightly,
# every fourth pair differed in the day of birth; where namesakes were joined it was every third and more.
_MOST_DIFFERENT = 0.3
# Share of the joined records. With every fifth person known under two numbers it was 0.21, all found rightly; where
# namesakes were joined, 0.56 and more.
_MOST_JOINED = 0.3
_FEWEST = 3  # joined records with another identifier; fewer may be anything


def doubts(linkage: Linkage | None, *, identifier: str, other: int, joined: int) -> Sequence[str]:
    """Say what speaks against the persons, each in a part of a sentence that names the column.

    Args:
        linkage: what was learned; None where records had to be equal.
        identifier: the column that says who a row is about.
        other: of the joined records, those with another identifier than the first of their person.
        joined: all that follow the first of a person and have one.
    """
    found = [
        f"records of one person are said to differ in {name!r} in {share:.0%} of the cases"
        for name, share in differing_dates(linkage)
    ]
    if other >= _FEWEST and other > _MOST_JOINED * joined:
        found.append(
            f"records with different values of {identifier!r} were joined: {other:,} of the {joined:,} that follow the "
            f"first of a person"
        )
    return tuple(found)


def differing_dates(linkage: Linkage | None) -> Sequence[tuple[str, float]]:
    """Dates that differ too often between records of one person, as the learned weights have it, and how often.

    Args:
        linkage: as in :func:`doubts`.
    """
    if linkage is None or linkage.weights is None:
        return ()
    shares = zip(linkage.columns.items(), linkage.weights.one_person, strict=True)
    return [
        (name, float(levels[0])) for (name, kind), levels in shares if kind == "date" and levels[0] > _MOST_DIFFERENT
    ]


def other_identifiers(values: pl.Series, persons: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Of the records that follow the first of their person, those with another identifier, and all that have one.

    Args:
        values: the column that says who a row is about.
        persons: number of each record's person.

    Returns:
        Two counts; both 0 where no two rows of the table have one identifier, as where it numbers the rows.
    """
    present = values.is_not_null().to_numpy()
    if values.drop_nulls().is_unique().all():
        return 0, 0
    rows = np.flatnonzero(present)
    _, first, place = np.unique(persons[rows], return_index=True, return_inverse=True)
    leader = rows[first][place]
    later = leader != rows
    if not later.any():
        return 0, 0
    column = ComparedColumn(values, kind_of(values))
    levels = column.levels(leader[later], rows[later])
    # A name may be written in several ways and be one; a number may not.
    alike = 2 if column.kind == "text" else column.top
    return int((levels < alike).sum()), int(later.sum())
