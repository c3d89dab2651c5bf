"""What all releases have in common.

Example:
    >>> from lightning_privacy.accounting.release import Release
    >>> from lightning_privacy.accounting.releases import GaussianRelease
    >>> isinstance(GaussianRelease(noise_multiplier=1.0), Release)
    True
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import dp_accounting

__all__ = ["Release"]


@dataclass(frozen=True)
class Release:
    """Base of all releases; not charged itself.

    ``kind`` is the stable name under which a release is saved, whatever the class is called later.
    """

    kind: ClassVar[str] = ""

    @property
    def label(self) -> str:
        """Name and parameters in a few words, for tables."""
        raise NotImplementedError(f"{type(self).__name__} has no label")

    @property
    def private(self) -> bool:
        """False when this release has no finite epsilon at all."""
        return True

    def event(self) -> dp_accounting.DpEvent:
        """The event ``dp_accounting`` composes for one such release."""
        raise NotImplementedError(f"{type(self).__name__} has no event")

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values from which :func:`release_from_dict` makes an equal release."""
        return {"kind": self.kind} | {field.name: getattr(self, field.name) for field in fields(self)}

    def _set(self, **values: object) -> None:
        # Stores the checked value (an int given where a float is meant becomes the float), so that
        # SampledGaussian(1, 1) and SampledGaussian(1.0, 1.0) are one group.
        for name, value in values.items():
            object.__setattr__(self, name, value)
