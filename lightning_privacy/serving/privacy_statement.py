"""What a released model guarantees to those it was trained on, in numbers and in words.

A model is called private only where the ledger has noisy steps of a training. What was learned while the data were
prepared, or labels that were randomised, protect what they are about, and not what a model learned from the records.

Example:
    >>> from lightning_privacy.accounting import GaussianRelease, LaplaceRelease, PrivacyLedger
    >>> ledger = PrivacyLedger(delta=1e-5, unit="person")
    >>> ledger.charge(GaussianRelease(noise_multiplier=2.0), label="one step")
    >>> print(PrivacyStatement.of(ledger).text)
    Private for each person: epsilon 1.994 at delta 1e-05 (one record is replaced by a null record).
    >>> ledger = PrivacyLedger(delta=1e-5)
    >>> ledger.charge(LaplaceRelease(epsilon=0.5), label="a mean")
    >>> print(PrivacyStatement.of(ledger).text)
    Not private: trained without differential privacy. Caveat: Only what was learned ... costs epsilon 0.500 ...
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lightning_privacy.accounting import (
    GaussianRelease,
    LaplaceRelease,
    PrivacyLedger,
    PureRelease,
    RandomizedResponseRelease,
    Release,
    SelectionRelease,
)
from lightning_privacy.accounting.epsilon_text import epsilon_text
from lightning_privacy.accounting.void import voids
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.serving._fields import Fields

__all__ = ["PrivacyStatement"]

# No training releases these: statistics, choices and labels do.
_OF_DATA = (LaplaceRelease, PureRelease, RandomizedResponseRelease, SelectionRelease)

_DATA_ONLY = "Only what was learned while the data were prepared is protected"
_ADJACENCY = "zero-out: one record is replaced by a null record"


@dataclass(frozen=True)
class PrivacyStatement:
    """Epsilon, delta and what they mean.

    Args:
        private: Whether the training was private, with a finite epsilon.
        epsilon: Of everything the ledger was charged, exact; None where the model is not private.
        delta: Of that epsilon; None where there is no ledger.
        unit: What is protected: "example", "person", "client".
        adjacency: Which data sets are neighbours.
        replace_one_epsilon: Epsilon when a record is replaced by any other; None where that does not compose.
        releases: What was released, how often, and what for.
        caveats: What limits the guarantee.
    """

    private: bool
    epsilon: float | None
    delta: float | None
    unit: str | None
    adjacency: str | None
    replace_one_epsilon: float | None
    releases: tuple[Mapping[str, Any], ...]
    caveats: tuple[str, ...]

    @classmethod
    def of(cls, ledger: PrivacyLedger | None, *, caveats: tuple[str, ...] = ()) -> PrivacyStatement:
        """What a ledger says.

        A ledger of data releases alone (statistics, choices, randomised labels) is that of a training without privacy:
        their cost is a caveat then.

        Args:
            ledger: Of the run that trained the model, or None without privacy.
            caveats: More of them than the ledger has.

        Raises:
            ConfigurationError: It is not a ledger, or nothing was charged to it: it is not the ledger of a training.
        """
        if ledger is None:
            return cls(False, None, None, None, None, None, (), caveats)
        if not isinstance(ledger, PrivacyLedger):
            raise ConfigurationError(f"ledger must be a PrivacyLedger or None, got {type(ledger).__name__}")
        if not ledger.history:
            raise ConfigurationError(
                "ledger has no releases, so it is not the one of the run that trained this model: pass the ledger of "
                "its DifferentialPrivacy callback, or None for a model that was trained without privacy"
            )
        epsilon = ledger.epsilon(exact=True)
        data_only = all(_is_of_data(release, label) for release, _, label in ledger.history)
        private = math.isfinite(epsilon) and not data_only and not any(map(voids, (*ledger.caveats, *caveats)))
        if data_only:
            cost = epsilon_text(epsilon, budget=ledger.budget)
            told = f"{_DATA_ONLY}, and costs epsilon {cost} at delta {ledger.delta:g}; the training is not."
            caveats = (told, *caveats)
        replace_one = ledger.replace_one_epsilon() if private else None
        return cls(
            private=private,
            epsilon=epsilon if private else None,
            delta=ledger.delta,
            unit=ledger.unit,
            adjacency=_ADJACENCY,
            replace_one_epsilon=replace_one if replace_one is not None and math.isfinite(replace_one) else None,
            releases=tuple(
                {"release": release.label, "count": count, "label": label} for release, count, label in ledger.history
            ),
            caveats=tuple(dict.fromkeys((*ledger.caveats, *caveats))),
        )

    @classmethod
    def from_fields(cls, fields: Fields) -> PrivacyStatement:
        """Read what :meth:`to_dict` gave.

        Raises:
            ExportError: Something is missing, of the wrong type, or contradicts the rest.
        """
        statement = cls(
            private=fields.boolean("private"),
            epsilon=fields.number_or_none("epsilon", least=0.0),
            delta=fields.number_or_none("delta", least=0.0),
            unit=fields.text_or_none("unit"),
            adjacency=fields.text_or_none("adjacency"),
            replace_one_epsilon=fields.number_or_none("replace_one_epsilon", least=0.0),
            releases=tuple(
                {"release": each.text("release"), "count": each.whole("count"), "label": each.text_or_none("label")}
                for each in fields.records("releases")
            ),
            caveats=tuple(fields.texts("caveats")),
        )
        known = (statement.epsilon, statement.delta, statement.unit, statement.adjacency)
        if statement.private and any(value is None for value in known):
            raise fields.wrong("private", "false where epsilon, delta, unit or adjacency is missing")
        if not statement.private and statement.epsilon is not None:
            raise fields.wrong("private", "true where there is an epsilon")
        fields.done()
        return statement

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"releases": [dict(each) for each in self.releases], "caveats": list(self.caveats)}

    @property
    def text(self) -> str:
        """One paragraph for a person."""
        if self.private and self.epsilon is not None:
            said = (
                f"Private for each {self.unit}: epsilon {epsilon_text(self.epsilon)} at delta {self.delta:g} "
                "(one record is replaced by a null record)."
            )
        elif self.delta is not None and not any(each.startswith(_DATA_ONLY) for each in self.caveats):
            said = "Not private: something was released without protection, or a caveat voids what was."
        else:
            said = "Not private: trained without differential privacy."
        return " ".join([said, *(f"Caveat: {each}" for each in self.caveats)])


def _is_of_data(release: Release, label: str | None) -> bool:
    """Whether a release is of data and not a step of a training; ``gaussian`` charges its own without a label."""
    return isinstance(release, _OF_DATA) or (type(release) is GaussianRelease and label is None)
