"""A step that leaves columns out: what training does not need is not carried along.

Example:
    >>> import polars as pl
    >>> Forget(["name"]).run(pl.DataFrame({"name": ["Ada"], "age": [36]})).columns
    ['age']
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import polars as pl
from typing_extensions import override

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation import Step

__all__ = ["Forget"]


class Forget(Step):
    """Leaves columns out, such as names once it is known who is who.

    Args:
        columns: Their names.

    Raises:
        ConfigurationError: There are none, or, when applied, the table lacks one: a name that is written wrongly must
            not stay in the table.
    """

    name: ClassVar[str] = "forget columns"
    by_columns: ClassVar[bool] = True

    def __init__(self, columns: Iterable[str]) -> None:
        super().__init__()
        self._columns = [columns] if isinstance(columns, str) else list(columns)
        if not self._columns or not all(isinstance(name, str) for name in self._columns):
            raise ConfigurationError(f"columns must name at least one column, got {columns!r}")

    @override
    def _apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        known = frame.collect_schema().names()
        missing = [name for name in self._columns if name not in known]
        if missing:
            raise ConfigurationError(
                f"columns has {', '.join(map(repr, missing))}, which the table does not have; its columns are "
                f"{', '.join(known)}"
            )
        return frame.drop(self._columns)

    @override
    def _count(self, before: pl.DataFrame, after: pl.DataFrame) -> None:
        super()._count(before, after)
        learned: dict[str, Any] = self._learned
        learned["left out"] = ", ".join(self._columns)
