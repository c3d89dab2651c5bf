"""Codes that are on no list, and would become "other" or "unknown" in silence.

A table with codes of its own would lose everybody's so. The counts are exact, as those of a preparation's report: for
whoever holds the table.

Example:
    >>> import polars as pl
    >>> table = pl.DataFrame({"gender": ["w", "w", "male", None], "location": ["Lyon", "Atlantis", "unknown", None]})
    >>> off_public_lists(table)
    {'gender': (2, 3), 'location': (1, 3)}
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import polars as pl

from lightning_privacy.data.persona.columns import AGE_BANDS, GENDERS, UNKNOWN
from lightning_privacy.data.persona.places import REGION_OF, REGIONS
from lightning_privacy.preparation import PreparationReport
from lightning_privacy.preparation.normalise import OFF_LIST, ON_OR_OFF

__all__ = ["off_public_lists", "tell_codes"]

_log = logging.getLogger(__name__)

_LISTS: dict[str, Iterable[str]] = {
    "gender": (*GENDERS, UNKNOWN),
    "age_band": AGE_BANDS,
    "age": AGE_BANDS,
    "location": (*REGION_OF, *REGIONS, UNKNOWN),
}
# Typing errors of a few are in every table.
_SHARE = 0.05


def off_public_lists(table: pl.DataFrame) -> dict[str, tuple[int, int]]:
    """What batches will take for not known though the table says something.

    Args:
        table: As it was prepared.

    Returns:
        By column, how many cells are on no public list, and how many are not missing; only columns of texts.
    """
    found = {}
    for column, listed in _LISTS.items():
        if column in table.columns and table[column].dtype in (pl.String, pl.Categorical, pl.Enum):
            cells = table[column].cast(pl.String).drop_nulls()
            off = cells.filter(~cells.is_in(list(listed)))
            if column == "age":
                off = off.filter(off.cast(pl.Float64, strict=False).is_null())
            found[column] = (len(off), len(cells))
    return found


def tell_codes(report: PreparationReport, table: pl.DataFrame) -> None:
    """Say in one line where more than one cell in twenty of those that are not missing is on no list.

    Args:
        report: Of the preparation, whose steps count the codes that they don't know.
        table: As it was prepared.
    """
    counted = []
    for step in report.steps:
        for name, number in step.learned.items():
            if name.endswith(OFF_LIST):
                column = name.removesuffix(OFF_LIST)
                counted.append((f"{column!r} in step {step.name!r}", number, step.learned[column + ON_OR_OFF]))
    counted += [(f"{column!r} in the batches", *found) for column, found in off_public_lists(table).items()]
    told = [f"{place} {off:,} of {cells:,} cells" for place, off, cells in counted if off > _SHARE * cells]
    if told:
        # No Python warning: a table that is meant to have other codes is no mistake of a program.
        _log.warning(
            "warning: codes on no list, taken for not known: %s. Add them to a step NormaliseCodes, whose codes are "
            "to be those of the batches: gender %s; location a town or a country of "
            "lightning_privacy.data.persona.places. Exact counts, for whoever holds the table",
            "; ".join(told),
            ", ".join(GENDERS),
        )
