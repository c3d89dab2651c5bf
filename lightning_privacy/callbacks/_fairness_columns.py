"""Where the groups of a batch's rows come from: the batch itself, or a column with one entry for each row of the data.

Example:
    >>> import torch
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> from lightning_privacy.callbacks._fairness_attributes import attributes_of
    >>> sex, place = attributes_of({"sex": "sex", "place": ["a", "b", "a"]})
    >>> order = RowOrder.of(DataLoader(TensorDataset(torch.zeros(3)), batch_size=2))
    >>> batch, columns = {"x": torch.zeros(2), "sex": torch.tensor([1, 0])}, GroupColumns()
    >>> where = dict(loader=None, position=0, places=order.next(2), order=order)
    >>> columns.values(sex, batch, **where).tolist(), columns.values(place, batch, **where).tolist()
    ([1, 0], ['a', 'b'])
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from lightning_privacy.callbacks._fairness_alignment import RowOrder, column_of_dataset
from lightning_privacy.callbacks._fairness_attributes import Attribute
from lightning_privacy.callbacks._fairness_predictions import fields_of
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.fairness.batch_groups import column_of

__all__ = ["GroupColumns"]


class GroupColumns:
    """Finds the values of attributes; a column of a data set is read once."""

    def __init__(self) -> None:
        self._columns: dict[tuple[int, str], Any] = {}

    def values(
        self, attribute: Attribute, batch: Any, *, loader: Any, position: int, places: Tensor, order: RowOrder
    ) -> Any:
        """The values of an attribute in a batch.

        Args:
            attribute: Which.
            batch: Of the loader.
            loader: Whose data set may have what the batch has not.
            position: Which loader that is.
            places: Positions of the batch's rows; see :class:`RowOrder`.
            order: Of the loader's rows.

        Returns:
            One for each row.

        Raises:
            ConfigurationError: They are not where they are looked for, or an array can't be matched with the rows.
        """
        source = attribute.source
        key = position, attribute.name
        if not isinstance(source, np.ndarray) and key not in self._columns:
            try:
                return column_of(batch if callable(source) else fields_of(batch), source)
            except ConfigurationError:
                column = None
                if isinstance(source, str):
                    column = column_of_dataset(getattr(loader, "dataset", None), source)
                if column is None:
                    raise
                self._columns[key] = np.asarray(column)
        elif key not in self._columns:
            self._columns[key] = source
        column = self._columns[key]
        order.check(len(column), argument=f"groups of {attribute.name!r}")
        # Rows given a second time have no entry; they are left out afterwards.
        return column[places.clamp(max=len(column) - 1).numpy()]
