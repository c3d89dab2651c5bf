"""Values written in several ways: a town by its local name or an abbreviation, a date in five formats.

Example:
    >>> import numpy as np
    >>> from lightning_privacy.data.persona.cells import Cells
    >>> cells = Cells({"record": np.arange(2), "time": np.array([0, 90])})
    >>> write_times(cells)
    >>> cells["time"].tolist()
    ['2024-01-01 00:00', '2024-01-01 01:30']
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import polars as pl

from lightning_privacy.data.persona.cells import Cells
from lightning_privacy.data.persona.columns import CODES_OF_GENDER, FIRST_TIME, TIME_FORMAT
from lightning_privacy.data.persona.places import PLACES

__all__ = ["OTHER_TIME_FORMATS", "format_minutes", "write_otherwise", "write_times"]

#: Formats of times that are not :data:`~lightning_privacy.data.persona.columns.TIME_FORMAT`.
OTHER_TIME_FORMATS: tuple[str, ...] = (
    "%d.%m.%Y %H:%M",
    "%Y/%m/%d %H:%M",
    "%d %b %Y %H:%M",
    "%Y-%m-%dT%H:%M:%S",
    "%Y%m%d %H:%M",
)
_TABLES: dict[str, dict[str, tuple[str, ...]]] = {
    "gender": CODES_OF_GENDER,
    "location": {
        place.name: (*place.codes, place.name.upper(), place.name.lower(), f" {place.name} ") for place in PLACES
    },
}

_Texts = npt.NDArray[np.object_]


def format_minutes(minutes: npt.NDArray[np.int64], pattern: str) -> _Texts:
    """Minutes since the start of 2024 as texts, shape ``(count,)``."""
    times = np.datetime64(FIRST_TIME, "us") + minutes.astype("timedelta64[m]")
    texts: _Texts = pl.Series(times.astype("datetime64[us]")).dt.strftime(pattern).to_numpy().astype(object)
    return texts


def write_times(cells: Cells) -> None:
    """Turn minutes into texts, in the table and in its truth."""
    cells.columns["time"] = format_minutes(cells.columns["time"], TIME_FORMAT)
    cells.truth["time"] = format_minutes(cells.truth["time"], TIME_FORMAT)


def write_otherwise(cells: Cells, name: str, rate: float, generator: np.random.Generator) -> None:
    """Write some values of a column in another way; wrong ones stay as they are.

    Args:
        cells: The table.
        name: ``"gender"``, ``"location"`` or ``"time"``.
        rate: Probability of each value.
        generator: Of the draws.
    """
    chosen = (generator.random(len(cells)) < rate) & (cells[name] == cells.truth[name])
    rows = np.flatnonzero(chosen)
    which = generator.random(len(rows))
    write: Callable[[_Texts, npt.NDArray[np.float64]], _Texts] = _times if name == "time" else _codes(name)
    cells.put(name, rows, write(cells[name][rows], which), kind="inconsistent_code")


def _codes(name: str) -> Callable[[_Texts, npt.NDArray[np.float64]], _Texts]:
    table = _TABLES[name]

    def write(texts: _Texts, which: npt.NDArray[np.float64]) -> _Texts:
        written = [table[text][int(share * len(table[text]))] for text, share in zip(texts, which, strict=True)]
        return np.array(written, dtype=object)

    return write


def _times(texts: _Texts, which: npt.NDArray[np.float64]) -> _Texts:
    written = texts.copy()
    times = pl.Series(texts.tolist(), dtype=pl.String).str.to_datetime(TIME_FORMAT)
    chosen = (which * len(OTHER_TIME_FORMATS)).astype(np.int64)
    for number, pattern in enumerate(OTHER_TIME_FORMATS):
        written[chosen == number] = times.dt.strftime(pattern).to_numpy()[chosen == number]
    return written
