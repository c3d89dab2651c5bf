"""What an audit measured, as one file in the folder of its run.

Every audit writes the same form, so that a report can show audits it has never heard of: a verdict, one sentence for
people who do not know the method, rows of names and values, curves and pictures. Whatever else a writer wants to keep
stands in ``extra``.

Example:
    >>> import tempfile
    >>> result = AuditResult(
    ...     kind="canaries",
    ...     title="Canaries in one run",
    ...     verdict="holds",
    ...     sentence="An attacker could show an epsilon of 0.4 at least; 3.0 was promised.",
    ...     rows=(("Lower bound of epsilon (95%)", "0.40"), ("Epsilon of the ledger", "3.00")),
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = result.write(folder)
    ...     path.name, AuditResult.read(path) == result
    ('audit_canaries.json', True)
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from lightning_privacy._text_file import write_text
from lightning_privacy._validate import one_of
from lightning_privacy.errors import ConfigurationError

__all__ = ["AuditCurve", "AuditImage", "AuditResult"]

_VERSION = 1
_KINDS = ("canaries", "membership", "attribute", "inversion")
_VERDICTS = ("holds", "broken", "measured")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_OWN_KEYS = ("version", "kind", "title", "verdict", "sentence", "rows", "curves", "images")


@dataclass(frozen=True)
class AuditCurve:
    """A curve of an audit.

    Args:
        label: What it is, for the legend.
        x: Finite values, ``(n,)``.
        y: As many finite values.
        x_label: What ``x`` is, with its unit.
        y_label: What ``y`` is, with its unit.
        log: Whether both axes are best shown logarithmically.

    Raises:
        ConfigurationError: A value is not finite, or there are not as many of one as of the other.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    x_label: str = ""
    y_label: str = ""
    log: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", _numbers("x", self.x))
        object.__setattr__(self, "y", _numbers("y", self.y))
        if len(self.x) != len(self.y):
            raise ConfigurationError(f"curve {self.label!r} has {len(self.x)} values of x and {len(self.y)} of y")


@dataclass(frozen=True)
class AuditImage:
    """A grey picture of an audit.

    Args:
        label: What it shows.
        rows: Brightness from 0 (black) to 1, row by row from the top, ``(height, width)``.

    Raises:
        ConfigurationError: Rows of different lengths, or a value that is not in [0, 1].
    """

    label: str
    rows: Sequence[Sequence[float]]

    def __post_init__(self) -> None:
        rows = tuple(_numbers("rows", row) for row in self.rows)
        object.__setattr__(self, "rows", rows)
        if len({len(row) for row in rows}) > 1 or any(not 0 <= value <= 1 for row in rows for value in row):
            raise ConfigurationError(f"image {self.label!r} must have rows of one length with values in [0, 1]")


@dataclass(frozen=True)
class AuditResult:
    """What an audit measured.

    Args:
        kind: ``"canaries"``, ``"membership"``, ``"attribute"`` or ``"inversion"``.
        title: Headline.
        verdict: ``"holds"``: what was measured is within what was promised; ``"broken"``: it is not; ``"measured"``:
            there is nothing to compare with, such as in a run without privacy.
        sentence: One plain sentence for a reader who does not know the method.
        rows: Names and values as text, in the order to show.
        curves: Curves.
        images: Pictures.
        extra: Whatever else the writer wants to keep; plain Python types as JSON has them. Its keys may not be those
            of the file itself.

    Raises:
        ConfigurationError: A kind or verdict that there is not, or something that JSON does not have.
    """

    kind: str
    title: str
    verdict: str
    sentence: str
    rows: Sequence[tuple[str, str]] = ()
    curves: Sequence[AuditCurve] = ()
    images: Sequence[AuditImage] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        one_of(_KINDS, kind=self.kind)
        one_of(_VERDICTS, verdict=self.verdict)
        object.__setattr__(self, "rows", tuple((str(name), str(value)) for name, value in self.rows))
        object.__setattr__(self, "curves", tuple(self.curves))
        object.__setattr__(self, "images", tuple(self.images))
        taken = sorted(set(self.extra) & set(_OWN_KEYS))
        if taken:
            raise ConfigurationError(f"extra must not have the keys of the file itself, got {', '.join(taken)}")

    def to_dict(self) -> dict[str, Any]:
        """What the file holds, in plain Python types."""
        return {
            "version": _VERSION,
            "kind": self.kind,
            "title": self.title,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "rows": [list(row) for row in self.rows],
            "curves": [
                {
                    "label": curve.label,
                    "x": list(curve.x),
                    "y": list(curve.y),
                    "x_label": curve.x_label,
                    "y_label": curve.y_label,
                    "log": curve.log,
                }
                for curve in self.curves
            ],
            "images": [{"label": image.label, "rows": [list(row) for row in image.rows]} for image in self.images],
            **self.extra,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The result that :meth:`to_dict` gave.

        Args:
            content: Of a file, as JSON is read.

        Raises:
            ConfigurationError: Another version, or something missing or of another type; the message names it.
        """
        if not isinstance(content, Mapping):
            raise ConfigurationError(f"an audit must be a JSON object, got {type(content).__name__}")
        if content.get("version") != _VERSION:
            raise ConfigurationError(
                f"an audit of version {content.get('version')!r} can't be read, only of {_VERSION}: read it with the "
                "version of lightning_privacy that wrote it, or audit again"
            )
        try:
            return cls(
                kind=content["kind"],
                title=str(content["title"]),
                verdict=content["verdict"],
                sentence=str(content["sentence"]),
                rows=[(name, value) for name, value in content.get("rows", [])],
                curves=[AuditCurve(**curve) for curve in content.get("curves", [])],
                images=[AuditImage(**image) for image in content.get("images", [])],
                extra={key: value for key, value in content.items() if key not in _OWN_KEYS},
            )
        except KeyError as error:
            raise ConfigurationError(f"an audit must have {error.args[0]!r}") from error
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"an audit has a part that can't be read: {error}") from error

    def write(self, folder: str | Path, *, name: str | None = None) -> Path:
        """Write ``audit_<name>.json``, whole or not at all; one of that name is replaced.

        Args:
            folder: Of the run; made when missing.
            name: Letters, digits, ``.``, ``_`` and ``-``; the kind by default.

        Returns:
            The file.

        Raises:
            ConfigurationError: A name that is no part of a file name, or something in ``extra`` that JSON does not
                have (NaN and infinity are such).
            OSError: The file can't be written.
        """
        name = self.kind if name is None else name
        if not _NAME.fullmatch(name):
            raise ConfigurationError(f"name must be made of letters, digits, '.', '_' and '-', got {name!r}")
        try:
            text = json.dumps(self.to_dict(), allow_nan=False) + "\n"
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"extra must be plain values as JSON has them: {error}") from error
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"audit_{name}.json"
        write_text(path, text)
        return path

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a file that :meth:`write` wrote.

        Args:
            path: The file.

        Raises:
            ConfigurationError: It holds no audit of this version; the message names the file.
            OSError: It can't be read.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except ValueError as error:  # JSON's errors and our own
            raise ConfigurationError(f"{path}: {error}") from error


def _numbers(name: str, values: Sequence[float]) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if not all(map(math.isfinite, numbers)):
        raise ConfigurationError(f"{name} must hold finite numbers only")
    return numbers
