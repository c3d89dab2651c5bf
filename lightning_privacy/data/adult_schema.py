"""The columns of UCI Adult: which there are, their categories, their bounds.

All of it comes from the data set's documentation (Becker and Kohavi, "Adult", UCI 1996, file
``adult.names``) and none from its rows: a list of categories or a mean taken from private data would be a
release that nobody accounts for. ``fnlwgt`` is left out, as it is a sampling weight and says nothing about
the person.

Example:
    >>> from lightning_privacy.data.adult_schema import NUM_FEATURES, encode_row
    >>> row = "39,?,77516,Bachelors,13,Never-married,Sales,Not-in-family,White,Male,2174,0,40,Cuba,<=50K"
    >>> features, label = encode_row(row.split(","))
    >>> len(features) == NUM_FEATURES, round(features[0], 3), label
    (True, 0.301, 0)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["COLUMNS", "NUM_FEATURES", "Category", "Number", "encode_row", "groups_of_row"]

MISSING = "?"


@dataclass(frozen=True)
class Number:
    """A number with public bounds: scaled to 0 to 1, beyond the bounds clipped.

    Attributes:
        low: What becomes 0.
        high: What becomes 1.
        logarithmic: Whether log(1 + x) is scaled in place of x, for amounts of money.
    """

    low: float
    high: float
    logarithmic: bool = False

    @property
    def width(self) -> int:
        """Features this column becomes."""
        return 1

    def encode(self, text: str) -> list[float]:
        """The scaled number."""
        value = min(max(float(text), self.low), self.high)
        if self.logarithmic:
            return [(math.log1p(value) - math.log1p(self.low)) / (math.log1p(self.high) - math.log1p(self.low))]
        return [(value - self.low) / (self.high - self.low)]


@dataclass(frozen=True)
class Category:
    """A category of a public list, as one indicator each; a value not in the list counts as missing.

    Attributes:
        values: The list, without the mark for a missing value, which gets an indicator of its own.
    """

    values: tuple[str, ...]

    @property
    def width(self) -> int:
        """Features this column becomes."""
        return len(self.values) + 1

    def number(self, text: str) -> int:
        """The place of a value in the list; its length for "missing"."""
        return self.values.index(text) if text in self.values else len(self.values)

    def encode(self, text: str) -> list[float]:
        """The indicators; the last is "missing"."""
        indicators = [0.0] * self.width
        indicators[self.number(text)] = 1.0
        return indicators


def _category(values: str) -> Category:
    return Category(tuple(values.split()))


_SEX = _category("Female Male")
_RACE = _category("White Asian-Pac-Islander Amer-Indian-Eskimo Other Black")

# In the order of the file; None is a column that is not used.
COLUMNS: dict[str, Number | Category | None] = {
    "age": Number(17, 90),
    "workclass": _category(
        "Private Self-emp-not-inc Self-emp-inc Federal-gov Local-gov State-gov Without-pay Never-worked"
    ),
    "fnlwgt": None,
    "education": _category(
        "Bachelors Some-college 11th HS-grad Prof-school Assoc-acdm Assoc-voc 9th 7th-8th 12th Masters "
        "1st-4th 10th Doctorate 5th-6th Preschool"
    ),
    "education-num": Number(1, 16),
    "marital-status": _category(
        "Married-civ-spouse Divorced Never-married Separated Widowed Married-spouse-absent Married-AF-spouse"
    ),
    "occupation": _category(
        "Tech-support Craft-repair Other-service Sales Exec-managerial Prof-specialty Handlers-cleaners "
        "Machine-op-inspct Adm-clerical Farming-fishing Transport-moving Priv-house-serv Protective-serv "
        "Armed-Forces"
    ),
    "relationship": _category("Wife Own-child Husband Not-in-family Other-relative Unmarried"),
    "race": _RACE,
    "sex": _SEX,
    "capital-gain": Number(0, 99_999, logarithmic=True),
    "capital-loss": Number(0, 9_999, logarithmic=True),
    "hours-per-week": Number(1, 99),
    "native-country": _category(
        "United-States Cambodia England Puerto-Rico Canada Germany Outlying-US(Guam-USVI-etc) India Japan "
        "Greece South China Cuba Iran Honduras Philippines Italy Poland Jamaica Vietnam Mexico Portugal "
        "Ireland France Dominican-Republic Laos Ecuador Taiwan Haiti Columbia Hungary Guatemala Nicaragua "
        "Scotland Thailand Yugoslavia El-Salvador Trinadad&Tobago Peru Hong Holand-Netherlands"
    ),
}

NUM_FEATURES: int = sum(column.width for column in COLUMNS.values() if column is not None)
"""Length of an encoded row."""

_NAMES = list(COLUMNS)
_LABELS = {"<=50K": 0, ">50K": 1}


def encode_row(values: Sequence[str]) -> tuple[list[float], int]:
    """Encode one row of ``adult.data`` or ``adult.test``.

    Args:
        values: The 15 values, stripped of spaces; the label may end with a dot, as in ``adult.test``.

    Returns:
        The features, of length :data:`NUM_FEATURES`, and the label: 1 for an income above 50,000 dollars.

    Raises:
        ValueError: Not 15 values, a number that is none, or an unknown label.
    """
    *row, label = values
    if len(row) != len(COLUMNS):
        raise ValueError(f"{len(COLUMNS) + 1} values are needed, got {len(values)}")
    name = label.removesuffix(".")
    if name not in _LABELS:
        raise ValueError(f"the label must be one of {', '.join(_LABELS)}, got {label!r}")
    features: list[float] = []
    for text, column in zip(row, COLUMNS.values(), strict=True):
        if column is not None:
            features += column.encode(text)
    return features, _LABELS[name]


def groups_of_row(values: Sequence[str]) -> tuple[int, int]:
    """The groups a row's person is counted in.

    Args:
        values: The values of a row, stripped of spaces.

    Returns:
        Sex (0 Female, 1 Male) and race (0 White, 1 Asian-Pac-Islander, 2 Amer-Indian-Eskimo, 3 Other, 4 Black);
        2 and 5 where it is missing.
    """
    return _SEX.number(values[_NAMES.index("sex")]), _RACE.number(values[_NAMES.index("race")])
