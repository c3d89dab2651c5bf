"""A table while it is damaged: columns as arrays, and what is wrong with each cell so far.

Example:
    >>> import numpy as np
    >>> cells = Cells({"record": np.arange(3), "age": np.array([30.0, 40.0, 50.0])})
    >>> cells.put("age", np.array([1]), np.nan, kind="missing_at_random")
    >>> cells.errors().rows()
    [(1, 'age', 'missing_at_random')]
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

__all__ = ["Cells"]


class Cells:
    """Columns of one length, and a mark for every planted error.

    Args:
        columns: Arrays of shape ``(rows,)``, by name. They are copied.

    Attributes:
        columns: The arrays.
        truth: The same columns as they should be, row by row.
    """

    def __init__(self, columns: dict[str, npt.NDArray[Any]]) -> None:
        self.columns = {name: column.copy() for name, column in columns.items()}
        self.truth = dict(columns)
        self._marks: dict[tuple[str, str], npt.NDArray[np.bool_]] = {}

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.columns[name]

    def put(self, name: str, rows: npt.NDArray[np.int64], values: Any, *, kind: str) -> None:
        """Write wrong values; whatever was wrong with these cells before can be seen no more.

        Args:
            name: The column.
            rows: Which.
            values: One, or one for each row.
            kind: Of the error.
        """
        self.columns[name][rows] = values
        self.set_right(name, rows)
        self.mark(name, rows, kind=kind)

    def mark(self, name: str, rows: npt.NDArray[np.int64], *, kind: str) -> None:
        """Note that something is wrong; ``name`` is empty where it is the whole row."""
        self._marks.setdefault((name, kind), np.zeros(len(self), dtype=bool))[rows] = True

    def set_right(self, name: str, rows: npt.NDArray[np.int64]) -> None:
        """Forget what was wrong with cells."""
        for (column, _), marks in self._marks.items():
            if column == name:
                marks[rows] = False

    def take(self, rows: npt.NDArray[np.int64]) -> None:
        """Keep these rows, in this order; a row may come twice."""
        for part in (self.columns, self.truth, self._marks):
            for key, values in part.items():
                part[key] = values[rows]  # type: ignore[index]

    def errors(self) -> pl.DataFrame:
        """One row for each planted error: the column ``record`` of its row, the column it is in, its kind."""
        record = self.columns["record"]
        found = [
            pl.DataFrame({"record": record[marks]}, schema={"record": pl.Int64}).with_columns(
                column=pl.lit(column), kind=pl.lit(kind)
            )
            for (column, kind), marks in self._marks.items()
        ]
        empty = pl.DataFrame(schema={"record": pl.Int64, "column": pl.String, "kind": pl.String})
        return pl.concat([empty, *found]).sort("record", "column", "kind")
