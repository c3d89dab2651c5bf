"""A network in int8 for edge devices: a quarter of the size, and what it costs in accuracy.

onnxruntime does it, and runs the outcome on phones and small boards without torch; torchao's int8 needs torch where
the model runs. Weights are int8 with a scale for each output channel (one bit less than there is room for, so that
sums don't overflow on processors without int8 dot products).

``"dynamic"`` learns nothing from data: activations are scaled as they come. ``"static"`` fixes their ranges from
calibration examples, which is faster for convolutions, and is a function of these examples that leaves with the
model: they must not be private.

Example:
    >>> agreement_of(np.array([[1.0, 0.0], [0.2, 0.8]]), np.array([[0.9, 0.1], [0.6, 0.4]]))
    0.5
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_privacy._validate import one_of
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.serving._formats import INPUT, strip
from lightning_privacy.serving.declared_data import DeclaredData

__all__ = ["accuracy_of", "agreement_of", "int8_bytes"]

_BATCH = 64
Outputs = NDArray[np.float32]


def int8_bytes(content: bytes, *, method: str, calibration: Tensor | None = None) -> bytes:
    """An ONNX model in int8.

    Args:
        content: The model in float32, with one input.
        method: ``"dynamic"`` or ``"static"``.
        calibration: Inputs for ``"static"``; a hundred or more.

    Raises:
        ConfigurationError: onnxruntime is not installed, or calibration inputs are missing or superfluous.
    """
    one_of(("dynamic", "static"), quantise=method)
    if (method == "static") is (calibration is None):
        raise ConfigurationError(
            "calibration must be given with quantise='static', and only there: 'dynamic' needs no data"
        )
    try:
        import onnx
        from onnxruntime.quantization import (  # type: ignore[import-untyped]
            QuantType,
            quantize_dynamic,
            quantize_static,
        )
        from onnxruntime.quantization.shape_inference import quant_pre_process  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigurationError("int8 needs onnxruntime: pip install 'lightning-privacy[export]'") from error
    settings: dict[str, Any] = {"weight_type": QuantType.QInt8, "per_channel": True, "reduce_range": True}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source, ready, target = (Path(folder, name) for name in ("float.onnx", "ready.onnx", "int8.onnx"))
        source.write_bytes(content)
        quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        prepared = onnx.load(str(ready))
        prepared.graph.ClearField("value_info")  # shapes in between no longer fit once a Gemm is split
        onnx.save(prepared, str(ready))
        if calibration is None:
            quantize_dynamic(str(ready), str(target), **settings)
        else:
            quantize_static(str(ready), str(target), _reader(calibration), activation_type=QuantType.QUInt8, **settings)
        made = onnx.load(str(target))
    strip(made)
    quantised: bytes = made.SerializeToString(deterministic=True)
    return quantised


def _reader(inputs: Tensor) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Batches(CalibrationDataReader):  # type: ignore[misc] # onnxruntime has no types
        def __init__(self) -> None:
            self._batches = iter(torch.split(inputs.detach().cpu(), _BATCH))

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            batch = next(self._batches, None)
            return None if batch is None else {INPUT: batch.numpy()}

    return Batches()


def outputs_of(run: Callable[[Tensor], Tensor], inputs: Tensor) -> Outputs:
    """What a model makes of many inputs, batch by batch."""
    return np.concatenate([run(batch).numpy() for batch in torch.split(inputs.detach().cpu(), _BATCH)])


def accuracy_of(outputs: Outputs, data: DeclaredData) -> dict[str, Any]:
    """Accuracy over all examples and by group.

    Args:
        outputs: Scores, shape ``(N, C)``.
        data: The examples, with labels.

    Raises:
        ConfigurationError: There are no labels.
    """
    if data.labels is None:
        raise ConfigurationError("evaluate must have labels: DeclaredData(inputs, labels=...)")
    right = outputs.argmax(1) == data.labels.cpu().numpy()
    found: dict[str, Any] = {"accuracy": float(right.mean()), "examples": len(data), "groups": {}}
    for attribute in data.groups:
        names = np.array(data.names(attribute))
        found["groups"][attribute] = {
            name: {"accuracy": float(right[names == name].mean()), "examples": int((names == name).sum())}
            for name in sorted(set(names.tolist()))
        }
    return found


def agreement_of(before: Outputs, after: Outputs) -> float:
    """Share of examples that both give the same class."""
    return float((before.argmax(1) == after.argmax(1)).mean())
