"""The attributes whose groups are compared: where their values are, how many there are, what they are called.

Example:
    >>> sex, race = attributes_of({"sex": "sex", "race": 3}, num_groups={"race": 5}, group_names={"sex": ["f", "m"]})
    >>> sex.names, race.size, race.names
    (('f', 'm'), 5, ('0', '1', '2', '3', '4'))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_privacy._validate import positive_int
from lightning_privacy.errors import ConfigurationError

__all__ = ["Attribute", "Vocabulary", "attributes_of", "codes_of"]

Source = str | int | Callable[[Any], Any] | np.ndarray


@dataclass(frozen=True)
class Attribute:
    """One attribute.

    Attributes:
        name: What it is called.
        source: A key, a place or a function of the batch; or an array with one value for each row of the data set.
        names: Of its groups, where they are known beforehand: text for each value. None where the values that are met
            are the groups.
        missing: Name of the group that rows are in whose group is not known; None for none.
    """

    name: str
    source: Source
    names: tuple[str, ...] | None = None
    missing: str | None = None

    @property
    def size(self) -> int | None:
        """Number of its groups, where it is known beforehand."""
        return None if self.names is None else len(self.names)


def _source(value: Any) -> Source:
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if callable(value):
        function: Callable[[Any], Any] = value
        return function
    array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
    if array.ndim != 1 or (array.dtype.kind == "O" and not all(isinstance(entry, str) for entry in array)):
        raise ConfigurationError(
            "groups must be a key or a place in the batch, a function of the batch, an array with one group for each "
            "row of the data set, or a mapping of names to any of these; got "
            + (f"an array of shape {array.shape} and type {array.dtype}" if array.ndim else repr(value))
        )
    return array


def _entry(option: Any, name: str, *, argument: str, known: Sequence[str]) -> Any:
    """What an option says of one attribute."""
    if not isinstance(option, Mapping):
        if option is not None and len(known) > 1:
            raise ConfigurationError(f"{argument} must be a mapping from the attributes {list(known)}, got {option!r}")
        return option
    unknown = set(option) - set(known)
    if unknown:
        raise ConfigurationError(f"{argument} names {sorted(unknown)}, and the attributes are {list(known)}")
    return option.get(name)


def attributes_of(
    groups: Any, *, num_groups: Any = None, group_names: Any = None, missing_groups: Any = None
) -> tuple[Attribute, ...]:
    """Read the arguments of the callback.

    Args:
        groups: A key, a place or a function of the batch, an array aligned with the data set; or several of them: a
            mapping from the attributes' names, or a list of keys.
        num_groups: Number of groups; with several attributes a mapping.
        group_names: Names of groups; with several attributes a mapping.
        missing_groups: Name of the group of rows whose group is not known; a mapping where it differs by attribute.

    Raises:
        ConfigurationError: An argument is none of these, or they contradict each other.
    """
    if isinstance(groups, Mapping):
        sources = {str(name): _source(value) for name, value in groups.items()}
    elif isinstance(groups, str):
        sources = {groups: groups}
    elif isinstance(groups, Sequence) and groups and all(isinstance(entry, str) for entry in groups):
        sources = {entry: entry for entry in groups}
    else:
        sources = {"group": _source(groups)}
    if not sources:
        raise ConfigurationError("groups must name one attribute at least, got none")
    known = list(sources)
    found = []
    for name, source in sources.items():
        count = _entry(num_groups, name, argument="num_groups", known=known)
        names = _entry(group_names, name, argument="group_names", known=known)
        if isinstance(names, str):
            raise ConfigurationError(f"group_names must be a list of names, got {names!r}")
        texts = None if names is None else tuple(str(text) for text in names)
        if count is not None:
            count = positive_int(num_groups=count)
            texts = tuple(map(str, range(count))) if texts is None else texts
        if texts is not None and (not texts or len(set(texts)) != len(texts)):
            raise ConfigurationError(f"group_names must be different names, one for each group, got {list(texts)}")
        if count is not None and texts is not None and len(texts) != count:
            raise ConfigurationError(f"num_groups={count} and group_names {list(texts)} differ in number")
        found.append(Attribute(name, source, texts, _missing(missing_groups, name, known=known, names=texts)))
    return tuple(found)


def _missing(option: Any, name: str, *, known: Sequence[str], names: tuple[str, ...] | None) -> str | None:
    """The group of an attribute that stands for a missing one; a text for all of them need not be among the groups."""
    chosen = _entry(option, name, argument="missing_groups", known=known) if isinstance(option, Mapping) else option
    if chosen is not None and not isinstance(chosen, str):
        raise ConfigurationError(f"missing_groups must be the name of a group, a mapping or None, got {option!r}")
    if chosen is None or names is None or chosen in names:
        return chosen
    if isinstance(option, Mapping):
        raise ConfigurationError(f"missing_groups[{name!r}] must be one of {', '.join(names)}, got {chosen!r}")
    return None


def codes_of(values: Any, attribute: Attribute) -> tuple[Tensor, tuple[str, ...] | None]:
    """Turn the values of an attribute into numbers.

    Args:
        values: Of a batch, or of a data set: numbers, or texts.
        attribute: Whose they are.

    Returns:
        Whole numbers of shape ``(N,)``, and the texts they stand for; None where the values were numbers.

    Raises:
        ConfigurationError: The values are neither whole numbers nor texts, or one is not among the known groups.
    """
    what = f"groups of {attribute.name!r}"
    texts: tuple[str, ...] | None = None
    if isinstance(values, Tensor):
        codes = values.detach()
    else:
        array = np.asarray(values)
        if array.dtype.kind in "UO" and array.ndim == 1 and all(isinstance(entry, str) for entry in array):
            distinct, places = np.unique(array.astype(str), return_inverse=True)
            texts = tuple(distinct.tolist())
            codes = torch.as_tensor(places.astype(np.int64))
        elif array.dtype.kind in "biuf":
            codes = torch.as_tensor(array)
        else:
            raise ConfigurationError(
                f"{what} must be whole numbers or texts, got {type(values).__name__} {values!r:.80}"
            )
    if codes.dim() == 2 and codes.shape[1] == 1:
        codes = codes.squeeze(1)
    if codes.dim() != 1:
        raise ConfigurationError(f"{what} must be one value per row, got shape {tuple(codes.shape)}")
    if codes.is_floating_point():
        whole = codes.long()
        if not bool((whole == codes).all()):
            odd = codes[whole != codes][0].item()
            hint = ": give rows whose group is not known a number of their own before" if math.isnan(odd) else ""
            raise ConfigurationError(f"{what} must be whole numbers, got {odd:g}{hint}")
        codes = whole
    codes = codes.to("cpu", torch.int64)
    if attribute.names is None or not len(codes):
        return codes, texts
    if texts is not None:
        unknown = sorted(set(texts) - set(attribute.names))
        table = torch.tensor([attribute.names.index(text) if text in attribute.names else -1 for text in texts])
        codes = table[codes]
    else:
        unknown = sorted({value for value in torch.unique(codes).tolist() if not 0 <= value < len(attribute.names)})
    if unknown:
        raise ConfigurationError(
            f"{what} have the unknown value {unknown[0]!r}; the groups are {_listed(attribute.names, texts)}. Give it "
            "a group of its own in num_groups or group_names, or map it to one of these before"
        )
    return codes, None


def _listed(names: tuple[str, ...], texts: tuple[str, ...] | None) -> str:
    return f"0 to {len(names) - 1}" if texts is None else ", ".join(map(repr, names))


class Vocabulary:
    """The values of an attribute that were met, where the groups are not known beforehand.

    Args:
        attribute: Whose values.

    Example:
        >>> words = Vocabulary(Attribute("race", 2))
        >>> words.add(["b", "a", "b"]), words.add(["c"])
        (tensor([1, 0, 1]), tensor([2]))
        >>> words.names
        ('a', 'b', 'c')
    """

    def __init__(self, attribute: Attribute) -> None:
        self.attribute = attribute
        self._met: dict[int | str, int] = {}

    def add(self, values: Any) -> Tensor:
        """The numbers of these values, shape ``(N,)``; new ones are numbered on."""
        codes, texts = codes_of(values, self.attribute)
        if self.attribute.names is not None:
            return codes
        distinct, places = torch.unique(codes, return_inverse=True)
        keys: list[int | str] = [texts[code] if texts is not None else code for code in distinct.tolist()]
        numbers = [self._met.setdefault(key, len(self._met)) for key in keys]
        return torch.tensor(numbers, dtype=torch.int64)[places]

    @property
    def met(self) -> tuple[int | str, ...]:
        """The values in the order they were met."""
        return tuple(self._met)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the groups, in the order of their numbers."""
        return self.attribute.names or tuple(map(str, self._met))

    def merged(self, others: Sequence[tuple[int | str, ...]]) -> tuple[tuple[str, ...], Tensor]:
        """The groups of all processes, sorted, and what the numbers given here become in them.

        Args:
            others: What each process has met, this one included.
        """
        if self.attribute.names is not None:
            return self.attribute.names, torch.arange(len(self.attribute.names))
        every = sorted({value for met in others for value in met}, key=lambda value: (isinstance(value, str), value))
        place = {value: number for number, value in enumerate(every)}
        table = torch.tensor([place[value] for value in self._met], dtype=torch.int64)
        return tuple(map(str, every)), table
