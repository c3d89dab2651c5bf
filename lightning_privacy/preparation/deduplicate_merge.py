"""One record for each person, made of the records that are taken to be theirs.

Example:
    >>> import polars as pl
    >>> table = pl.DataFrame({"person": [0, 0, 0, 1], "place": ["Ulm", None, "Ulm", "Bonn"], "age": [30, 31, 31, 50]})
    >>> merge(table, "person", "frequent").rows()
    [(0, 'Ulm', 31), (1, 'Bonn', 50)]
"""

from __future__ import annotations

import polars as pl

from lightning_privacy.preparation._columns import PIPELINE

__all__ = ["RULES", "merge"]

RULES = ("complete", "first", "frequent")


def merge(table: pl.DataFrame, person: str, rule: str) -> pl.DataFrame:
    """Keep one record a person, in the order in which persons first appear.

    Args:
        table: records with the number of their person.
        person: the column with that number.
        rule: ``"first"`` keeps the first record as it is, ``"complete"`` the one with the fewest missing values and of
            these the first; ``"frequent"`` makes a new one of the most frequent value of each column, missing only
            where it is missing in all, the earlier one where two are as frequent.
    """
    carried = [name for name in table.columns if name.startswith(PIPELINE)]
    if carried:
        table = table.with_columns(
            (pl.col(name).any() if table.schema[name] == pl.Boolean else pl.col(name).min()).over(person)
            for name in carried
        )
    if rule == "first":
        return table.unique(person, keep="first", maintain_order=True)
    values = [name for name in table.columns if name != person and name not in carried]
    if rule == "complete":
        missing = pl.sum_horizontal(pl.col(name).is_null() for name in values)
        order = table.select(pl.col(person), missing=missing).with_row_index("row")
        order = order.with_columns(pl.col("row").first().over(person).alias("appeared"))
        best = order.sort("missing", "row").unique(person, keep="first", maintain_order=True).sort("appeared")
        return table[best["row"]]
    rows = table.group_by(person, maintain_order=True)
    frequent = [
        pl.col(name).drop_nulls().mode(maintain_order=True).first().alias(name)  # the first of the most frequent
        for name in values
    ]
    return rows.agg(*frequent, *(pl.col(name).first() for name in carried)).select(table.columns)
