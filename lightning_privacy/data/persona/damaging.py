"""Damages a table of people in known ways, and keeps account of it.

Example:
    >>> from lightning_privacy.data.persona.generator import PersonaGenerator
    >>> damage = Damage(wrong_labels=0.5)
    >>> data = PersonaGenerator(num_persons=300, damage=damage, public_share=0.0).generate()
    >>> wrong = data.truth.planted("wrong_label", "label")
    >>> 0.4 < len(wrong) / len(data.records) < 0.6
    True
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lightning_privacy.data.persona.cells import Cells
from lightning_privacy.data.persona.codes import write_otherwise, write_times
from lightning_privacy.data.persona.columns import NUM_CLASSES
from lightning_privacy.data.persona.damage import Damage
from lightning_privacy.data.persona.duplicates import add_exact_duplicates, add_near_duplicates
from lightning_privacy.data.persona.typing_errors import mistype

__all__ = ["do_damage"]

_TYPED = ("given_name", "surname", "email")
_CODED = ("gender", "location", "time")
_LEFT_OUT = ("email", "gender", "location", "time")
_WRONG_AGES = (-1, 0, 7, 130, 199, 999)
_WRONG_TIMES = ("1970-01-01 00:00", "1900-01-01 12:00", "2099-12-31 23:59", "2035-06-15 10:00")
_NO_DATES = ("2024-02-30 10:15", "2024-13-05 09:00", "31.04.2024 16:40", "2024-00-12 08:20", "30 Feb 2024 11:05")
# Older people tell their age more seldom: the logit rises by this over ten years.
_SILENCE_PER_DECADE = 0.5
# And have an email address more seldom.
_OFFLINE_PER_DECADE = 0.3


def do_damage(cells: Cells, damage: Damage, generator: np.random.Generator) -> None:
    """Damage a table in place.

    Args:
        cells: Columns as of :data:`~lightning_privacy.data.persona.columns.COLUMNS`; ``time`` in minutes since the
            start of 2024, and texts afterwards; ``record`` is numbered anew.
        damage: How often what goes wrong.
        generator: Of all that is drawn.
    """
    add_near_duplicates(cells, damage.near_duplicates, generator)
    age = cells.truth["age"].astype(np.float64)
    _mistake_labels(cells, damage.wrong_labels, generator)
    write_times(cells)
    for name, values, rate in (
        ("age", _WRONG_AGES, damage.age_outliers),
        ("time", _WRONG_TIMES, damage.time_outliers),
    ):
        rows = _some(rate, cells, generator)
        cells.put(name, rows, generator.choice(np.array(values, dtype=object), len(rows)), kind="outlier")
    rows = _some(damage.impossible_dates, cells, generator)
    dates = generator.choice(np.array(_NO_DATES, dtype=object), len(rows))
    cells.put("time", rows, dates, kind="impossible_date")
    for name in _CODED:
        write_otherwise(cells, name, damage.inconsistent_codes, generator)
    _swap(cells, damage.swapped_fields, generator)
    for name in _TYPED:
        _mistype(cells, name, damage.typing_errors, generator)
    for name in _LEFT_OUT:
        decades = age / 10 if name == "email" else np.zeros(len(cells))
        rows = _some(_tilted(damage.missing_at_random, decades * _OFFLINE_PER_DECADE), cells, generator)
        cells.put(name, rows, None, kind="missing_at_random")
    rows = _some(_tilted(damage.missing_not_at_random, age / 10 * _SILENCE_PER_DECADE), cells, generator)
    cells.put("age", rows, None, kind="missing_not_at_random")
    add_exact_duplicates(cells, damage.exact_duplicates, generator)


def _mistake_labels(cells: Cells, rate: float, generator: np.random.Generator) -> None:
    rows = _some(rate, cells, generator)
    rows = rows[~cells["public"][rows]]
    wrong = (cells["label"][rows] + generator.integers(1, NUM_CLASSES, len(rows))) % NUM_CLASSES
    cells.put("label", rows, wrong, kind="wrong_label")


def _mistype(cells: Cells, name: str, rate: float, generator: np.random.Generator) -> None:
    rows = _some(rate, cells, generator)
    before = cells[name][rows]
    after = np.array([mistype(text, generator) for text in before], dtype=object)
    changed = after != before
    cells.columns[name][rows] = after
    cells.mark(name, rows[changed], kind="typing_error")


def _swap(cells: Cells, rate: float, generator: np.random.Generator) -> None:
    rows = _some(rate, cells, generator)
    given, surname = cells["given_name"][rows], cells["surname"][rows]
    cells.columns["given_name"][rows], cells.columns["surname"][rows] = surname, given
    for name in ("given_name", "surname"):
        cells.mark(name, rows, kind="swapped_fields")


def _some(rate: float | npt.NDArray[np.float64], cells: Cells, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Rows, each with a probability of its own."""
    return np.flatnonzero(generator.random(len(cells)) < rate)


def _tilted(rate: float, score: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Probabilities that rise with the score like its exponential, and are ``rate`` on average (or at most 1)."""
    weights = np.exp(score - score.max(initial=0.0))
    probabilities: npt.NDArray[np.float64] = np.minimum(rate * weights / weights.mean(), 1.0) if len(score) else score
    return probabilities
