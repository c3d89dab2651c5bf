"""What a guarantee says, precisely and in plain words, and what it does not say.

Example:
    >>> promise = Promise(epsilon=2.9998, delta=1e-5, unit="example", replace_one_epsilon=4.69591)
    >>> promise.precise().split(";")[0]
    'The weights are (epsilon, delta)-differentially private with epsilon = 3.000 and delta = 1e-05 for each example'
    >>> promise.right_guesses()
    953
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from lightning_privacy.accounting.epsilon_text import epsilon_text, replacement_text
from lightning_privacy.accounting.void import voids
from lightning_privacy.data.persona.persons import RECORD_UNITS

__all__ = ["Promise", "contradicts", "epsilon_text", "pitfall_of", "several_records", "voids"]

# Of 1,000 guesses between two equally likely cases.
_GUESSES = 1000
# The tiers of Ponomareva et al., "How to DP-fy ML", JAIR 77 (2023), section 5.2.
_TIERS = (
    (1.0, "An epsilon of at most 1 is a strong guarantee."),
    (
        10.0,
        (
            "An epsilon between 1 and 10 is what most private models in use have: a real limit on what can be learned "
            "about anybody, though not a strong one at its upper end."
        ),
    ),
    (
        math.inf,
        (
            "An epsilon above 10 limits an attacker hardly at all on paper; what protection there is shows in the "
            "audits only."
        ),
    ),
)
# The pitfall, by its name in the README's table, that a sentence of the ledger is about.
_PITFALLS = (
    ("P25", r"drawn from a fixed seed"),
    ("P26", r"without its journal|lost in a crash|not counted here"),
    (
        "P31",
        r"^Logged while training|^Figures of clients that are logged|\bacts? on '|figures of rows that are trained on",
    ),
    ("P32", r"one of a sweep"),
    ("P34", r"person may be in up to|had up to \d+ of them|told apart by the column|records are one person's"),
    ("P40", r"who was in which cohort|seed of the cohorts"),
)
_YOURS = {
    "example": "an example about you",
    "record": "a record of yours",
    "client": "your client, with all its data,",
    "person": "what is known of you",
}
# What a caveat says of people in several records, whatever the preparation kept of each in the end.
_SEVERAL = r"had up to \d+ of them|person may be in|records of one person are|does not say who a record is about"
_AUDITED = "An audit of this run proved"
# From here on epsilon alone says little, and no tier is named.
_LARGE_DELTA = 1e-2


@dataclass(frozen=True)
class Promise:
    """A finite epsilon and what it is about.

    Args:
        epsilon: Of everything that was charged.
        delta: Of that epsilon.
        unit: What is protected.
        replace_one_epsilon: Epsilon when a unit is replaced by any other; None where that does not compose.
        covers: ``"training"``, or ``"data"`` where only the preparation of the data was charged.
        records_per_person: The most records of a person in all that was charged; None where nobody knows.
    """

    epsilon: float
    delta: float
    unit: str
    replace_one_epsilon: float | None = None
    covers: str = "training"
    records_per_person: int | None = None

    @property
    def of_people(self) -> bool:
        """Whether what is promised for a record is promised for the person it is about."""
        return self.unit in RECORD_UNITS and self.records_per_person == 1

    def precise(self) -> str:
        """The guarantee in one sentence that can be checked."""
        unit, article = self.unit, _article(self.unit)
        what = "The weights are" if self.covers == "training" else "What was released while the data were prepared is"
        other = (
            f"if {article} {unit} may be replaced by any other {unit}, epsilon is "
            f"{epsilon_text(self.replace_one_epsilon)} at the same delta"
            if self.replace_one_epsilon is not None
            else f"if {article} {unit} may be replaced by any other {unit}, epsilon is not known exactly for what was "
            f"released, and {replacement_text(self.epsilon, self.delta)}"
        )
        return (
            f"{what} (epsilon, delta)-differentially private with epsilon = {epsilon_text(self.epsilon)} and delta = "
            f"{self.delta:g} for each {unit}; two data sets are neighbours when one has a null record, which "
            f"contributes nothing, in place of one {unit} of the other (zero-out); {other}; figures are rounded up."
        )

    def plain(self) -> list[str]:
        """The same for people who don't know the method, a sentence or two each."""
        unit = self.unit
        tier = next(words for limit, words in _TIERS if self.epsilon <= limit)
        if self.delta >= _LARGE_DELTA:
            tier = "Delta is so large here that epsilon by itself tells little about how strong this is."
        thing = "the weights of the model" if self.covers == "training" else "what was released of the data"
        return [
            (
                f"Think of somebody who wants to know whether {_YOURS.get(unit, f'your {unit}')} was used. They know "
                f"all other {unit}s, how the training works, and {thing}. By guessing they are right in "
                f"{_GUESSES // 2} of {_GUESSES:,} such cases. With all they know they are right in at most "
                f"{self.right_guesses()} of {_GUESSES:,}."
            ),
            (
                "That is a ceiling for the strongest attacker there can be, not a forecast. What attacks reach in "
                "practice is lower, and is measured by audits."
            ),
            tier,
            (
                f"Delta, {self.delta:g}, is a small allowance on top of it, about the probability with which the "
                f"ceiling may fail. It should be far below one divided by the number of {unit}s."
            ),
        ]

    def right_guesses(self) -> int:
        """In how many of 1,000 equally likely cases an attacker is right at most.

        (epsilon, delta) bounds the total variation of what is released by (e^epsilon - 1 + 2 delta) / (e^epsilon + 1)
        (Kairouz, Oh and Viswanath, "The Composition Theorem for Differential Privacy", 2015, section 3), and the best
        guess between two equally likely cases is right with probability one half of 1 plus that.
        """
        other = math.exp(-self.epsilon)  # e^epsilon itself may be more than a float holds
        return min(_GUESSES, math.ceil(_GUESSES * (1.0 + self.delta * other) / (1.0 + other) - 1e-9))

    def covered(self) -> list[str]:
        """What epsilon covers."""
        person = (
            f"Each person as a whole: at most one {self.unit} is of one person, as far as the table tells who is who, "
            "so that epsilon is per person too."
        )
        whole = [person] if self.of_people else []
        if self.covers != "training":
            return ["What the ledger lists, which was released while the data were prepared.", *whole]
        return [
            "The weights at the end of training and after every step of it, hence every checkpoint's weights.",
            (
                "Whatever is computed from these weights without looking at the training data again: predictions, "
                "exports, smaller copies, training on with other people's data."
            ),
            "Every other release that the ledger lists, such as noisy counts.",
            *whole,
        ]

    def not_covered(self) -> list[str]:
        """What it does not cover, in any run; caveats of this run come on top."""
        unit = self.unit
        found = [
            (
                "Figures that are computed on the training data without noise. They are marked in this report; who "
                "wants to publish it should leave them out, as the model card does."
            ),
            "The people in the validation and test sets: figures on them are exact.",
            "How many records there are, the config, and what the columns and classes are called: taken for public.",
            "What follows from other runs on the same data: their epsilons add up.",
            "Conclusions about everybody: that smoking causes cancer is learned with your data as without.",
        ]
        if self.covers != "training":
            found.insert(0, "The training that followed, and the weights it gave.")
        if unit == "example" and not self.of_people:
            found.insert(1, "Persons with several examples as a whole: what is protected is each example by itself.")
        elif unit == "client":
            found.insert(1, "What a server that adds up the clients' updates sees before the noise is in.")
        return found


def pitfall_of(caveat: str) -> str | None:
    """The way to lose the guarantee that a caveat is about, as the README numbers them; None where it is none."""
    return next((name for name, pattern in _PITFALLS if re.search(pattern, caveat)), None)


def several_records(caveat: str) -> bool:
    """Whether a caveat says that a person may be in several of the records that something was released of."""
    return re.search(_SEVERAL, caveat) is not None


def contradicts(caveat: str) -> bool:
    """Whether a caveat says that an audit found more than what was charged."""
    return voids(caveat) and caveat.startswith(_AUDITED)


def _article(word: str) -> str:
    return "an" if word[:1].lower() in "aeiou" else "a"
