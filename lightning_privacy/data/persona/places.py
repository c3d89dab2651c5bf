"""Where the invented people live: thirty towns of six countries, and the ways their names are written.

The list is public and fixed: a list of categories taken from private data would be a release of its own. Shares are
rough sizes, so that a few towns have many people and most have few, as clients of a federation do.

Example:
    >>> from lightning_privacy.data.persona.places import REGION_OF, REGIONS
    >>> REGION_OF["Gdansk"], REGIONS.index(REGION_OF["Gdansk"])
    ('Poland', 4)
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LOCALES", "PLACES", "REGIONS", "REGION_OF", "Place", "place_codes"]


@dataclass(frozen=True)
class Place:
    """A town.

    Attributes:
        name: As it should be written.
        region: Its country, one of :data:`REGIONS`.
        size: How many people live there, relative to the other towns.
        codes: Other ways to write it.
    """

    name: str
    region: str
    size: float
    codes: tuple[str, ...] = ()


#: Countries, in the order of their numbers.
REGIONS: tuple[str, ...] = ("France", "Germany", "Great Britain", "Italy", "Poland", "Sweden")

#: Whose names people of a country have, as locales of mimesis.
LOCALES: dict[str, str] = {
    "France": "fr",
    "Germany": "de",
    "Great Britain": "en-gb",
    "Italy": "it",
    "Poland": "pl",
    "Sweden": "sv",
}

PLACES: tuple[Place, ...] = (
    Place("Paris", "France", 8.0, ("Paname", "PAR")),
    Place("Lyon", "France", 3.0, ("Lyons", "LYS")),
    Place("Marseille", "France", 2.5, ("Marseilles", "MRS")),
    Place("Nantes", "France", 1.5, ("NTE",)),
    Place("Lille", "France", 1.0, ("Rijsel", "LIL")),
    Place("Berlin", "Germany", 7.0, ("BER",)),
    Place("Hamburg", "Germany", 4.0, ("HAM",)),
    Place("Munich", "Germany", 3.5, ("München", "MUC")),
    Place("Cologne", "Germany", 2.5, ("Köln", "CGN")),
    Place("Leipzig", "Germany", 1.5, ("LEJ",)),
    Place("London", "Great Britain", 9.0, ("LDN", "Greater London")),
    Place("Manchester", "Great Britain", 3.0, ("M/cr", "MAN")),
    Place("Glasgow", "Great Britain", 2.0, ("GLA",)),
    Place("Leeds", "Great Britain", 1.5, ("LBA",)),
    Place("Cardiff", "Great Britain", 1.0, ("Caerdydd", "CWL")),
    Place("Rome", "Italy", 6.0, ("Roma", "ROM")),
    Place("Milan", "Italy", 4.0, ("Milano", "MIL")),
    Place("Naples", "Italy", 2.5, ("Napoli", "NAP")),
    Place("Turin", "Italy", 2.0, ("Torino", "TRN")),
    Place("Palermo", "Italy", 1.0, ("PMO",)),
    Place("Warsaw", "Poland", 5.0, ("Warszawa", "WAW")),
    Place("Krakow", "Poland", 2.5, ("Kraków", "KRK")),
    Place("Wroclaw", "Poland", 2.0, ("Wrocław", "WRO")),
    Place("Gdansk", "Poland", 1.5, ("Gdańsk", "GDN")),
    Place("Lublin", "Poland", 1.0, ("LUZ",)),
    Place("Stockholm", "Sweden", 4.0, ("STO",)),
    Place("Gothenburg", "Sweden", 2.5, ("Göteborg", "GOT")),
    Place("Malmo", "Sweden", 1.5, ("Malmö", "MMX")),
    Place("Uppsala", "Sweden", 1.0, ("UPP",)),
    Place("Umea", "Sweden", 0.8, ("Umeå", "UME")),
)

#: The country of each town.
REGION_OF: dict[str, str] = {place.name: place.region for place in PLACES}


def place_codes() -> dict[str, tuple[str, ...]]:
    """The ways each town is written, as ``NormaliseCodes`` takes them."""
    return {place.name: place.codes for place in PLACES}
