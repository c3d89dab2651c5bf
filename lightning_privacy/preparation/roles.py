"""What each column of a table of people is for.

Groups feed fairness metrics, the client feeds federated partitions, the identifier feeds guarantees per person, and
quasi-identifiers are what generalisation and k-anonymity look at.

Example:
    >>> roles = Roles(identifier="name", quasi_identifiers=["age", "place"], groups="gender", label="digit")
    >>> roles.of("age"), roles.columns
    (('quasi_identifiers',), ('name', 'age', 'place', 'gender', 'digit'))
    >>> roles.check(["name", "age", "place", "sex", "digit"])
    Traceback (most recent call last):
        ...
    lightning_privacy.errors.ConfigurationError: groups names column 'gender', which the table does not have; its columns are 'name', 'age', 'place', 'sex', 'digit'
"""  # noqa: E501 - the message is one line

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation._columns import column_names, require_columns

__all__ = ["Roles"]

_SINGLE = ("identifier", "client", "time", "label")
# What a column may be next to these; every other pair of different roles is allowed.
_EXCLUSIVE: dict[str, tuple[str, ...]] = {"identifier": ("client",), "label": (), "free_text": ()}


@dataclass(frozen=True)
class Roles:
    """The roles of a table's columns; a column without a role is carried along and used for nothing.

    One column may be a quasi-identifier, a group, a feature, the client and the time at once. The identifier may be
    the client too and nothing else; the label and columns of free text have no second role.

    Args:
        identifier: the column that says who a row is about: a name, a number, a pseudonym.
        quasi_identifiers: columns that together may single a person out: age, place, time.
        groups: columns whose values are the groups of fairness metrics.
        client: the column whose values are the clients of a federated run.
        time: the column that says when a row was recorded.
        features: columns a model may see.
        label: the column a model predicts.
        free_text: columns of prose, in which names may occur.

    Raises:
        ConfigurationError: a column is named twice in one role, or has two roles that exclude each other.
    """

    identifier: str | None = None
    quasi_identifiers: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    client: str | None = None
    time: str | None = None
    features: tuple[str, ...] = ()
    label: str | None = None
    free_text: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _SINGLE:
                if value is not None and (not isinstance(value, str) or not value):
                    raise ConfigurationError(f"{field.name} must be the name of one column or None, got {value!r}")
                continue
            names = column_names(field.name, value)
            # A list of a config is stored as a tuple, so that roles stay frozen and hashable.
            object.__setattr__(self, field.name, names)
        for column in self.columns:
            self._check_pairs(column)

    def _check_pairs(self, column: str) -> None:
        held = self.of(column)
        for role in held:
            beside = _EXCLUSIVE.get(role)
            if beside is None:
                continue
            for other in held:
                if other != role and other not in beside:
                    raise ConfigurationError(
                        f"column {column!r} is given the roles {role} and {other}, and {role} can't be shared: "
                        f"remove it from one of them"
                    )

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that has a role, once, in the order of the roles."""
        return tuple(dict.fromkeys(column for _, column in self._pairs()))

    def of(self, column: str) -> tuple[str, ...]:
        """The roles of a column, in the order of the class.

        Args:
            column: its name; one without a role gives ().
        """
        return tuple(role for role, name in self._pairs() if name == column)

    def check(self, columns: Iterable[str]) -> Roles:
        """Return these roles if the table has every column they name.

        Args:
            columns: the table's columns.

        Raises:
            ConfigurationError: a column is unknown; the message names the role and the nearest name there is.
        """
        known = list(columns)
        for role, name in self._pairs():
            require_columns(role, [name], known)
        return self

    def _pairs(self) -> list[tuple[str, str]]:
        pairs: list[tuple[str, str]] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str):
                pairs.append((field.name, value))
            elif value is not None:
                pairs.extend((field.name, name) for name in value)
        return pairs
