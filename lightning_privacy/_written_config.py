"""A composed config as plain values, in which what comes from the environment stays as it was written.

Passphrases and tokens are given by way of the environment so that they are in no file. Resolved, they would be.

Example:
    >>> import os
    >>> os.environ["LP_EXAMPLE"] = "secret"
    >>> config = OmegaConf.create({"root": "runs", "key": {"passphrase": "${oc.env:LP_EXAMPLE}"}, "a": "${root}/a"})
    >>> config.b = "${root}/${oc.env:LP_EXAMPLE}"
    >>> written_config(config)
    {'root': 'runs', 'key': {'passphrase': '${oc.env:LP_EXAMPLE}'}, 'a': 'runs/a', 'b': 'runs/${oc.env:LP_EXAMPLE}'}
    >>> list(from_environment(config))
    [(('key', 'passphrase'), 'secret'), (('b',), 'runs/secret')]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import AnyNode, Container, DictConfig, ListConfig, Node, OmegaConf
from omegaconf._utils import get_omega_conf_dumper
from omegaconf.basecontainer import BaseContainer
from omegaconf.grammar_parser import parse

__all__ = ["config_text", "from_environment", "written_config"]

_ENVIRONMENT = "oc.env"
_INTERPOLATION = re.compile(r"(\\*)\$\{")
_BACKSLASHES = re.compile(r"\\+(?=\$\{|\Z)")
_Place = tuple[str, ...]


def written_config(config: DictConfig) -> dict[str, Any]:
    """The values of a config, resolved but for those that the environment has a part in.

    Such a value is the text that stands in the config; where it is longer than one interpolation, what of it does
    not come from the environment is put in.

    Args:
        config: As Hydra composed it.

    Raises:
        OmegaConfBaseException: Something can't be resolved.
    """
    with _watched() as asked:
        values: dict[str, Any] = _plain(config, (), lambda _, node: _written(node, asked))
    return values


def from_environment(config: DictConfig) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Place and value of each setting that the environment has a part in, wherever in the config it was asked.

    Args:
        config: As Hydra composed it.

    Raises:
        OmegaConfBaseException: Something can't be resolved.
    """
    found: list[tuple[_Place, Any]] = []

    def look(place: _Place, node: Node) -> Any:
        value, environment = _value(node, asked)
        if environment:
            found.append((place, value))
        return value

    with _watched() as asked:
        _plain(config, (), look)
    yield from found


def config_text(config: DictConfig) -> str:
    """:func:`written_config` as YAML, from which the run can be started again.

    Args:
        config: As Hydra composed it.

    Raises:
        OmegaConfBaseException: Something can't be resolved.
    """
    text: str = yaml.dump(
        written_config(config),
        default_flow_style=False,
        allow_unicode=True,
        sort_keys=False,
        Dumper=get_omega_conf_dumper(),
    )
    return text


def _plain(node: Any, place: _Place, interpolated: Callable[[_Place, Node], Any]) -> Any:
    if node._is_interpolation():
        return interpolated(place, node)
    if not isinstance(node, Container) or node._is_none() or node._is_missing():
        return _unnamed(node._value())
    if isinstance(node, ListConfig):
        return [_plain(node._get_node(at), (*place, str(at)), interpolated) for at in range(len(node))]
    inner: Any = node
    return {
        _unnamed(name): _plain(inner._get_node(name), (*place, str(name)), interpolated) for name in list(inner.keys())
    }


def _unnamed(value: Any) -> Any:
    return value.name if isinstance(value, Enum) else value


def _written(node: Node, asked: list[str]) -> Any:
    value, environment = _value(node, asked)
    if not environment:
        return _escaped(value)
    text = str(node._value())
    parts = list(_parts(text))
    if len(parts) == 1:
        return text
    written = said = raw = ""
    for part, reference in parts:
        if not reference:
            raw += part
            continue
        said, raw = said + _meant(raw), ""
        value, environment = _value(AnyNode(part, key=node._key(), parent=node._get_parent()), asked)
        if environment:
            # Backslashes before a reference would be read as its escape.
            slashes = len(said) - len(said.rstrip("\\"))
            written, said = f"{written}{_escaped(said)}{said[len(said) - slashes :]}{part}", ""
        else:
            said += str(value)
    # What stands at the end is before no reference.
    return written + _escaped(said + _meant(f"{raw}$")[:-1])


def _meant(text: str) -> str:
    """What is read where a text without references stands before one."""
    return _BACKSLASHES.sub(lambda found: "\\" * (len(found[0]) // 2), text)


def _escaped(value: Any) -> Any:
    """A value that is read as it is, not as an interpolation."""
    if isinstance(value, dict):
        return {name: _escaped(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_escaped(each) for each in value]
    return _INTERPOLATION.sub(r"\1\1\\${", value) if isinstance(value, str) else value


def _value(node: Node, asked: list[str]) -> tuple[Any, bool]:
    """What a node stands for, and whether the environment was asked for it."""
    asked.clear()
    found: Any = node._dereference_node()
    if isinstance(found, Container):
        plain: Any = OmegaConf.to_container(found, resolve=True, enum_to_str=True)
        return plain, bool(asked)
    return _unnamed(found._value()), bool(asked)


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """The parts of a text with interpolations, and whether each is one."""
    for part in parse(text).getChild(0).getChildren():
        symbol = getattr(part, "symbol", None)
        first, last = (part.start, part.stop) if symbol is None else (symbol, symbol)
        yield text[first.start : last.stop + 1], symbol is None


@contextmanager
def _watched() -> Iterator[list[str]]:
    """A list that grows whenever an interpolation asks the environment."""
    asked: list[str] = []
    resolvers = BaseContainer._resolvers
    own = resolvers[_ENVIRONMENT]

    def environment(*arguments: Any) -> Any:
        asked.append(_ENVIRONMENT)
        return own(*arguments)

    resolvers[_ENVIRONMENT] = environment
    try:
        yield asked
    finally:
        resolvers[_ENVIRONMENT] = own
