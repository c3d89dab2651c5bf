"""Invented people with a picture each, as correlated as in life and as damaged as in offices.

Nobody in the table exists. It is made so that a whole pipeline for personal data can be tried where the truth is known:
who each record belongs to, what it should say and what is wrong with it.

Images are small variations of public ones. Two people's images may come from one base image, as two people may write
alike; those of people whose records are public come from other base images than those of all others.

Example:
    >>> data = PersonaGenerator(num_persons=100, seed=0).generate()
    >>> data.records.columns[:8]
    ['record', 'customer', 'given_name', 'surname', 'email', 'gender', 'age', 'location']
    >>> data.images.shape[1:], data.truth.records["person"].n_unique()
    ((28, 28), 100)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from lightning_privacy._validate import non_negative, non_negative_int, one_of, positive_int
from lightning_privacy.data.persona.base_images import KINDS, draw_bases, load_base_images
from lightning_privacy.data.persona.cells import Cells
from lightning_privacy.data.persona.columns import COLUMNS, GENDERS
from lightning_privacy.data.persona.correlations import (
    draw_ages,
    draw_classes,
    draw_genders,
    draw_minutes,
    draw_places,
)
from lightning_privacy.data.persona.damage import Damage
from lightning_privacy.data.persona.damaging import do_damage
from lightning_privacy.data.persona.duplicates import customer_numbers
from lightning_privacy.data.persona.names import draw_emails, draw_names
from lightning_privacy.data.persona.places import PLACES, REGIONS
from lightning_privacy.data.persona.truth import PersonaTruth
from lightning_privacy.data.persona.variations import vary
from lightning_privacy.errors import ConfigurationError

__all__ = ["PersonaData", "PersonaGenerator"]

_INTEGERS = {"record", "age", "label", "image", "person", "base"}


@dataclass(frozen=True, eq=False)
class PersonaData:
    """A table of records and the images they point at.

    Attributes:
        records: One row per record.
        images: 0 to 255, shape ``(num_images, 28, 28)``; the column ``image`` says which is whose.
        truth: What is true, where it is known.
    """

    records: pl.DataFrame
    images: npt.NDArray[np.uint8]
    truth: PersonaTruth | None = None


@dataclass(frozen=True, kw_only=True)
class PersonaGenerator:
    """Makes people, their records and their images; the same for the same arguments.

    Args:
        num_persons: How many people; some have several records.
        images: What images are made of: ``"digits"`` (scikit-learn's) or ``"fashion-mnist"``.
        root: Folder of Fashion-MNIST's files.
        damage: What goes wrong with the table; None for nothing.
        images_per_person: Probabilities of 1, 2, ... images per person.
        public_share: Probability of a person to have agreed that the record is used openly.
        label_shift: How much the frequencies of classes differ between towns: standard deviation of their logarithm.
        variation: How much images differ from their base images; 0 leaves them as they are. By default 1 for the
            digits, of which there are few, and 0 for Fashion-MNIST.
        seed: Of everything that is drawn.

    Raises:
        ConfigurationError: An argument is out of range.

    Example:
        >>> generator = PersonaGenerator(num_persons=20, damage=Damage.none(), images_per_person=(1.0,))
        >>> len(generator.generate().records)
        20
    """

    num_persons: int = 12_000
    images: str = "digits"
    root: str | Path | None = None
    damage: Damage | None = field(default_factory=Damage)
    images_per_person: tuple[float, ...] = (0.8, 0.15, 0.05)
    public_share: float = 0.2
    label_shift: float = 0.5
    variation: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        positive_int(num_persons=self.num_persons)
        one_of(KINDS, images=self.images)
        non_negative(label_shift=self.label_shift)
        non_negative_int(seed=self.seed)
        if self.variation is not None:
            non_negative(variation=self.variation)
        if not 0 <= non_negative(public_share=self.public_share) <= 1:
            raise ConfigurationError(f"public_share must be a number from 0 to 1, got {self.public_share!r}")
        shares = tuple(non_negative(images_per_person=share) for share in self.images_per_person)
        if not np.isclose(sum(shares), 1.0):
            raise ConfigurationError(f"images_per_person must be probabilities that sum to 1, got {shares}")

    def generate(self) -> PersonaData:
        """Make the table, the images and the truth.

        Raises:
            ConfigurationError: Files of the images are missing or damaged, or mimesis is not installed.
        """
        # One stream for each part, so that more damage leaves the people and their images as they were.
        seeds = np.random.SeedSequence([self.seed, self.num_persons]).spawn(4)
        of_people, of_records, of_images, of_damage = map(np.random.default_rng, seeds)
        people = self._people(of_people)
        columns = self._records(people, of_records)
        images, columns["base"] = self._images(columns, of_images)
        person, base = columns.pop("person"), columns.pop("base")
        cells = Cells(columns)
        # The image says which record of whom it was at first, in duplicates too.
        do_damage(cells, self.damage or Damage.none(), of_damage)
        image = cells["image"]
        known = {"person": person[image], **{name: cells.truth[name] for name in COLUMNS if name != "record"}}
        truth = _frame({"record": cells["record"], **known, "base": base[image]})
        order = ["record", "person", *(name for name in COLUMNS if name not in ("record", "customer", "image"))]
        records = _frame({name: cells[name] for name in COLUMNS})
        return PersonaData(records, images, PersonaTruth(truth.select(*order, "customer", "base"), cells.errors()))

    def _people(self, generator: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
        place = draw_places(self.num_persons, generator)
        region = np.array([REGIONS.index(place.region) for place in PLACES])[place]
        gender = draw_genders(self.num_persons, generator)
        given, surname = draw_names(region, gender, generator)
        return {
            "customer": customer_numbers(self.num_persons, generator),
            "given_name": given,
            "surname": surname,
            "email": draw_emails(given, surname, generator),
            "gender": np.array(GENDERS, dtype=object)[gender],
            "age": draw_ages(region, gender, generator),
            "location": np.array([place.name for place in PLACES], dtype=object)[place],
            "public": generator.random(self.num_persons) < self.public_share,
            "place": place,
        }

    def _records(
        self, people: dict[str, npt.NDArray[Any]], generator: np.random.Generator
    ) -> dict[str, npt.NDArray[Any]]:
        counts = generator.choice(len(self.images_per_person), size=self.num_persons, p=self.images_per_person) + 1
        person = np.repeat(np.arange(self.num_persons), counts)
        columns = {name: values[person] for name, values in people.items()}
        minutes = draw_minutes(columns["age"], generator)
        labels = draw_classes(columns.pop("place"), self.label_shift, generator)
        # Ages and labels may be lost or replaced later.
        columns["age"] = columns["age"].astype(object)
        numbers = np.arange(len(person))
        return columns | {"record": numbers, "person": person, "time": minutes, "label": labels, "image": numbers}

    def _images(
        self, columns: dict[str, npt.NDArray[Any]], generator: np.random.Generator
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        bases = load_base_images(self.images, self.root)
        drawn = draw_bases(bases, columns["label"], columns["public"], generator)
        strength = self.variation if self.variation is not None else float(self.images == "digits")
        return vary(bases.images[drawn], strength=strength, generator=generator), drawn


def _frame(columns: dict[str, npt.NDArray[Any]]) -> pl.DataFrame:
    """A table of whole numbers, truth values and texts, each with nulls where something is missing."""
    series = []
    for name, values in columns.items():
        kind = pl.Int64 if name in _INTEGERS else pl.Boolean if name == "public" else pl.String
        series.append(pl.Series(name, values.tolist(), dtype=kind))
    return pl.DataFrame(series)
