"""Refuses a search where what a run costs might depend on the settings that are chosen from.

Two configs that differ in numbers of the model or in the seed alone draw as many examples as often and add as much
noise. A name that starts with ``model.`` does not say that: other settings may be taken from it, and some of them set
how often gradients are released.

Example:
    >>> from lightning_privacy.sweeps.space import OneOf
    >>> config = OmegaConf.create({"seed": 0, "model": {"width": 8}, "trainer": {"max_epochs": "${model.width}"}})
    >>> refuse_costly(config, {"seed": OneOf(("0", "1"))})
    >>> refuse_costly(config, {"model.width": OneOf(("8", "16"))})
    Traceback (most recent call last):
        ...
    lightning_privacy.errors.ConfigurationError: model.width=16 changes trainer.max_epochs too, ...
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.sweeps.space import Between, OneOf

__all__ = ["refuse_costly"]

_MODEL, _SEED = "model", "seed"
_RUN = "run"
# How many gradients a step of an optimizer takes.
_EVALUATIONS = ("max_iter", "max_eval")
_WAY_OUT = "What a run costs may depend on it, and the bound is for the dearest of all choices: give it one value"


def refuse_costly(config: DictConfig, choices: Mapping[str, OneOf | Between]) -> None:
    """Refuse a search whose runs may cost different amounts, or show what is to be kept secret.

    Args:
        config: Of a run, with any of the choices.
        choices: By key.

    Raises:
        ConfigurationError: A choice is of something else than the model's numbers or the seed, changes other settings,
            or the number of releases; or the config itself has something that ends a run early, or publishes a run.
    """
    base = copy.deepcopy(config)
    with read_write(base), open_dict(base):
        base.pop("hydra", None)
        # Only known where a run is.
        OmegaConf.update(base, "paths.output_dir", _RUN, force_add=True)
    _refuse_course(base)
    before = dict(_leaves(base))
    for key, choice in choices.items():
        named = key != _SEED and not key.startswith(f"{_MODEL}.")
        if named or "/" in key or "@" in key:
            raise ConfigurationError(
                f"hydra/sweeper=random_runs draws values of model.* and seed only, got {key}. {_WAY_OUT}"
            )
        for text in _values(choice):
            _refuse_change(key, text, before, _with(base, key, text))


def _values(choice: OneOf | Between) -> tuple[str, ...]:
    if isinstance(choice, OneOf):
        return choice.values
    ends = (choice.low, choice.high)
    return tuple(str(int(end)) if choice.whole else repr(end) for end in ends)


def _with(base: DictConfig, key: str, text: str) -> dict[str, Any]:
    """All settings where one has another value."""
    if "{" in text:
        raise ConfigurationError(
            f"{key}={text} is a mapping or taken from elsewhere, and hydra/sweeper=random_runs draws plain values. "
            f"{_WAY_OUT}"
        )
    (override,) = OverridesParser.create().parse_overrides([f"{key}={text}"])
    config = copy.deepcopy(base)
    with read_write(config), open_dict(config):
        OmegaConf.update(config, key, override.value(), merge=False)
    return dict(_leaves(config))


def _refuse_change(key: str, text: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    absent = object()
    changed = [
        path
        for path in dict.fromkeys((*before, *after))
        if (type(before.get(path, absent)), before.get(path, absent))
        != (type(after.get(path, absent)), after.get(path, absent))
    ]
    # The key itself too: a choice may be what the config has already.
    for path in (*changed, key):
        name = path.rpartition(".")[2]
        if path != _SEED and not path.startswith(f"{_MODEL}."):
            raise ConfigurationError(
                f"{key}={text} changes {path} too, which hydra/sweeper=random_runs does not allow. {_WAY_OUT}, or give "
                f"{path} a value of its own"
            )
        if name in _EVALUATIONS or (name.startswith("_") and name.endswith("_")):
            raise ConfigurationError(
                f"{key}={text} changes {path}, which may change how often gradients are released. {_WAY_OUT}"
            )


def _leaves(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting with what it is in the end; a list is one."""
    if isinstance(node, DictConfig) and not (node._is_none() or node._is_missing()):
        for name in node:
            path = f"{place}.{name!s}" if place else str(name)
            try:
                child = None if OmegaConf.is_missing(node, name) else node[name]
            except OmegaConfBaseException as error:
                raise ConfigurationError(
                    f"{path} can't be worked out before the runs start, so that it is not known whether they cost the "
                    f"same: {str(error).splitlines()[0]}. Give it a value of its own"
                ) from error
            yield from _leaves(child, path)
    elif isinstance(node, ListConfig):
        yield place, repr(OmegaConf.to_container(node, resolve=True))
    else:
        yield place, node


def _refuse_course(config: DictConfig) -> None:
    """Refuse what makes the cost depend on how a run goes, or shows a run to others."""
    if OmegaConf.select(config, "deploy") is not None:
        folder = str(OmegaConf.select(config, "deploy.folder"))
        if not folder.startswith(f"{_RUN}/") or ".." in folder:
            raise ConfigurationError(
                f"deploy.folder must be in the folder of the run with hydra/sweeper=random_runs, got {folder}: what a "
                "run exports says what that run costs, and not what the search does. Export the best afterwards"
            )
    if OmegaConf.select(config, "trainer.max_time") is not None:
        raise ConfigurationError(
            "trainer.max_time must be null with hydra/sweeper=random_runs: runs must cost the same"
        )
    for path, target in _targets(config):
        if _is(target, "LBFGS"):
            raise ConfigurationError(
                f"{path} is L-BFGS, whose number of gradients depends on its course, and with "
                "hydra/sweeper=random_runs all runs must cost the same: choose another optimizer"
            )
        if _is(target, "EarlyStopping"):
            raise ConfigurationError(
                f"{path} ends training early, and with hydra/sweeper=random_runs all runs must cost the same: "
                "leave it out"
            )
        if path.startswith("logger.") and path.count(".") == 1 and not _is(target, "CSVLogger"):
            raise ConfigurationError(
                f"{path} may show single runs to others, of which nothing may be seen with hydra/sweeper=random_runs: "
                "logger=csv"
            )


def _targets(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Where something is made, and of which class."""
    for path, value in _leaves(config):
        place, _, name = path.rpartition(".")
        if name == "_target_" and isinstance(value, str):
            yield place, value


def _is(target: str, kind: str) -> bool:
    """Whether it is a class of that name, whichever package has it, or derived from one."""
    try:
        found = get_object(target)
    except Exception:  # noqa: BLE001 - the run itself says what is wrong with it
        return False
    return isinstance(found, type) and any(base.__name__ == kind for base in found.__mro__)
