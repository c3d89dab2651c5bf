"""What is to be done with people's records, from their source to the tables that are trained on.

Example:
    >>> from lightning_privacy.data.persona.generator import PersonaGenerator
    >>> plans = [Plan(source=PersonaGenerator(seed=seed)) for seed in (0, 0, 1)]
    >>> plans[0].fingerprint == plans[1].fingerprint, plans[0].fingerprint == plans[2].fingerprint
    (True, False)
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import polars as pl

from lightning_privacy.data.persona.carried_roles import check_carried
from lightning_privacy.data.persona.default_preparation import (
    default_preparation,
    default_roles,
    default_train_preparation,
)
from lightning_privacy.data.persona.generator import PersonaData, PersonaGenerator
from lightning_privacy.preparation import Preparation, Roles

__all__ = ["Plan", "Source", "make_plan"]

# Written into stores; raised when a prepared table of an older version should not be used any more.
_LAYOUT = 4
# What steps write into themselves when they are fitted.
_STATE = {"_caveats", "_changed", "_fitted", "_learned", "_rows", "_stands"}


class Source(Protocol):
    """Where people come from. Its ``repr`` must name everything that its data depend on.

    It may have ``caveats``: what its data do to a guarantee, in sentences for the ledger, asked for after ``generate``.
    """

    def generate(self) -> PersonaData:
        """Records and images."""
        ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that decides what the prepared tables are.

    Attributes:
        source: Where people come from.
        preparation: What is done to all records.
        train_preparation: What is done to those to train on; where it learns, it learns from them alone, and what it
            learned is applied to the people held out.
        roles: What columns are for.
        person: The column in which the preparation says who is who; the identifier where it makes none. Rows that it,
            the identifier or a column of a step's persons says to be of one person are of one.
        max_records: Records of one person that are kept.
        held_out: Share of people held out, where records don't say themselves whether they are public.
        val_share: Share of the people held out who are for validation.
        seed: Of the division.
        fingerprint: Names all of the above; two plans that may give different tables have different ones.
    """

    source: Source
    preparation: Preparation = field(default_factory=Preparation)
    train_preparation: Preparation = field(default_factory=Preparation)
    roles: Roles = field(default_factory=Roles)
    person: str = "person"
    max_records: int = 1
    held_out: float = 0.2
    val_share: float = 0.25
    seed: int = 0
    fingerprint: str = field(init=False)

    @property
    def label(self) -> str:
        """The column of the class."""
        return self.roles.label or "label"

    def __post_init__(self) -> None:
        # Now, before the steps have learned anything.
        parts = {
            "layout": _LAYOUT,
            "source": repr(self.source),
            "steps": [_described(step) for step in (*self.preparation.steps, None, *self.train_preparation.steps)],
            "roles": repr(self.roles),
            "rest": [self.person, self.max_records, self.held_out, self.val_share, self.seed],
        }
        text = json.dumps(parts, sort_keys=True)
        object.__setattr__(self, "fingerprint", hashlib.blake2b(text.encode(), digest_size=16).hexdigest())


def make_plan(
    source: Source | None,
    generated: Mapping[str, Any],
    roles: Roles | Mapping[str, Any] | None,
    preparations: tuple[Any, Any],
    **settings: Any,
) -> Plan:
    """The plan of a data module's arguments.

    Args:
        source: Where people come from; None for a generator.
        generated: Arguments of that generator.
        roles: What columns are for, as Roles or a mapping; None for those of a generated table, and none of another.
        preparations: Steps for all records and for those to train on, each as a Preparation, a list or a mapping; None
            for the default ones.
        **settings: Further attributes of the plan.

    Raises:
        ConfigurationError: A role names a column that batches can't hold.
    """
    if roles is None:
        roles = default_roles() if source is None or isinstance(source, PersonaGenerator) else Roles()
    elif isinstance(roles, Mapping):
        roles = Roles(**roles)
    check_carried(roles)
    everyone, training = preparations
    if training is None:
        # Its steps expect what the default steps before them make.
        training = default_train_preparation() if everyone is None else []
    everyone = default_preparation(settings["max_records"]) if everyone is None else everyone
    made = [steps if isinstance(steps, Preparation) else Preparation(steps) for steps in (everyone, training)]
    return Plan(
        source=PersonaGenerator(**generated) if source is None else source,
        preparation=made[0],
        train_preparation=made[1],
        roles=roles,
        **settings,
    )


def _described(part: object) -> Any:
    """What a step is and how it is set, in a form that is the same in another process."""
    if part is None or isinstance(part, str | int | float | bool):
        return part
    if isinstance(part, Mapping):
        return sorted([str(key), _described(value)] for key, value in part.items())
    if isinstance(part, list | tuple):
        return [_described(item) for item in part]
    if isinstance(part, set | frozenset):
        return sorted(map(repr, part))
    if isinstance(part, pl.Series | pl.DataFrame | np.ndarray):
        return _of_content(part)
    if isinstance(part, functools.partial):
        return ["partial", _described(part.func), _described(part.args), _described(part.keywords)]
    if isinstance(part, types.MethodType):
        return [part.__func__.__qualname__, _described(part.__self__)]
    if isinstance(part, types.FunctionType):
        return [f"{part.__module__}.{part.__qualname__}", _of_code(part.__code__), _of_closure(part)]
    if isinstance(part, type | types.BuiltinFunctionType):
        return f"{part.__module__}.{part.__qualname__}"
    if isinstance(part, re.Pattern):  # whose repr is cut
        return ["pattern", part.pattern, part.flags]
    if not hasattr(part, "__dict__"):
        return repr(part)
    settings = {name: value for name, value in vars(part).items() if name not in _STATE}
    return [f"{type(part).__module__}.{type(part).__qualname__}", _described(settings)]


def _of_content(values: pl.Series | pl.DataFrame | np.ndarray[Any, Any]) -> str:
    """What is in a column, a table or an array, which show a few of their values, or where they lie in memory."""
    if isinstance(values, np.ndarray):
        kind, content = f"{values.dtype} {values.shape}", values.tobytes()
    else:
        table = values.to_frame() if isinstance(values, pl.Series) else values
        kind, content = repr(dict(table.schema)), table.write_json().encode()
    return f"{kind} {hashlib.blake2b(content, digest_size=16).hexdigest()}"


def _of_code(code: types.CodeType) -> list[Any]:
    """What a function does: two of one name, such as lambdas, differ in it."""
    constants = [_of_code(each) if isinstance(each, types.CodeType) else repr(each) for each in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), constants]


def _of_closure(function: types.FunctionType) -> Any:
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return _described([*cells, function.__defaults__, function.__kwdefaults__])
