"""A model as it was exported: checked against its manifest, then run by onnxruntime or torch.

What is run is what was checked: each file is read once, and the runtime gets the bytes whose hash was taken.

Example:
    >>> from lightning_privacy.serving import load_exported
    >>> load_exported("nowhere")
    Traceback (most recent call last):
        ...
    lightning_privacy.serving.errors.ExportError: nowhere is no exported model: it has no manifest.json
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_privacy._validate import one_of, positive_int
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.security.key_ring import KeyLike
from lightning_privacy.serving._formats import INPUT
from lightning_privacy.serving.errors import ExportError, RequestError
from lightning_privacy.serving.manifest import FILES, Manifest, ModelCard

__all__ = ["MANIFEST", "ExportedModel", "load_exported"]

MANIFEST = "manifest.json"
Run = Callable[[Tensor], Tensor]


class ExportedModel:
    """Maps batches of inputs to outputs, as the module did that was exported.

    Args:
        manifest: What the folder says of it.
        run: Maps inputs to outputs.
        weights: Parameters and buffers, if asked for.
        backend: What runs it: ``"onnx"``, ``"onnx-int8"`` or ``"torch"``.
    """

    def __init__(
        self, manifest: Manifest, run: Run, *, backend: str, weights: Mapping[str, Tensor] | None = None
    ) -> None:
        self.manifest = manifest
        self.backend = backend
        self.weights = weights
        self._run = run

    def __call__(self, inputs: Tensor) -> Tensor:
        """Outputs, shape ``(N, ...)``.

        Args:
            inputs: Shape and dtype as the manifest says.

        Raises:
            RequestError: They have another shape, a number that is not finite, or another scale.
        """
        return self._run(checked_inputs(inputs, self.manifest.model))


def checked_inputs(inputs: Tensor, card: ModelCard) -> Tensor:
    """Return inputs in the dtype of the model.

    Raises:
        RequestError: There are none, they have another shape, not all are finite or of the right kind, or one is far
            outside of the range that was declared.
    """
    wanted = list(card.input_shape)
    if inputs.dim() != 1 + len(wanted) or list(inputs.shape[1:]) != wanted:
        shape = ", ".join(["N", *map(str, wanted)])
        raise RequestError(
            f"inputs must have shape [{shape}], one example of {numbers_text(card)} after the other, got "
            f"{list(inputs.shape)}"
        )
    if len(inputs) == 0:
        raise RequestError("inputs must have at least one example, got none")
    dtype: torch.dtype = getattr(torch, card.input_dtype)
    if dtype.is_floating_point:
        inputs = inputs.to(dtype)
        if not bool(inputs.isfinite().all()):
            raise RequestError(f"inputs must be finite numbers of {card.input_dtype}, got one that is not")
        _check_scale(inputs, card)
        return inputs
    converted = inputs.to(dtype)
    if not bool((converted == inputs).all()):
        raise RequestError(f"inputs must be whole numbers of {card.input_dtype}, got one that is not")
    _check_scale(converted, card)
    return converted


def numbers_text(card: ModelCard) -> str:
    """What an example is, such as "1x28x28 numbers"."""
    shape = card.input_shape
    return "1 number" if math.prod(shape) == 1 else f"{'x'.join(map(str, shape))} numbers"


def _check_scale(inputs: Tensor, card: ModelCard) -> None:
    """Refuse inputs on another scale than that of training, such as pixels up to 255 for a model of -1 to 1."""
    if card.input_range is None or inputs.numel() == 0:
        return
    low, high = card.input_range
    # As far outside as the range is wide: noise and shifts of one's own pass, another scale does not.
    width = high - low
    for value in (float(inputs.min()), float(inputs.max())):
        if not low - width <= value <= high + width:
            raise RequestError(
                f"inputs must be on the scale the model was trained on, {low:g} to {high:g}, got {value:g}: scale them "
                "as the batches of the training were"
            )


def load_exported(
    folder: str | Path, *, backend: str = "auto", key: KeyLike | None = None, threads: int = 1, weights: bool = False
) -> ExportedModel:
    """Open a folder that :func:`~lightning_privacy.serving.export` wrote.

    Every file the manifest names is checked, also those that are not run.

    Args:
        folder: The folder.
        backend: ``"onnx"``, ``"onnx-int8"``, ``"torch"``, or ``"auto"``: the first of onnx and torch that is there.
        key: What the manifest was authenticated with. Without one an attacker who can write to the folder can put
            another model there; loading a ``torch`` program may run code that is in it.
        threads: Of onnxruntime, for one batch.
        weights: Also give the tensors of the safetensors file.

    Raises:
        ExportError: A file is missing, damaged, altered, of a newer version or not what it should be.
        WrongKeyError: The manifest was authenticated with another key.
        ConfigurationError: The backend is unknown, or what it needs is not installed.
    """
    one_of(("auto", "onnx", "onnx-int8", "torch"), backend=backend)
    positive_int(threads=threads)
    folder = Path(folder)
    manifest, contents = read_folder(folder, key=key)
    chosen = _choose(backend, contents, folder)
    try:
        run = _torch_run(contents[chosen]) if chosen == "torch" else onnx_run(contents[chosen], threads=threads)
        tensors = _tensors(contents) if weights else None
    except ConfigurationError:
        raise
    except Exception as error:  # of many kinds: its hash is right and yet it is not a model
        raise ExportError(
            f"{folder}: the {chosen} file can't be loaded ({type(error).__name__}: {error!s:.200}): was it written "
            "by a newer version of torch or onnxruntime?"
        ) from error
    return ExportedModel(manifest, run, backend=chosen, weights=tensors)


def read_folder(folder: Path, *, key: KeyLike | None = None) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest of a folder and the content of each file by its format, all checked.

    Raises:
        ExportError: A file is missing, damaged or altered.
        WrongKeyError: The manifest was authenticated with another key.
    """
    if not (folder / MANIFEST).is_file():
        raise ExportError(f"{folder} is no exported model: it has no {MANIFEST}")
    manifest = Manifest.from_bytes((folder / MANIFEST).read_bytes(), key=key)
    return manifest, {FILES[name]: _content(folder / name, manifest, name) for name in manifest.files}


def _content(path: Path, manifest: Manifest, name: str) -> bytes:
    entry = manifest.files[name]
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size == entry.size else b""
    except FileNotFoundError as error:
        raise ExportError(f"{path} is missing: the manifest names it; copy the folder again, whole") from error
    if size != entry.size or hashlib.sha256(content).hexdigest() != entry.sha256:
        raise ExportError(
            f"{path} is not the file of the manifest: it was damaged or altered; copy the folder again, or export anew"
        )
    return content


def _choose(backend: str, contents: Mapping[str, bytes], folder: Path) -> str:
    if backend != "auto":
        if backend not in contents:
            raise ConfigurationError(f"backend must be among {', '.join(contents)}: {folder} has no {backend} file")
        return backend
    usable = [name for name in ("onnx", "torch") if name in contents]
    if "onnx" in usable and find_spec("onnxruntime") is None and "torch" in usable:
        usable.remove("onnx")
    if not usable:
        raise ConfigurationError(
            f"{folder} holds only {', '.join(contents) or 'a manifest'}: export with formats=('safetensors', 'onnx')"
        )
    return usable[0]


def onnx_run(content: bytes, *, threads: int = 1) -> Run:
    """What runs an ONNX model on the CPU.

    Raises:
        ConfigurationError: onnxruntime is not installed.
    """
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigurationError(
            "running an ONNX file needs onnxruntime: pip install 'lightning-privacy[export]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(inputs: Tensor) -> Tensor:
        outputs = session.run(None, {INPUT: inputs.detach().cpu().contiguous().numpy()})
        return torch.from_numpy(outputs[0])

    return run


def _torch_run(content: bytes) -> Run:
    module: Any = torch.export.load(io.BytesIO(content)).module()

    def run(inputs: Tensor) -> Tensor:
        with torch.inference_mode():
            outputs: Tensor = module(inputs).clone()
        return outputs

    return run


def _tensors(contents: Mapping[str, bytes]) -> Mapping[str, Tensor]:
    if "safetensors" not in contents:
        raise ConfigurationError("weights must be False: there is no safetensors file")
    try:
        from safetensors.torch import load
    except ImportError as error:
        raise ConfigurationError("weights need safetensors: pip install 'lightning-privacy[export]'") from error
    tensors: Mapping[str, Tensor] = load(contents["safetensors"])
    return tensors
