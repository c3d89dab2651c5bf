"""Mail addresses that repeat names: ``ada.byron@example.org`` says once more what the columns of names say.

Two people of one name then agree in their names and in their addresses, and counted as independent facts the three are
as sure a sign of one person as three real ones: whole groups of namesakes become one person. So what an address repeats
of its own record is taken out of it, and only the rest is compared, the digits and the domain. An address that does not
repeat the names of its record, because either has a typing error say, is compared as a whole: it tells what the names
do not.

Example:
    >>> import numpy as np
    >>> import polars as pl
    >>> names = ComparedColumn(pl.Series("name", ["Ada Byron", "Ada Byron", "Ana Byron"]), "text")
    >>> mails = ComparedColumn(pl.Series("mail", ["ada.byron7@b.org", "ada.byron44@b.org", "ada.byron7@b.org"]), "code")
    >>> column = RepeatingColumn(mails, [names])
    >>> column.rests.to_list()
    ['7@b.org', '44@b.org', None]
    >>> column.levels(np.array([0, 0]), np.array([1, 2])).tolist()
    [1, 4]
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from lightning_privacy.preparation.deduplicate_columns import ComparedColumn, Ints, Levels

__all__ = ["RepeatingColumn", "repeated_columns"]

# A column is repeated if this share of the records that have both repeat it.
_REPEATED_SHARE = 0.5
_LOOKED_AT = 10_000
_SHORTEST_WORD = 3  # shorter ones stand in an address by chance
_YEAR = 4
_WORD = re.compile(rf"\w{{{_SHORTEST_WORD},}}")
# Of what is left of an address, single letters are initials and the rest of it is punctuation.
_KEPT = re.compile(r"\d+|[^\W\d_]{2,}")
# Letters that no decomposition turns into plain ones, and the two ways of writing an umlaut without one.
_PLAIN = {"ß": "ss", "ø": "o", "ł": "l", "đ": "d", "æ": "ae", "œ": "oe", "þ": "th"}
_UMLAUTS = {"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"}


class RepeatingColumn(ComparedColumn):
    """A column compared beyond what it repeats of others.

    Args:
        column: the column, of kind ``"code"``.
        repeated: the columns it repeats, of the same records.

    Attributes:
        repeats: names of the columns it repeats.
        rests: what is left of each value; None where it does not repeat its record, or nothing is left.
    """

    def __init__(self, column: ComparedColumn, repeated: Sequence[ComparedColumn]) -> None:
        self.__dict__.update(column.__dict__)
        self.repeats = tuple(other.name for other in repeated)
        found = list(_rests(column.texts, repeated))
        self._explained = np.array([rest is not None for rest in found], dtype=np.bool_)
        self.rests = pl.Series(column.name, [rest or None for rest in found], dtype=pl.String)
        self._rest = ComparedColumn(self.rests, "code")

    def take(self, records: Ints) -> RepeatingColumn:
        """The column of some of the records."""
        part = super().take(records)
        if not isinstance(part, RepeatingColumn):
            raise TypeError(f"a part of a {type(self).__name__} is one, got {type(part).__name__}")
        part._explained, part.rests = self._explained[records], self.rests.gather(records)
        part._rest = self._rest.take(records)
        return part

    def chance(self, records: Ints, others: Ints) -> npt.NDArray[np.float64]:
        """As of any column; of the rest, where both records repeat."""
        found = super().chance(records, others)
        both = self._explained[records] & self._explained[others]
        found[both] = self._rest.chance(records[both], others[both])
        return found

    def levels(self, first: Ints, second: Ints) -> Levels:
        """As of any column; of the rest, where both records repeat."""
        levels = super().levels(first, second)
        both = self._explained[first] & self._explained[second]
        levels[both] = self._rest.levels(first[both], second[both])
        return levels


def repeated_columns(columns: Sequence[ComparedColumn]) -> dict[str, tuple[ComparedColumn, ...]]:
    """Columns of addresses or other codes, to the columns whose words or years they repeat in most records.

    Args:
        columns: the columns of one table.
    """
    found: dict[str, tuple[ComparedColumn, ...]] = {}
    for column in columns:
        if column.kind != "code":
            continue
        parts = [other for other in columns if other.kind in ("text", "category", "date")]
        repeated = tuple(other for other in parts if _share(column, other) >= _REPEATED_SHARE)
        if repeated:
            found[column.name] = repeated
    return found


def _share(column: ComparedColumn, other: ComparedColumn) -> float:
    """Of the records that have both, the share in which the column repeats the other."""
    both = np.flatnonzero((column.codes >= 0) & (other.codes >= 0))
    # Every so many of a large table: rows that lie together may be of one kind.
    both = both[:: max(1, len(both) // _LOOKED_AT)]
    if not len(both):
        return 0.0
    rests = _rests(column.texts.gather(both), [other.take(both)])
    return float(np.mean([rest is not None for rest in rests]))


def _rests(texts: pl.Series, repeated: Sequence[ComparedColumn]) -> Iterator[str | None]:
    """What is left of each text without the words of its record; None where it has not all of them."""
    folded = list(zip(*(fold.to_list() for fold in _folded(texts)), strict=True))
    words = [list(zip(*(fold.to_list() for fold in _folded(_said(column))), strict=True)) for column in repeated]
    for row, forms in enumerate(folded):
        yield _rest(forms, [column[row] for column in words])


def _said(column: ComparedColumn) -> pl.Series:
    return column.texts.str.slice(0, _YEAR) if column.kind == "date" else column.texts


def _folded(texts: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Lower case without accents, umlauts once as plain letters and once as two."""
    return _plain(texts), _plain(texts.str.replace_many(list(_UMLAUTS), list(_UMLAUTS.values())))


def _plain(texts: pl.Series) -> pl.Series:
    plain = texts.str.normalize("NFKD").str.replace_all(r"\p{M}", "")
    return plain.str.replace_many(list(_PLAIN), list(_PLAIN.values()))


def _rest(forms: Sequence[str | None], words: Sequence[Sequence[str | None]]) -> str | None:
    for form in forms:
        if form is None:
            return None
        left = form.partition("@")[0]
        for value in words:
            without = (_without(left, word) for word in value)
            shorter = next((found for found in without if found is not None), None)
            if shorter is None:
                break
            left = shorter
        else:
            _, at, domain = form.partition("@")
            return "".join(_KEPT.findall(left)) + at + domain
    return None


def _without(left: str, value: str | None) -> str | None:
    """The text without the words of a value; None where it has not all of them, or there are none."""
    words = _WORD.findall(value or "")
    for word in words:
        before, found, after = left.partition(word)
        if not found:
            return None
        left = f"{before} {after}"
    return left if words else None
