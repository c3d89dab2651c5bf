r"""Leaves secrets out of what a report shows: by their name, and by their value where the environment gave them.

Example:
    >>> hidden_argument("+security.key.passphrase=correct horse"), hidden_argument("security.key.path=store")
    ('+security.key.passphrase=(left out)', 'security.key.path=store')
    >>> print(hidden_config("key:\n  path: store\n  passphrase: correct\n    horse\ntokens: 3"))
    key:
      path: store
      passphrase: (left out)
    tokens: 3
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from lightning_privacy._secret_names import LEFT_OUT, in_secret, is_secret

__all__ = ["environment_texts", "hidden_argument", "hidden_config", "hidden_texts", "without_home"]

_LINE = re.compile(r"^(?P<start>\s*(?:- )*)(?P<name>[^\s:#]+):(?P<space>\s*)(?P<value>.*)$")
# A reference says where a secret is, not what it is; neither do these values.
_SHOWN = re.compile(r"^['\"]?(\$\{(oc\.env:\s*)?[\w.\[\]]+\}|null|~|true|false|)['\"]?$", re.IGNORECASE)
_NAME_INSIDE = re.compile(r"([\w.\-]+)['\"]?\s*[:=]")
_VARIABLE = re.compile(r"\$\{\s*oc\.env\s*:\s*['\"]?([^\s,'\"${}]+)")
_SHORTEST = 8
# What a report says by one of a few fixed words, whatever the environment holds.
_FIXED = frozenset({"status", "verdict", "kind", "source", "adjacency", "stage"})


def hidden_argument(argument: str) -> str:
    """An argument of the command without the value of a secret, and with ``~`` for the path of the home folder.

    Args:
        argument: Such as ``"logger.wandb.api_key=abc"``.
    """
    name, equals, value = argument.partition("=")
    place = [part for part in re.split(r"[.@/+~]", name) if part]
    inside = value[:1] in tuple("{['\"") and any(
        is_secret(part) for found in _NAME_INSIDE.findall(value) for part in found.split(".")
    )
    if equals and not _SHOWN.match(value) and (inside or (place and in_secret(place))):
        return f"{name}={LEFT_OUT}"
    return without_home(argument)


def hidden_config(config: str) -> str:
    """The text of a config without the values of secrets; the rest stays as it is.

    Args:
        config: YAML; where it is none, lines are judged one by one.
    """
    try:
        root = yaml.compose(config, Loader=yaml.SafeLoader)
        spans = sorted(set(_spans(root, (), set()))) if root is not None else []
    except (yaml.YAMLError, RecursionError, ValueError):
        return "\n".join(_hidden_lines(config))
    kept, place = [], 0
    for start, end in spans:
        if start < place:
            continue
        value = config[start:end]
        kept += [config[place:start], LEFT_OUT, value[len(value.rstrip()) :]]
        place = end
    return "".join([*kept, config[place:]])


def _spans(node: yaml.Node, place: tuple[str, ...], seen: set[tuple[int, bool]]) -> Iterator[tuple[int, int]]:
    """Where the values of secrets begin and end."""
    secret = bool(place) and in_secret(place)
    if (id(node), secret) in seen:  # another name for it, or it contains itself
        return
    seen.add((id(node), secret))
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            own = name.value if isinstance(name, yaml.ScalarNode) else ""
            yield from _spans(value, (*place, own), seen)
    elif isinstance(node, yaml.SequenceNode):
        for at, value in enumerate(node.value):
            yield from _spans(value, (*place, str(at)), seen)
    elif secret and not _SHOWN.match(node.value):
        yield node.start_mark.index, node.end_mark.index


def _hidden_lines(config: str) -> Iterator[str]:
    """Line by line: a value after the name of a secret is left out, and so is what stands deeper below it."""
    around: list[tuple[int, str]] = []
    dropped: int | None = None
    for line in config.splitlines():
        depth = len(line) - len(line.lstrip(" -"))
        if dropped is not None and line.strip() and depth > dropped:
            continue
        dropped = None
        match = _LINE.match(line)
        if match is None:
            secret = bool(around) and line.strip() != "" and any(is_secret(name) for _, name in around)
            yield f"{line[:depth]}{LEFT_OUT}" if secret else line
            continue
        around = [(deep, name) for deep, name in around if deep < depth]
        name = match["name"].strip("'\"")
        if in_secret([*(each for _, each in around), name]) and not _SHOWN.match(match["value"].strip()):
            yield f"{match['start']}{match['name']}:{match['space'] or ' '}{LEFT_OUT}"
            dropped = depth
            continue
        around.append((depth, name))
        yield line


def environment_texts(config: str) -> dict[str, str]:
    """What the variables of the environment hold that a config names, with how the config has it.

    Args:
        config: Its text. A variable that is not set here is left out, and so is one of fewer than eight characters,
            which may be part of any word.
    """
    found: dict[str, str] = {}
    for name in _VARIABLE.findall(config):
        value = os.environ.get(name, "")
        for text in (value, value.strip(), without_home(value)):
            if len(text) >= _SHORTEST:
                found[text] = f"${{oc.env:{name}}}"
    return found


def hidden_texts(values: Any, texts: Mapping[str, str]) -> Any:
    """Values in which certain texts are replaced.

    Args:
        values: Plain ones; names, and what a report says by one of a few words, stay.
        texts: By what is to be replaced.
    """
    if not texts:
        return values
    longest_first = sorted(texts, key=len, reverse=True)
    return _replaced(values, re.compile("|".join(map(re.escape, longest_first))), texts)


def _replaced(values: Any, pattern: re.Pattern[str], texts: Mapping[str, str]) -> Any:
    if isinstance(values, Mapping):
        return {
            name: each if name in _FIXED and isinstance(each, str) else _replaced(each, pattern, texts)
            for name, each in values.items()
        }
    if isinstance(values, list | tuple):
        return [_replaced(each, pattern, texts) for each in values]
    return pattern.sub(lambda found: texts[found[0]], values) if isinstance(values, str) else values


def without_home(text: str) -> str:
    """A text with ``~`` for the path of the home folder.

    Args:
        text: Any.
    """
    home = str(Path.home())
    return text if home in ("/", "") else re.sub(rf"{re.escape(home)}(?=$|[/\s'\",:\]}}])", "~", text)
