"""The manifest of an exported model: what it is, what it guarantees, what it was measured at, and its files' hashes.

``manifest.json`` is written in one fixed form, and read only in that form: every byte of it counts. It ends with a
digest of itself, SHA-256, which finds damage; with a key it is an HMAC, which also finds an attacker who has no key
but can write to the folder.

What it never holds: optimizer state, hyper-parameters, paths, rows of data. Roles name columns, groups name groups.

Example:
    >>> manifest = Manifest(
    ...     model=ModelCard("PersonaNet", (1, 28, 28), "float32", (10,), None, {}),
    ...     privacy=PrivacyStatement.of(None),
    ...     roles={"label": ("digit",)},
    ...     metrics=None,
    ...     quantised=None,
    ...     versions={},
    ...     files={},
    ... )
    >>> Manifest.from_bytes(manifest.to_bytes()) == manifest
    True
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.security.key_ring import KeyLike, as_key_ring
from lightning_privacy.serving._fields import Fields
from lightning_privacy.serving.errors import ExportError
from lightning_privacy.serving.privacy_statement import PrivacyStatement

__all__ = ["FILES", "FileEntry", "Manifest", "ModelCard", "declared_range"]

#: The format of each file there can be.
FILES = {
    "model.safetensors": "safetensors",
    "model.pt2": "torch",
    "model.onnx": "onnx",
    "model.int8.onnx": "onnx-int8",
}

_KIND = "lightning_privacy export"
_SCHEMA = 1
_LARGEST = 16 * 2**20
_DEEPEST = 6
_LARGEST_NUMBER = 1e300
_PLACE = "manifest"


def declared_range(values: Sequence[float]) -> tuple[float, float]:
    """The smallest and the largest value of inputs, as floats.

    Raises:
        ConfigurationError: They are not two finite numbers, the smaller one first.
    """
    numbers = list(values) if isinstance(values, Sequence) else []
    usable = [each for each in numbers if isinstance(each, int | float) and not isinstance(each, bool)]
    if (
        len(numbers) != 2
        or len(usable) != 2
        or not all(abs(each) <= _LARGEST_NUMBER for each in usable)
        or not usable[0] < usable[1]
    ):
        raise ConfigurationError(f"input_range must be two finite numbers, the smaller one first, got {values!r:.80}")
    return float(usable[0]), float(usable[1])


@dataclass(frozen=True)
class FileEntry:
    """A file of the folder.

    Args:
        sha256: Of its content, as 64 hexadecimal digits.
        size: Of its content in bytes.
    """

    sha256: str
    size: int

    @classmethod
    def of(cls, content: bytes) -> FileEntry:
        """The entry of a content."""
        return cls(hashlib.sha256(content).hexdigest(), len(content))


@dataclass(frozen=True)
class ModelCard:
    """What goes into the model and what comes out.

    Args:
        architecture: Name of the network's class.
        input_shape: Of one example, without the batch.
        input_dtype: Such as "float32".
        output_shape: Of one example, without the batch.
        class_names: One for each class, or None.
        tensors: Shape and dtype of each parameter and buffer, and of each constant that the programs hold besides.
        input_range: The smallest and the largest value that inputs have by declaration, None where none was declared.
            It is never read off data.
    """

    architecture: str
    input_shape: tuple[int, ...]
    input_dtype: str
    output_shape: tuple[int, ...]
    class_names: tuple[str, ...] | None
    tensors: Mapping[str, tuple[tuple[int, ...], str]]
    input_range: tuple[float, float] | None = None

    @classmethod
    def _read(cls, fields: Fields) -> ModelCard:
        tensors = {}
        listed = fields.object("tensors")
        for name in listed.names():
            each = listed.object(name)
            tensors[name] = (each.sizes("shape"), each.text("dtype"))
            each.done()
        names = fields.take("class_names")
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise fields.wrong("class_names", "a list of texts or null", names)
        card = cls(
            architecture=fields.text("architecture"),
            input_shape=fields.sizes("input_shape"),
            input_dtype=fields.text("input_dtype", among=("float32", "float64", "int64", "int32", "uint8")),
            output_shape=fields.sizes("output_shape"),
            class_names=None if names is None else tuple(names),
            tensors=tensors,
            input_range=_range(fields),
        )
        if card.class_names is not None and (len(card.class_names),) != card.output_shape:
            raise fields.wrong("class_names", f"one for each of the outputs {list(card.output_shape)}")
        fields.done()
        return card

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        declared = {} if self.input_range is None else {"input_range": list(self.input_range)}
        return declared | {
            "architecture": self.architecture,
            "input_shape": list(self.input_shape),
            "input_dtype": self.input_dtype,
            "output_shape": list(self.output_shape),
            "class_names": None if self.class_names is None else list(self.class_names),
            "tensors": {name: {"shape": list(shape), "dtype": kind} for name, (shape, kind) in self.tensors.items()},
        }


@dataclass(frozen=True)
class Manifest:
    """Everything ``manifest.json`` says.

    Args:
        model: What it is.
        privacy: What it guarantees.
        roles: Names of the columns of each role.
        metrics: Figures, with under ``"source"`` what data they are of; nested mappings of numbers and texts.
        quantised: How the int8 file was made, and its figures before and after; None without.
        versions: Of the packages that made it.
        files: The files beside the manifest.
    """

    model: ModelCard
    privacy: PrivacyStatement
    roles: Mapping[str, tuple[str, ...]]
    metrics: Mapping[str, Any] | None
    quantised: Mapping[str, Any] | None
    versions: Mapping[str, str]
    files: Mapping[str, FileEntry]

    @classmethod
    def from_bytes(cls, content: bytes, *, key: KeyLike | None = None) -> Manifest:
        """Read what :meth:`to_bytes` gave.

        Args:
            content: The file.
            key: What it was authenticated with; then one without authentication is refused.

        Raises:
            ExportError: It is damaged, altered, of a newer version, or not such a file at all.
            WrongKeyError: It was authenticated with a key that is not here.
        """
        values = _parsed(content)
        fields = Fields(values, _PLACE)
        if fields.take("kind") != _KIND:
            raise fields.wrong("kind", f"{_KIND!r}: it is no export of this package")
        schema = fields.whole("schema")
        if schema != _SCHEMA:
            raise ExportError(
                f"{_PLACE}: schema {schema} is not known to this version of lightning_privacy, which reads {_SCHEMA}: "
                + ("update the package" if schema > _SCHEMA else "export the model anew")
            )
        seal = fields.object("seal")
        key_id = seal.text_or_none("key_id")
        if key is None and key_id is not None:
            raise ExportError(
                f"{_PLACE}: it is authenticated with the key {key_id!r}, without which it can't be checked; give the "
                "key that it was exported with (load_exported(key=...), serve --verify-key FILE; of a run of the "
                "command it is the file keys/lightning-privacy.key)"
            )
        try:
            expected = _seal({name: each for name, each in values.items() if name != "seal"}, key, key_id)
        except (ValueError, RecursionError) as error:  # 1e999, say, or deeper than can be written
            raise ExportError(f"{_PLACE}: it is not JSON as this package writes it ({error!s:.120})") from error
        if not hmac.compare_digest(seal.text("value").encode("utf-8", "replace"), expected["value"].encode()):
            raise ExportError(
                f"{_PLACE}: its digest does not fit its content: it was damaged or altered"
                + ("" if key is None else ", or sealed without this key")
            )
        seal.done()
        manifest = cls(
            model=ModelCard._read(fields.object("model")),
            privacy=PrivacyStatement.from_fields(fields.object("privacy")),
            roles=_roles(fields.object("roles")),
            metrics=_figures(fields, "metrics"),
            quantised=_figures(fields, "quantised"),
            versions=_versions(fields.object("versions")),
            files=_files(fields.object("files")),
        )
        fields.done()
        if _written(manifest.to_dict() | {"seal": values["seal"]}) != content:
            raise ExportError(f"{_PLACE}: it is not in the form this package writes: it was altered or damaged")
        return manifest

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the digest."""
        return {
            "kind": _KIND,
            "schema": _SCHEMA,
            "model": self.model.to_dict(),
            "privacy": self.privacy.to_dict(),
            "roles": {role: list(columns) for role, columns in self.roles.items()},
            "metrics": self.metrics,
            "quantised": self.quantised,
            "versions": dict(self.versions),
            "files": {name: {"sha256": each.sha256, "bytes": each.size} for name, each in self.files.items()},
        }

    def to_bytes(self, *, key: KeyLike | None = None) -> bytes:
        """The file.

        Args:
            key: Authenticates it; None for a digest that finds damage only.

        Raises:
            ExportError: A figure is not a finite number.
        """
        values = self.to_dict()
        _check_figures(self.metrics, "metrics")
        _check_figures(self.quantised, "quantised")
        return _written(values | {"seal": _seal(values, key, None)})


def _written(values: object) -> bytes:
    return (json.dumps(values, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _seal(values: Mapping[str, Any], key: KeyLike | None, key_id: object) -> dict[str, Any]:
    """The digest of everything else: with the current key to write, with the named key to check."""
    content = _written(values)
    if key is None:
        return {"key_id": None, "value": hashlib.sha256(content).hexdigest()}
    ring = as_key_ring(key)
    chosen = ring.decrypting(key_id) if isinstance(key_id, str) else ring.encrypting()
    code = hmac.digest(chosen.derive("export manifest"), content, "sha256")
    return {"key_id": chosen.key_id, "value": code.hex()}


def _parsed(content: bytes) -> dict[str, Any]:
    if len(content) > _LARGEST:
        raise ExportError(f"{_PLACE}: {len(content)} bytes are more than the {_LARGEST} it may have")
    try:
        values = json.loads(content.decode("ascii"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{_PLACE}: it is not JSON as this package writes it ({error!s:.120})") from error
    if not isinstance(values, dict):
        raise ExportError(f"{_PLACE} must be an object, got {type(values).__name__}")
    return values


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a number")


def _range(fields: Fields) -> tuple[float, float] | None:
    if "input_range" not in fields.names():
        return None
    value = fields.take("input_range")
    if not isinstance(value, list):
        raise fields.wrong("input_range", "a list of two numbers", value)
    try:
        return declared_range(value)
    except ConfigurationError as error:
        raise fields.wrong("input_range", "two finite numbers, the smaller one first", str(value)) from error


def _roles(fields: Fields) -> dict[str, tuple[str, ...]]:
    return {role: tuple(fields.texts(role)) for role in fields.names()}


def _versions(fields: Fields) -> dict[str, str]:
    return {name: fields.text(name) for name in fields.names()}


def _files(fields: Fields) -> dict[str, FileEntry]:
    found = {}
    for name in fields.names():
        if name not in FILES:  # also what would leave the folder
            raise ExportError(f"{_PLACE}: files must be among {', '.join(FILES)}, got {name!r:.80}")
        each = fields.object(name)
        entry = FileEntry(each.text("sha256"), each.whole("bytes"))
        if len(entry.sha256) != 64 or set(entry.sha256) - set("0123456789abcdef"):
            raise each.wrong("sha256", "64 hexadecimal digits", entry.sha256)
        each.done()
        found[name] = entry
    return found


def _figures(fields: Fields, name: str) -> dict[str, Any] | None:
    value = fields.take(name)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise fields.wrong(name, "an object or null", value)
    _check_figures(value, f"{_PLACE}: {name}")
    return value


def _check_figures(value: object, place: str, depth: int = 0) -> None:
    """Only mappings, texts, finite numbers and null, and not too deep."""
    if isinstance(value, Mapping):
        if depth == _DEEPEST:
            raise ExportError(f"{place} is nested deeper than {_DEEPEST}")
        for name, each in value.items():
            if not isinstance(name, str):
                raise ExportError(f"{place}: names must be texts, got {name!r:.80}")
            _check_figures(each, f"{place}.{name:.40}", depth + 1)
    elif not (
        value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))
    ):
        raise ExportError(f"{place} must be a finite number, a text, null or a mapping of them, got {value!r:.80}")
