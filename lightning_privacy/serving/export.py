"""A trained model as a folder to deploy: weights, programs, an int8 version for edge devices, and a manifest.

The folder holds what inference needs and what a reader must know, and nothing else: no optimizer state, no
hyper-parameters, no paths, no row of data. It is there whole or not at all.

Example:
    >>> import pathlib, tempfile, torch
    >>> from torch import nn
    >>> from lightning_privacy.serving import export, load_exported
    >>> network = nn.Linear(4, 3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     target = pathlib.Path(folder, "model")
    ...     manifest = export(network, target, example_input=torch.zeros(1, 4), formats=("safetensors", "torch"))
    ...     outputs = load_exported(target)(torch.ones(2, 4))
    >>> sorted(manifest.files), torch.allclose(outputs, network(torch.ones(2, 4)))
    (['model.pt2', 'model.safetensors'], True)
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.gradients.state_values import untrained_entries
from lightning_privacy.security.atomic_file import sync_folder
from lightning_privacy.security.key_ring import KeyLike
from lightning_privacy.serving import _formats as made
from lightning_privacy.serving._figures import columns_of, figures_of, plain
from lightning_privacy.serving.declared_data import DeclaredData
from lightning_privacy.serving.errors import ExportError
from lightning_privacy.serving.exported_model import MANIFEST, Run, onnx_run, read_folder
from lightning_privacy.serving.manifest import FILES, FileEntry, Manifest, ModelCard, declared_range
from lightning_privacy.serving.privacy_statement import PrivacyStatement
from lightning_privacy.serving.quantise import accuracy_of, agreement_of, int8_bytes, outputs_of

__all__ = ["export"]

_FORMATS = ("safetensors", "torch", "onnx")
_NAME_OF = {kind: name for name, kind in FILES.items()}
_PACKAGES = ("lightning-privacy", "torch", "onnx", "onnxruntime", "safetensors")
_INPUT_TYPES = (torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8)
_TOLERANCE = 1e-3


def export(
    module: nn.Module,
    folder: str | Path,
    *,
    example_input: Tensor,
    ledger: PrivacyLedger | None = None,
    metrics: Mapping[str, Any] | None = None,
    roles: Any = None,
    class_names: Sequence[str] | None = None,
    input_range: Sequence[float] | None = None,
    formats: Sequence[str] = _FORMATS,
    quantise: str | None = None,
    calibration: DeclaredData | None = None,
    evaluate: DeclaredData | None = None,
    key: KeyLike | None = None,
) -> Manifest:
    """Write a trained model to a new folder.

    Each program is run and compared with the module before anything is written, for one example and for several.

    Args:
        module: The module; of a Classifier, its backbone. It is not changed.
        folder: Where to; must not be there, or be empty.
        example_input: A batch of inputs, shape ``(N, ...)``: its shape and dtype are used, never its values.
        ledger: Of the run that trained it: the epsilon of the manifest. None: it is called not private.
        metrics: Figures to report: numbers, texts, ``FairnessTable`` and mappings of them, with under ``"source"``
            what they were computed from: ``"public"`` or ``"held_out"`` people, or ``"charged"`` for figures that
            were released through the ledger.
        roles: Which columns were identifier, group, label and so on: ``Roles`` or a mapping of names.
        class_names: One for each output.
        input_range: The smallest and the largest value of inputs on the scale the module was trained on, such as
            ``(-1, 1)``, as a constant of the format and never as read off private data; requests far outside of it are
            refused. None to leave it open.
        formats: Among ``"safetensors"``, ``"torch"`` and ``"onnx"``.
        quantise: ``"dynamic"`` or ``"static"`` for an int8 version of the ONNX file.
        calibration: Inputs that the ranges of ``"static"`` are taken from; public or held-out where there is a ledger.
        evaluate: Labelled examples for the accuracy before and after int8, over all and by group; likewise.
        key: Authenticates the manifest, and through its hashes every file.

    Returns:
        The manifest.

    Raises:
        ConfigurationError: An argument is not usable, or the folder is taken.
        UnsupportedError: The module can't be traced, or data declared private would leave with a private model.
        ExportError: A program does not compute what the module does.
        OSError: The folder can't be written; nothing is there then.
    """
    folder = Path(folder)
    check_free(folder)
    formats = checked_formats(formats, quantise)
    if not isinstance(example_input, Tensor) or example_input.dim() < 2 or example_input.dtype not in _INPUT_TYPES:
        raise ConfigurationError(
            "example_input must be one tensor of shape (N, ...), a batch of inputs as the module takes them, in "
            f"{', '.join(str(each).removeprefix('torch.') for each in _INPUT_TYPES)}; got {_described(example_input)}"
        )
    caveats = [
        data.check_releasable(ledger, purpose=purpose)
        for data, purpose in ((calibration, "calibration data"), (evaluate, "data of the accuracy"))
        if data is not None
    ]
    network = made.network_of(module)
    run = _run_of(network)
    card = _card(network, run, example_input, class_names)
    if input_range is not None:
        card = replace(card, input_range=declared_range(input_range))
    figures = figures_of(metrics)

    kept = untrained_entries(network)
    contents: dict[str, bytes] = {}
    if "safetensors" in formats:
        contents["safetensors"] = made.weights_bytes(network)
    if "torch" in formats or "onnx" in formats:
        program = made.traced(network, example_input)
        constants = made.constants_of(program, network)
        kept |= constants
        card = replace(card, tensors={**made.tensors_of(constants), **card.tensors})
        if "torch" in formats:
            contents["torch"] = made.program_bytes(program)
            _check_same(run, _run_of(program.module()), example_input, "torch.export")
        if "onnx" in formats:
            contents["onnx"] = made.onnx_bytes(program)
            _check_same(run, onnx_run(contents["onnx"]), example_input, "onnxruntime")
    quantised = None
    if quantise is not None:
        calibrating = None if calibration is None else calibration.inputs
        contents["onnx-int8"] = int8_bytes(contents["onnx"], method=quantise, calibration=calibrating)
        quantised = _quantised(quantise, contents, run, calibration, evaluate)
    elif calibration is not None:
        raise ConfigurationError("calibration is for quantise='static': leave it out, or quantise")
    if evaluate is not None and quantised is None:
        figures = {**(figures or {}), "evaluated": _evaluated(outputs_of(run, evaluate.inputs), evaluate)}
    if kept and ledger is not None:
        caveats.append(
            f"Buffers and other states of the network ({', '.join(kept)}) are released as they stand; the guarantee "
            "holds if they were not computed from private data."
        )
    statement = PrivacyStatement.of(ledger, caveats=tuple(each for each in caveats if each is not None))
    manifest = Manifest(
        model=card,
        privacy=replace(
            statement,
            releases=tuple(plain(each) for each in statement.releases),
            caveats=tuple(plain(each) for each in statement.caveats),
        ),
        roles=columns_of(roles),
        metrics=figures,
        quantised=quantised,
        versions=_versions(),
        files={_NAME_OF[kind]: FileEntry.of(content) for kind, content in contents.items()},
    )
    files = {_NAME_OF[kind]: content for kind, content in contents.items()}
    _write(folder, files | {MANIFEST: manifest.to_bytes(key=key)}, key)
    return manifest


def check_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder} is there already: choose another folder, or remove it first")


def checked_formats(formats: Sequence[str], quantise: str | None) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys([formats] if isinstance(formats, str) else formats))
    if not chosen or set(chosen) - set(_FORMATS):
        raise ConfigurationError(f"formats must be some of {', '.join(_FORMATS)}, got {formats!r}")
    if quantise is not None and "onnx" not in chosen:
        raise ConfigurationError("quantise needs 'onnx' among the formats: int8 is made from the ONNX file")
    return chosen


def _run_of(module: Any) -> Run:
    def run(inputs: Tensor) -> Tensor:
        with torch.inference_mode():
            outputs: Tensor = module(inputs)
        return outputs.clone()

    return run


def _probes(example: Tensor) -> list[Tensor]:
    """Inputs of our own of one and of five examples: never the caller's."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(count, *example.shape[1:]) for count in (1, 5)]
    if example.dtype.is_floating_point:
        return [torch.rand(shape, generator=generator, dtype=example.dtype) for shape in shapes]
    if example.dtype == torch.uint8:
        return [torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for shape in shapes]
    return [torch.zeros(shape, dtype=example.dtype) for shape in shapes]  # which numbers are tokens is not known


def _card(network: nn.Module, run: Run, example: Tensor, class_names: Sequence[str] | None) -> ModelCard:
    probe = _probes(example)[1]
    try:
        outputs = run(probe)
    except Exception as error:  # whatever the module raises on inputs of this shape
        raise ConfigurationError(
            f"example_input must be what the module takes: on inputs of shape {list(probe.shape)} it raised "
            f"{type(error).__name__}: {error!s:.300}"
        ) from error
    if not isinstance(outputs, Tensor) or outputs.dim() < 1 or len(outputs) != len(probe):
        raise ConfigurationError(
            f"module must return one tensor with one row for each input, got {_described(outputs)} for {len(probe)}"
        )
    names = None if class_names is None else tuple(str(name) for name in class_names)
    if names is not None and (len(names),) != tuple(outputs.shape[1:]):
        raise ConfigurationError(f"class_names must be {list(outputs.shape[1:])} names, got {len(names)}")
    return ModelCard(
        architecture=type(network).__name__,
        input_shape=tuple(example.shape[1:]),
        input_dtype=str(example.dtype).removeprefix("torch."),
        output_shape=tuple(outputs.shape[1:]),
        class_names=names,
        tensors=made.tensors_of(network.state_dict()),
    )


def _check_same(run: Run, other: Run, example: Tensor, name: str) -> None:
    for probe in _probes(example):
        expected, got = run(probe), other(probe)
        scale = max(1.0, float(expected.abs().max()))
        if got.shape != expected.shape or not float((got - expected).abs().max()) <= _TOLERANCE * scale:
            raise ExportError(
                f"the program for {name} does not compute what the module does on a batch of {len(probe)}: is its "
                "forward random, or does it depend on the batch as a whole? Nothing was written"
            )


def _quantised(
    method: str,
    contents: Mapping[str, bytes],
    run: Run,
    calibration: DeclaredData | None,
    evaluate: DeclaredData | None,
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "method": method,
        "tool": "onnxruntime",
        "calibration": None if calibration is None else {"source": calibration.source, "examples": len(calibration)},
        "bytes_before": len(contents["onnx"]),
        "bytes_after": len(contents["onnx-int8"]),
        "before": None,
        "after": None,
    }
    if evaluate is not None:
        before = outputs_of(run, evaluate.inputs)
        after = outputs_of(onnx_run(contents["onnx-int8"]), evaluate.inputs)
        found |= {"before": _evaluated(before, evaluate), "after": _evaluated(after, evaluate)}
        found["agreement"] = agreement_of(before, after)
    return found


def _evaluated(outputs: Any, data: DeclaredData) -> dict[str, Any]:
    figures: dict[str, Any] = plain({"source": data.source, **accuracy_of(outputs, data)})
    return figures


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _write(folder: Path, files: Mapping[str, bytes], key: KeyLike | None) -> None:
    """Write beside the final place, read it back, and move it there in one step."""
    partial = folder.with_name(f".{folder.name}.partial")
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)  # what a killed export left
    partial.mkdir()
    try:
        for name, content in files.items():
            with (partial / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        sync_folder(partial)
        read_folder(partial, key=key)
        check_free(folder)
        partial.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)} in {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__
