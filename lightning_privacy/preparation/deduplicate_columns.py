"""How alike two records are in one column, as a level from 1 (they differ) to the column's top (they are equal).

Level 0 says that one of the two is missing, which speaks neither for nor against one person.

Example:
    >>> import numpy as np
    >>> import polars as pl
    >>> column = ComparedColumn(pl.Series("name", ["ada byron", "Byron Ada", "ada biron", "carl", None]), "text")
    >>> column.levels(np.array([0, 0, 0, 0, 0]), np.array([0, 1, 2, 3, 4])).tolist()
    [5, 4, 4, 1, 0]
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from lightning_privacy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["KINDS", "ComparedColumn", "contained_columns", "kind_of"]

Ints = npt.NDArray[np.int64]
Levels = npt.NDArray[np.int8]

# Levels that two values of a kind can have: 1 to this.
KINDS = {"category": 2, "code": 4, "date": 4, "number": 4, "text": 5}
# Longer cells are compared by their beginning.
_LONGEST = 200
_DATE = r"^\d{4}-\d{1,2}-\d{1,2}"
# An address of mail, or one word with digits in it.
_CODE = r"^\S+@\S+$|^\S*\d\S*$"
_MOST_CATEGORIES = 50
_CATEGORY_SHARE = 0.02
_KIND_SHARE = 0.8
# Codes are alike up to so many typing errors a character, and further alike up to so many.
_CODE_ERRORS = (0.1, 0.2)
# Similarity of Jaro and Winkler, at least, for the levels above the first.
_ALIKE = (0.7, 0.85, 0.92)
_CONTAINED_SHARE = 0.7
_MANY = 20_000
# A number of more digits, such as that of a customer, may be one typing error away from another.
_LONG_NUMBER = 3
# Records with other values that a table of three rows does not show, so that what two of them share means something.
_UNSEEN = 2.0


def kind_of(values: pl.Series) -> str:
    """How a column is best compared, by its type and its values.

    Args:
        values: the column.

    Raises:
        ConfigurationError: it holds lists, bytes or other things that are not one value a cell.
    """
    if values.dtype == pl.Boolean:
        return "category"
    if values.dtype.is_numeric():
        return "number"
    if values.dtype in (pl.Date, pl.Datetime):
        return "date"
    if values.dtype not in (pl.String, pl.Null, pl.Categorical, pl.Enum, pl.Time, pl.Duration):
        raise ConfigurationError(f"column {values.name!r} holds {values.dtype}, which can't be compared; leave it out")
    text = values.cast(pl.String).drop_nulls()
    for kind, pattern in (("date", _DATE), ("code", _CODE)):
        if len(text) and int(text.str.contains(pattern).sum()) >= _KIND_SHARE * len(text):
            return kind
    few = text.n_unique() <= min(_MOST_CATEGORIES, _CATEGORY_SHARE * len(text))
    return "category" if len(text) and few else "text"


class ComparedColumn:
    """One column, made ready to be compared: values without case and outer white space, numbered.

    Args:
        values: the column, one value a record.
        kind: ``"text"`` (typing errors and exchanged words allowed for), ``"code"`` (mail addresses, customer numbers:
            few typing errors allowed for), ``"date"``, ``"number"`` or ``"category"`` (equal or not).

    Attributes:
        name: the column's name.
        kind: as passed.
        top: the level of equal values.
        texts: the values as they are compared, None where missing.
        codes: number of each record's value, -1 where missing, shape ``(records,)``.
        counts: how many records have each value, shape ``(values,)``.
    """

    def __init__(self, values: pl.Series, kind: str) -> None:
        self.name, self.kind, self.top = values.name, kind, KINDS[kind]
        number = kind == "number"
        text = values.cast(pl.Float64, strict=False) if number else _plain(values)
        if number:
            text = text.fill_nan(None)
            spread = text.std()
            whole = bool((text.drop_nulls() % 1 == 0).all())
            self._unit = 1.0 if whole or not isinstance(spread, float) or not spread else spread / 100
        self._values = text.drop_nulls().unique().sort()
        numbers = pl.Series(np.arange(len(self._values)), dtype=pl.Int64)
        codes = text.replace_strict(self._values, numbers, default=-1, return_dtype=pl.Int64).fill_null(-1)
        self.texts: pl.Series = text.cast(pl.String).alias(values.name)
        self.codes: Ints = codes.to_numpy()
        self._count()

    @cached_property
    def hashes(self) -> npt.NDArray[np.uint64]:
        """A hash of each record's value, the same for equal values of all columns."""
        return self.texts.hash().to_numpy()

    @property
    def distinct(self) -> int:
        """How many different values there are."""
        return len(self._values)

    def take(self, records: Ints) -> ComparedColumn:
        """The column of some of the records.

        Args:
            records: their positions.
        """
        part = copy(self)
        part.__dict__.pop("hashes", None)
        part.texts, part.codes = self.texts.gather(records), self.codes[records]
        part._count()
        return part

    def _count(self) -> None:
        self.counts = np.bincount(self.codes[self.codes >= 0], minlength=len(self._values))
        self._present = int(self.counts.sum())

    def chance(self, records: Ints, others: Ints) -> npt.NDArray[np.float64]:
        """Probability that another record has the same value by chance, for records whose value is not missing.

        Args:
            records: their positions.
            others: those of the records that have the same value.
        """
        others = np.maximum(self.counts[self.codes[records]] - 1, 0.5)
        return np.asarray(others / (self._present - 1 + _UNSEEN), np.float64)

    def levels(self, first: Ints, second: Ints) -> Levels:
        """Compare records pair by pair.

        Args:
            first: positions of records, shape ``(pairs,)``.
            second: those they are compared with, same shape.

        Returns:
            The levels, same shape.
        """
        one, other = self.codes[first], self.codes[second]
        levels = np.zeros(len(first), np.int8)
        present = (one >= 0) & (other >= 0)
        levels[present & (one == other)] = self.top
        differ = present & (one != other)
        # The same two values meet many times; each meeting is worked out once.
        low, high = np.minimum(one[differ], other[differ]), np.maximum(one[differ], other[differ])
        meetings, place = np.unique(low * self.distinct + high, return_inverse=True)
        if len(meetings):
            levels[differ] = self._unequal(meetings // self.distinct, meetings % self.distinct)[place]
        return levels

    def _unequal(self, one: Ints, other: Ints) -> Levels:
        if self.kind == "category":
            return np.ones(len(one), np.int8)
        texts = self._values.cast(pl.String)
        if self.kind == "number":
            # A whole number as 36.0 would count its ".0" as two more characters that are equal.
            texts = texts.str.replace(r"\.0$", "")
        first, second = texts.gather(one).to_list(), texts.gather(other).to_list()
        if self.kind == "text":
            alike = _alike(first, second)
            words = texts.str.split(" ").list.sort().list.join(" ")
            several = np.flatnonzero(np.asarray(texts.str.contains(" ", literal=True))[one])
            if len(several):  # one word has only one order
                sorted_first, sorted_second = words.gather(one[several]), words.gather(other[several])
                alike[several] = np.maximum(alike[several], _alike(sorted_first.to_list(), sorted_second.to_list()))
            return _level(*(alike >= limit for limit in _ALIKE))
        edits = _edits(first, second)
        if self.kind == "code":
            length = texts.str.len_chars().to_numpy()
            longer = np.maximum(length[one], length[other])
            few, more = (edits <= np.maximum(1, share * longer) for share in _CODE_ERRORS)
            return _level(more, few)
        if self.kind == "date":
            years = texts.str.slice(0, 4)
            same_year = np.asarray(years.gather(one) == years.gather(other))
            return _level((edits <= 2) | same_year, edits <= 1)
        numbers = self._values.to_numpy()
        apart = np.abs(numbers[one] - numbers[other]) / self._unit
        length = texts.str.len_chars().to_numpy()
        long = np.minimum(length[one], length[other]) > _LONG_NUMBER
        close = (apart <= 1) | (long & (edits <= 1))
        return _level((apart <= 3) | close, close)


def contained_columns(columns: Sequence[ComparedColumn]) -> dict[str, str]:
    """Columns of text that repeat what a finer column says, as a full name repeats a first name.

    Counted twice, one fact would pass for two. The larger column is the one to leave out: its parts say the same and
    can differ one by one.

    Args:
        columns: the columns of one table.

    Returns:
        Name of the column to leave out, to the name of one it contains.
    """
    texts = [column for column in columns if column.kind == "text" and column.distinct > 1]
    found: dict[str, str] = {}
    words = {column.name: column.texts.str.extract_all(r"\w+").list.unique() for column in texts}
    for large in texts:
        for small in texts:
            if large is small or small.name in found:
                continue
            frame = pl.DataFrame({"large": words[large.name], "small": words[small.name]}).drop_nulls()
            frame = frame.filter(pl.col("small").list.len() > 0)
            inside = pl.col("small").list.set_difference("large").list.len() == 0
            more = pl.col("large").list.len() > pl.col("small").list.len()
            if frame.height == 0:
                continue
            shares = frame.select(inside=inside.mean(), more=(inside & more).mean()).row(0)
            if shares[0] >= _CONTAINED_SHARE and shares[1] >= _CONTAINED_SHARE / 2:
                found[large.name] = small.name
                break
    return found


def _plain(values: pl.Series) -> pl.Series:
    text = values.cast(pl.String).str.slice(0, _LONGEST).str.to_lowercase()
    text = text.str.replace_all(r"\s+", " ").str.strip_chars()
    return text.set(text == "", None)


def _level(*passed: npt.NDArray[np.bool_]) -> Levels:
    """Level 1, and one more for each test that a pair passed."""
    return np.asarray(1 + np.sum(passed, axis=0), np.int8)


def _alike(first: list[str], second: list[str]) -> npt.NDArray[np.float32]:
    from rapidfuzz.distance import JaroWinkler

    return _pairwise(JaroWinkler.similarity, first, second)


def _edits(first: list[str], second: list[str]) -> npt.NDArray[np.float32]:
    from rapidfuzz.distance import OSA

    return _pairwise(OSA.distance, first, second)


def _pairwise(scorer: Callable[..., float], first: list[str], second: list[str]) -> npt.NDArray[np.float32]:
    from rapidfuzz import process

    workers = -1 if len(first) > _MANY else 1
    result: npt.NDArray[np.float32] = process.cpdist(first, second, scorer=scorer, workers=workers, dtype=np.float32)
    return result
