"""Which people are generated: how many, with what images, and what goes wrong with their table.

Example:
    >>> Population(num_persons=300).arguments()["images"], Population(root="somewhere").arguments()["images"]
    ('digits', 'fashion-mnist')
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lightning_privacy.data.persona.damage import Damage
from lightning_privacy.errors import ConfigurationError

__all__ = ["Population"]

_DAMAGE = Damage()


@dataclass(frozen=True)
class Population:
    """Arguments of a data module for generated people.

    Args:
        num_persons: How many.
        images: What their images are made of: ``"digits"`` or ``"fashion-mnist"``; None for the second where there is a
            root, and the first otherwise.
        root: Folder of Fashion-MNIST's files.
        damage: Rates by name, or a :class:`Damage`; None for nothing.

    Raises:
        ConfigurationError: A rate is unknown or out of range.
    """

    num_persons: int = 12_000
    images: str | None = None
    root: str | Path | None = None
    damage: Damage | Mapping[str, float] | None = _DAMAGE

    def __post_init__(self) -> None:
        if isinstance(self.damage, Mapping):
            object.__setattr__(self, "damage", Damage.of(self.damage))

    def refuse_beside_source(self) -> None:
        """Refuse anything but the defaults, where people come from a source.

        Raises:
            ConfigurationError: Something else was given; the message names it.
        """
        changed = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        if changed:
            raise ConfigurationError(
                f"{', '.join(changed)} can't be given with a source, which says itself what there is"
            )

    def arguments(self) -> dict[str, Any]:
        """Arguments of a :class:`~lightning_privacy.data.persona.generator.PersonaGenerator`, without the seed.

        Raises:
            ConfigurationError: There is a root for images that need none.
        """
        if self.images == "digits" and self.root is not None:
            raise ConfigurationError(f"root={self.root!s} is for images='fashion-mnist': images='digits' need none")
        images = self.images or ("digits" if self.root is None else "fashion-mnist")
        return {"num_persons": self.num_persons, "images": images, "root": self.root, "damage": self.damage}
