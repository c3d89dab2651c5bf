"""Which roles of a table's columns a batch of people's images can hold.

A :class:`~lightning_privacy.data.persona.batch.PersonaBatch` has a place for an image, its class, a gender, a band of
age and a place, found by the columns' names. A role that names another column would be set aside in silence, and
figures by group would be told of people of whom nobody knows the group.

Example:
    >>> from lightning_privacy.preparation import Roles
    >>> check_carried(Roles(groups=("gender", "age"), features=("image",), label="digit"))
    >>> check_carried(Roles(groups=("Geschlecht",)))
    Traceback (most recent call last):
        ...
    lightning_privacy.errors.ConfigurationError: roles names column 'Geschlecht' among the groups, and batches ...
"""

from __future__ import annotations

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation import Roles

__all__ = ["check_carried"]

_CARRIED = {"groups": ("gender", "age", "age_band", "location"), "features": ("image",)}


def check_carried(roles: Roles) -> None:
    """See to it that batches hold what roles name.

    Args:
        roles: Of the table's columns. The class may be in any column; the identifier, the client, the time,
            quasi-identifiers and free text are for the preparation.

    Raises:
        ConfigurationError: A group or a feature is a column that batches have no place for.
    """
    for role, carried in _CARRIED.items():
        for column in getattr(roles, role):
            if column not in carried:
                raise ConfigurationError(
                    f"roles names column {column!r} among the {role}, and batches of people's images have "
                    f"{' or '.join(carried)} there, found by the column's name: rename the column in the table, "
                    "leave it out of the role, or write a DataModule of your own for another kind of table (how-to "
                    "'Your own table', docs/pages/how-to/own-table.md)"
                )
