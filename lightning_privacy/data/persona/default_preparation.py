"""What is done to a generated table of people when nothing else is asked for.

Example:
    >>> [step.name for step in default_preparation()][3:]
    ['normalise dates', 'declared limits', 'deduplicate', 'bound contributions', 'pseudonymise', 'forget columns']
"""

from __future__ import annotations

from lightning_privacy.data.persona.columns import (
    AGE_EDGES,
    AGE_RANGE,
    FIRST_TIME,
    GENDERS,
    LAST_TIME,
    UNKNOWN,
    gender_codes,
)
from lightning_privacy.data.persona.forget import Forget
from lightning_privacy.data.persona.places import place_codes
from lightning_privacy.preparation import Roles, Step
from lightning_privacy.preparation.contribution import BoundContributions
from lightning_privacy.preparation.deduplicate import Deduplicate
from lightning_privacy.preparation.generalise import Bands, TimeBuckets
from lightning_privacy.preparation.missing import FillConstant, FillMedian
from lightning_privacy.preparation.normalise import NormaliseCodes, NormaliseText
from lightning_privacy.preparation.normalise_dates import NormaliseDates
from lightning_privacy.preparation.outliers import DeclaredLimits
from lightning_privacy.preparation.pseudonymise import Pseudonymise

__all__ = ["default_preparation", "default_roles", "default_train_preparation"]

# The median of a few thousand ages is found within a year or so at a twentieth.
_EPSILON_OF_MEDIAN = 0.05
_WHO = ("customer", "given_name", "surname", "email", "gender", "age", "location")


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


def default_preparation(max_records_per_person: int = 1) -> list[Step]:
    """Steps for all records: one way to write each thing, who is who, and then no names any more.

    Args:
        max_records_per_person: Records of each person that are kept.
    """
    return [
        NormaliseText(columns=["given_name", "surname", "email", "gender", "location", "time"]),
        NormaliseCodes("gender", gender_codes(), unknown="null"),
        NormaliseCodes("location", place_codes(), unknown="null"),
        NormaliseDates(["time"], time=True, earliest=FIRST_TIME.date(), latest=LAST_TIME.date(), invalid="null"),
        DeclaredLimits({"age": AGE_RANGE}),
        # Two customer numbers that are nearly alike are as different as any two.
        Deduplicate(columns=_WHO, kinds={"customer": "category"}, threshold=0.9, caveat=True),
        BoundContributions(max_records_per_person, person="person"),
        Pseudonymise(columns=["customer"]),
        Forget(["given_name", "surname", "email"]),
    ]


def default_train_preparation() -> list[Step]:
    """Steps that learn, from the records to train on: missing values filled, and what is left made coarser."""
    return [
        FillMedian("age", bounds={"age": AGE_RANGE}, epsilon=_EPSILON_OF_MEDIAN),
        FillConstant({"gender": GENDERS[-1], "location": UNKNOWN}),
        Bands("age", edges=AGE_EDGES),
        TimeBuckets("time", every="month"),
    ]
