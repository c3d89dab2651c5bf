"""How many people share what could single one out, and whether they differ in what should stay hidden.

Rows that agree in all quasi-identifiers are a class. A table is k-anonymous when each class has at least k people
(Sweeney, "k-Anonymity: A Model for Protecting Privacy", 2002), and l-diverse when in each class the sensitive column
has at least l values (Machanavajjhala et al., "l-Diversity: Privacy Beyond k-Anonymity", 2007), counted as different
ones or, more strictly, as ``exp`` of their entropy. Neither is differential privacy: they bound what the table itself
shows, not what is learned from it.

A missing value counts as a value: it can be seen. So does the sign of a zero, which a file shows: 0.0 and -0.0 are two
classes where a table is measured; :class:`SuppressToK` makes them one and leaves no sign. Where a column says who a row
is about, people are counted and not rows, since ten rows of one person hide nobody.

Example:
    >>> import polars as pl
    >>> table = pl.DataFrame({"age": ["18-29", "18-29", "65+"], "place": ["south"] * 3, "ill": [True, False, False]})
    >>> anonymity(table, ["age", "place"], sensitive=["ill"])
    Anonymity(k=1, diversity={'ill': 1}, entropy_diversity={'ill': 1.0}, classes=2, people=3, singled_out=1)
    >>> step = SuppressToK(2, columns=["age", "place"])
    >>> step.fit(table.lazy(), Context())
    >>> step.run(table)["age"].to_list()
    ['18-29', '18-29']
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl
from typing_extensions import override

from lightning_privacy._validate import one_of, positive_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation._columns import column_names, require_columns
from lightning_privacy.preparation.step import Context, Step

__all__ = ["Anonymity", "SuppressToK", "anonymity", "equivalence_classes"]

_SIZE, _DIVERSITY, _ANYONE = "people in class", "values in class", "anyone in class"
_ACTIONS = ("drop", "blank")


@dataclass(frozen=True)
class Anonymity:
    """What was measured of a table.

    Args:
        k: people in the smallest class.
        diversity: sensitive column to the fewest different values in a class.
        entropy_diversity: sensitive column to the least ``exp(entropy)`` of its values in a class.
        classes: number of classes.
        people: number of people; of rows, where no column says who they are about.
        singled_out: people who are alone in a class; each counts once, in however many classes.
    """

    k: int
    diversity: dict[str, int]
    entropy_diversity: dict[str, float]
    classes: int
    people: int
    singled_out: int

    def __str__(self) -> str:
        lines = [f"k: {self.k:,}, the people in the smallest class"]
        lines += [f"l of {name}: {least:,}, the fewest values in a class" for name, least in self.diversity.items()]
        lines += [f"entropy l of {name}: {least:.3g}" for name, least in self.entropy_diversity.items()]
        lines.append(f"classes: {self.classes:,}")
        lines.append(f"people: {self.people:,}")
        lines.append(f"singled out: {self.singled_out:,}, people who are alone in a class")
        return "\n".join(lines)


def anonymity(
    frame: pl.DataFrame | pl.LazyFrame,
    quasi_identifiers: Iterable[str],
    *,
    sensitive: Iterable[str] = (),
    person: str | None = None,
) -> Anonymity:
    """Measure a table.

    Args:
        frame: the table; a lazy one is streamed, and only its classes are in memory.
        quasi_identifiers: columns that others may know of a person.
        sensitive: columns they should not learn.
        person: the column that says who a row is about; None when each row is a person of their own.

    Raises:
        ConfigurationError: a column is unknown, there are no quasi-identifiers, or the table has no rows.
    """
    columns = column_names("quasi_identifiers", quasi_identifiers, empty=False)
    hidden = column_names("sensitive", sensitive)
    classes = equivalence_classes(frame, columns, sensitive=hidden, person=person)
    if classes.height == 0:
        raise ConfigurationError("the table has no rows: there is no k or l to measure")
    sizes = classes[_SIZE]
    return Anonymity(
        k=_whole(sizes.min()),
        diversity={name: _whole(classes[_diversity(name)].min()) for name in hidden},
        entropy_diversity={name: _least_entropy(frame, columns, name) for name in hidden},
        classes=classes.height,
        # Not the sum over the classes: rows of one person may be in several.
        people=_whole(
            sizes.sum() if person is None else frame.lazy().select(pl.col(person).n_unique()).collect().item()
        ),
        singled_out=int((sizes == 1).sum()) if person is None else classes.filter(sizes == 1)[_ANYONE].n_unique(),
    )


def equivalence_classes(
    frame: pl.DataFrame | pl.LazyFrame,
    quasi_identifiers: Iterable[str],
    *,
    sensitive: Iterable[str] = (),
    person: str | None = None,
) -> pl.DataFrame:
    """Return the classes, with the number of people and of values of each sensitive column in each.

    Args:
        frame: as in :func:`anonymity`, as the others are.
        quasi_identifiers: columns of the classes.
        sensitive: columns whose values are counted.
        person: the column that says who a row is about. Rows where it is missing count as one person more.

    Returns:
        The columns of the classes, ``"people in class"``, ``"values in class of <column>"``, and, where a column says
        who they are, ``"anyone in class"``.

    Raises:
        ConfigurationError: a column is unknown, or there are no quasi-identifiers.
    """
    columns = column_names("quasi_identifiers", quasi_identifiers, empty=False)
    hidden = column_names("sensitive", sensitive)
    schema = frame.lazy().collect_schema()
    require_columns("quasi_identifiers", columns, schema)
    require_columns("sensitive", hidden, schema)
    if person is not None:
        require_columns("person", [person], schema)
    people = pl.len() if person is None else pl.col(person).n_unique()
    counts = [people.alias(_SIZE), *(pl.col(name).n_unique().alias(_diversity(name)) for name in hidden)]
    if person is not None:
        counts.append(pl.col(person).first().alias(_ANYONE))
    signs = _signs(schema, columns)
    classes = frame.lazy().group_by([*map(pl.col, columns), *signs.values()]).agg(counts).drop(signs)
    return classes.collect(engine="streaming")


def _signs(schema: pl.Schema, columns: Iterable[str]) -> dict[str, pl.Expr]:
    """Whether each column of floating-point numbers holds -0.0, which is shown and is equal to 0.0."""
    floats = [name for name in columns if schema[name].is_float()]
    return {
        f"\x00minus {name}": ((pl.col(name) == 0) & (1 / pl.col(name) < 0)).alias(f"\x00minus {name}")
        for name in floats
    }


def _without_signs(frame: pl.LazyFrame, columns: Iterable[str]) -> pl.LazyFrame:
    """The rows with one zero and one NaN, as those that are equal must look equal too."""
    schema = frame.collect_schema()
    floats = [name for name in columns if schema[name].is_float()]
    return frame.with_columns(_plain(pl.col(name)).cast(schema[name]).alias(name) for name in floats)


def _plain(number: pl.Expr) -> pl.Expr:
    # Not by adding 0.0, which polars takes for doing nothing.
    return pl.when(number == 0).then(0.0).when(number.is_nan()).then(float("nan")).otherwise(number)


def _diversity(name: str) -> str:
    return f"{_DIVERSITY} of {name}"


def _least_entropy(frame: pl.DataFrame | pl.LazyFrame, columns: tuple[str, ...], name: str) -> float:
    """The least exp(entropy) of a column within a class."""
    number = "number"
    share = pl.col(number) / pl.col(number).sum()
    parts = [*map(pl.col, columns), *_signs(frame.lazy().collect_schema(), columns).values()]
    keys = [part.alias(f"class {place}") for place, part in enumerate(parts)]
    return float(
        frame.lazy()
        .group_by([*keys, pl.col(name).alias("value")])
        .agg(pl.len().alias(number))
        .group_by([f"class {place}" for place in range(len(keys))])
        .agg((-(share * share.log()).sum()).exp().alias("diversity"))
        .select(pl.col("diversity").min())
        .collect(engine="streaming")
        .item()
    )


def _whole(value: Any) -> int:
    return int(value)


class SuppressToK(Step):
    """Takes out the rows of classes with fewer than k people or l sensitive values, so that k and l are reached.

    People who are rare in the table are the ones who go: look at the report, and generalise further where they are a
    group of their own. :meth:`apply` keeps of new rows those whose class was large enough in the rows it was fitted on.

    Args:
        k: fewest people in a class.
        columns: the quasi-identifiers; None for those of the roles.
        diversity: l, fewest different values of each sensitive column in a class.
        sensitive: the sensitive columns; None for the label of the roles, where ``diversity`` is above 1.
        person: the column that says who a row is about; None for that of the context, or else the identifier of the
            roles, if there is one.
        action: ``"drop"`` takes the rows out; ``"blank"`` empties their quasi-identifiers, and takes them out only if
            the class of blank rows itself is too small.
        caveat: run under differential privacy all the same, with a caveat in the ledger.

    Raises:
        ConfigurationError: an argument is out of range, or a column is unknown.
    """

    name: ClassVar[str] = "suppress to k"
    private = "compares"
    learns: ClassVar[bool] = True

    def __init__(
        self,
        k: int,
        *,
        columns: Iterable[str] | None = None,
        diversity: int = 1,
        sensitive: Iterable[str] | None = None,
        person: str | None = None,
        action: str = "drop",
        caveat: bool = False,
    ) -> None:
        super().__init__(caveat=caveat)
        self._k, self._l = positive_int(k=k), positive_int(diversity=diversity)
        self._columns = column_names("columns", columns)
        self._sensitive = column_names("sensitive", sensitive)
        self._person = person
        one_of(_ACTIONS, action=action)
        self._action = action
        self._kept: pl.DataFrame | None = None
        self._blank_stays = False

    @override
    def check(self, schema: pl.Schema | None, context: Context) -> pl.Schema | None:
        super().check(schema, context)
        columns, sensitive, person = self._columns_of(context)
        if schema is not None:
            require_columns("columns", columns, schema)
            require_columns("sensitive", sensitive, schema)
            require_columns("person", () if person is None else [person], schema)
        return schema

    def _columns_of(self, context: Context) -> tuple[tuple[str, ...], tuple[str, ...], str | None]:
        """The quasi-identifiers, the sensitive columns as far as they count, and who a row is about."""
        roles = context.roles
        columns = self._columns or roles.quasi_identifiers
        if not columns:
            raise ConfigurationError(
                "suppress to k has no columns: give columns, or columns the role quasi_identifiers"
            )
        sensitive = self._sensitive or ((roles.label,) if roles.label is not None else ())
        if self._l > 1 and not sensitive:
            raise ConfigurationError(
                f"diversity={self._l} needs a sensitive column: give sensitive, or a column the role label"
            )
        person = self._person if self._person is not None else context.who
        return tuple(columns), sensitive if self._l > 1 else (), person

    @override
    def _fit(self, frame: pl.LazyFrame, context: Context) -> None:
        self._used, sensitive, person = self._columns_of(context)
        frame = _without_signs(frame, self._used)
        classes = equivalence_classes(frame, self._used, sensitive=sensitive, person=person)
        self._kept = classes.filter(self._large(sensitive)).select(self._used)
        if self._action == "blank":
            self._blank_stays = self._blank_is_large(frame, sensitive, person)
        self._learned = {"classes": classes.height, "classes kept": self._kept.height}

    def _large(self, sensitive: tuple[str, ...]) -> pl.Expr:
        return pl.all_horizontal(pl.col(_SIZE) >= self._k, *(pl.col(_diversity(name)) >= self._l for name in sensitive))

    def _blank_is_large(self, frame: pl.LazyFrame, sensitive: tuple[str, ...], person: str | None) -> bool:
        """Whether the rows without quasi-identifiers, those that had none included, are a class that may stay."""
        blanked = self._blanked(frame).filter(pl.all_horizontal(pl.col(name).is_null() for name in self._used))
        blank = equivalence_classes(blanked, self._used, sensitive=sensitive, person=person)
        return blank.height == 0 or bool(blank.select(self._large(sensitive)).item())

    def _blanked(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        if self._kept is None:
            raise ConfigurationError(f"step {self.name!r} must be fitted before it is applied: call fit first")
        mark = "\x00kept"
        known = self._kept.lazy().with_columns(pl.lit(value=True).alias(mark))
        joined = frame.join(known, on=self._used, how="left", nulls_equal=True, maintain_order="left")
        blank = (pl.when(pl.col(mark)).then(pl.col(name)).alias(name) for name in self._used)
        return joined.with_columns(blank).drop(mark)

    @override
    def _apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        if self._kept is None:
            raise ConfigurationError(f"step {self.name!r} must be fitted before it is applied: call fit first")
        require_columns("columns", self._used, frame.collect_schema())
        frame = _without_signs(frame, self._used)
        if self._action == "drop":
            return frame.join(self._kept.lazy(), on=self._used, how="semi", nulls_equal=True, maintain_order="left")
        blanked = self._blanked(frame)
        if self._blank_stays:
            return blanked
        return blanked.filter(pl.any_horizontal(pl.col(name).is_not_null() for name in self._used))
