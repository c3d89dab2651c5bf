"""Records that come twice: once more exactly, or as somebody else would have entered them.

Example:
    >>> import numpy as np
    >>> from lightning_privacy.data.persona.cells import Cells
    >>> cells = Cells({"record": np.arange(4), "age": np.array([30, 40, 50, 60])})
    >>> add_exact_duplicates(cells, 1.0, np.random.default_rng(0))
    >>> sorted(cells["age"].tolist())
    [30, 30, 40, 40, 50, 50, 60, 60]
    >>> cells["record"].tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lightning_privacy.data.persona.cells import Cells
from lightning_privacy.data.persona.columns import AGE_RANGE, FIRST_TIME, LAST_TIME
from lightning_privacy.data.persona.typing_errors import mistype

__all__ = ["add_exact_duplicates", "add_near_duplicates", "customer_numbers"]

_FIRST_CUSTOMER = 100_000
_MINUTES = (LAST_TIME - FIRST_TIME).days * 24 * 60
# How a near duplicate differs from the first record of the person.
_NEW_CUSTOMER = 0.6
_LATEST_DAYS = 45
_BIRTHDAY = 0.12
_INITIAL = 0.15
_MISTYPED = {"given_name": 0.35, "surname": 0.45, "email": 0.35}
_OTHER_EMAIL = 0.15


def customer_numbers(
    count: int, generator: np.random.Generator, *, taken: npt.NDArray[np.object_] | None = None
) -> npt.NDArray[np.object_]:
    """Different customer numbers, in no order, as texts of shape ``(count,)``.

    Args:
        count: How many.
        generator: Of the draws.
        taken: Numbers that others have already.
    """
    used = np.empty(0, np.int64) if taken is None else np.array([int(text[1:]) for text in taken], dtype=np.int64)
    # From a range several times as long as the list, so that numbers say nothing about the order of arrival.
    free = np.setdiff1d(_FIRST_CUSTOMER + np.arange(4 * (count + len(used))), used)
    drawn = generator.choice(free, size=count, replace=False)
    return np.array([f"C{number}" for number in drawn], dtype=object)


def add_near_duplicates(cells: Cells, rate: float, generator: np.random.Generator) -> None:
    """Append records that are other ones, entered again; times are still minutes.

    Args:
        cells: The table, undamaged.
        rate: Probability of a record to be entered again.
        generator: Of the draws.
    """
    before = len(cells)
    copied = np.flatnonzero(generator.random(before) < rate)
    cells.take(np.concatenate([np.arange(before), copied]))
    rows = np.arange(before, len(cells))
    cells.columns["record"][rows] = rows
    cells.truth["record"] = cells.columns["record"].copy()
    # What is true of the new record: it was made later, perhaps after a birthday.
    later = cells["time"][rows] + generator.integers(1, _LATEST_DAYS * 24 * 60, len(rows))
    ages = np.minimum(cells["age"][rows] + (generator.random(len(rows)) < _BIRTHDAY), AGE_RANGE[1])
    for part in (cells.columns, cells.truth):
        for name, values in (("time", np.minimum(later, _MINUTES - 1)), ("age", ages)):
            part[name] = part[name].copy()
            part[name][rows] = values
    # What is wrong with it.
    renamed = rows[generator.random(len(rows)) < _NEW_CUSTOMER]
    cells.columns["customer"][renamed] = customer_numbers(len(renamed), generator, taken=cells["customer"])
    initial = rows[generator.random(len(rows)) < _INITIAL]
    cells.columns["given_name"][initial] = [f"{name[:1]}." for name in cells["given_name"][initial]]
    for name, share in _MISTYPED.items():
        mistyped = rows[generator.random(len(rows)) < share]
        cells.columns[name][mistyped] = [mistype(text, generator) for text in cells[name][mistyped]]
    other = rows[generator.random(len(rows)) < _OTHER_EMAIL]
    cells.columns["email"][other] = None
    cells.mark("", rows, kind="near_duplicate")


def add_exact_duplicates(cells: Cells, rate: float, generator: np.random.Generator) -> None:
    """Put records in twice, shuffle the table, and number the records anew.

    Args:
        cells: The table, damaged already.
        rate: Probability of a record to come twice.
        generator: Of the draws.
    """
    before = len(cells)
    copied = np.flatnonzero(generator.random(before) < rate)
    cells.take(np.concatenate([np.arange(before), copied]))
    cells.mark("", np.arange(before, len(cells)), kind="exact_duplicate")
    cells.take(generator.permutation(len(cells)))
    cells.columns["record"] = np.arange(len(cells))
    cells.truth["record"] = cells.columns["record"]
