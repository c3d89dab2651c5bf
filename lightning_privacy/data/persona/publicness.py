"""Who is public, decided from all records before any are left out: a person with a private record is private.

Steps may fill a person's records from one another, keep some of them, or make one of them. Were it asked only
afterwards whose records are all public, the private record whose values the others have by then might be gone.

Example:
    >>> import polars as pl
    >>> table = pl.DataFrame({"person": ["a", "a", "b"], "public": [True, False, True]})
    >>> marked = PrivatePeople(["person"])(table)
    >>> marked[PRIVATE].to_list()
    [True, True, False]
"""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation._columns import PIPELINE

__all__ = ["PRIVATE", "PUBLIC", "PrivatePeople"]

#: The column of a table that says which records are public.
PUBLIC = "public"
#: The column in which it is kept that a record's person has, or had, a private one.
PRIVATE = f"{PIPELINE}private person"


class PrivatePeople:
    """Marks the records of people who have a private one; call it before a preparation and between its steps.

    Args:
        keys: Columns that say who a record is about, as far as they are there. What two columns say is joined: records
            of one person by either are of one.

    Raises:
        ConfigurationError: When it is called: a step left the mark out and the column ``public`` in.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = tuple(dict.fromkeys(keys))
        self._begun = False

    def __call__(self, table: pl.DataFrame) -> pl.DataFrame:
        """Return the table with the mark brought up to date; as it is where nobody says what is public."""
        if PUBLIC not in table.columns:
            return table
        if PRIVATE not in table.columns:
            if self._begun:
                raise ConfigurationError(
                    "a step of the preparation selected columns, and left out the one in which it is kept who has a "
                    "private record: let it drop columns by name and carry along all others"
                )
            table = table.with_columns((~pl.col(PUBLIC).cast(pl.Boolean).fill_null(value=False)).alias(PRIVATE))
        self._begun = True
        keys = [key for key in self._keys if key in table.columns]
        while True:
            marked = table
            for key in keys:
                person = pl.col(key)
                marked = marked.with_columns(
                    pl.when(person.is_null()).then(PRIVATE).otherwise(pl.col(PRIVATE).any().over(key)).alias(PRIVATE)
                )
            if marked[PRIVATE].equals(table[PRIVATE]):
                return marked
            table = marked
