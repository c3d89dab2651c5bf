"""Who is who when several columns say it: rows are of one person as soon as one of the columns says so.

A customer number and what de-duplication found may disagree. Were only one of them asked, a customer whose records
look different would count as several people, each with a guarantee of their own, and could be trained on and held out
at once.

Example:
    >>> import polars as pl
    >>> table = pl.DataFrame({"who": ["a", "a", None, None], "cluster": [0, 1, 1, 2]})
    >>> same = SamePerson(["who", "cluster"])
    >>> same.look_at(table)
    >>> same.named(table, "cluster")["cluster"].to_list()
    ['0', '0', '0', '2']
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

import numpy as np
import polars as pl
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from lightning_privacy.preparation._columns import known_person

__all__ = ["SamePerson", "present"]

_ONE, _OTHER = "one", "other"


class SamePerson:
    """Joins people whom any of several columns says to be one.

    What a table says is kept when it changes: two people stay one after the row that said so, or the column, is left
    out. Values that are missing, as nulls or as blank text, join nobody.

    Args:
        keys: Columns that say who a record is about, as far as they are there.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = tuple(dict.fromkeys(keys))
        # By two columns, the pairs of values that are met in a row.
        self._met: dict[tuple[str, str], pl.DataFrame] = {}

    def look_at(self, table: pl.DataFrame) -> None:
        """Take in what a table says; call it whenever it has changed."""
        keys = [key for key in self._keys if key in table.columns]
        for one, other in combinations(keys, 2):
            met = table.select(present(table, one).alias(_ONE), present(table, other).alias(_OTHER)).drop_nulls()
            before = self._met.get((one, other))
            self._met[one, other] = (met if before is None else pl.concat([before, met])).unique(maintain_order=True)

    def named(self, table: pl.DataFrame, person: str) -> pl.DataFrame:
        """Give all rows of a person one name in a column, as text: the first of those they have, in their order.

        Args:
            table: One row per record.
            person: One of the columns.
        """
        table = table.with_columns(pl.col(person).cast(pl.String))
        pairs = [
            part.select(
                pl.concat_str(pl.lit(f"{keys[place]}\x00"), name).alias(name)
                for place, name in enumerate((_ONE, _OTHER))
            )
            for keys, part in self._met.items()
        ]
        if not pairs:
            return table
        met = pl.concat(pairs)
        values = pl.concat([met[_ONE], met[_OTHER]]).unique().sort()
        places = [values.search_sorted(met[name]).to_numpy().astype(np.int64) for name in (_ONE, _OTHER)]
        graph = coo_matrix((np.ones(len(met), np.int8), tuple(places)), shape=(len(values), len(values)))
        joined = pl.DataFrame({"value": values, "part": connected_components(graph, directed=False)[1]})
        prefix = f"{person}\x00"
        own = joined.filter(pl.col("value").str.starts_with(prefix)).with_columns(
            pl.col("value").str.strip_prefix(prefix)
        )
        # Of names that are there: a step may have written all of them anew.
        own = own.join(table.select(value=person).unique(), on="value", how="semi")
        own = own.with_columns(pl.col("value").min().over("part").alias("name"))
        return table.with_columns(pl.col(person).replace(own["value"], own["name"]))


def present(table: pl.DataFrame, key: str) -> pl.Expr:
    """The values of a column as text, null where they are missing.

    Args:
        table: Has the column.
        key: Its name.
    """
    return known_person(table.schema, key).cast(pl.String)
