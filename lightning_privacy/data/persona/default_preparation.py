"""What is done to a generated table of people when nothing else is asked for.

Example:
    >>> [step.name for step in default_preparation()]
    ['normalise text', 'normalise codes', 'normalise codes']
"""

from __future__ import annotations

from lightning_privacy.data.persona.columns import CODES_OF_GENDER
from lightning_privacy.data.persona.places import PLACES
from lightning_privacy.preparation import Roles, Step
from lightning_privacy.preparation.normalise import NormaliseCodes, NormaliseText

__all__ = ["default_preparation", "default_roles", "default_train_preparation"]


def default_roles() -> Roles:
    """The roles of a generated table's columns."""
    return Roles(
        identifier="customer",
        quasi_identifiers=("age", "gender", "location", "time"),
        groups=("gender", "age", "location"),
        client="location",
        time="time",
        features=("image",),
        label="label",
    )


def default_preparation() -> list[Step]:
    """Steps for all records, which find out who is who."""
    return [
        NormaliseText(columns=["given_name", "surname", "email", "gender", "location", "time"]),
        NormaliseCodes("gender", CODES_OF_GENDER, unknown="null"),
        NormaliseCodes("location", {place.name: place.codes for place in PLACES}, unknown="null"),
    ]


def default_train_preparation() -> list[Step]:
    """Steps that learn, from the records to train on."""
    return []
