"""A network as safetensors weights, as a ``torch.export`` program and as ONNX, each as bytes and without traces.

Both exporters write down where the source code lay (with the name of a home folder, often) and, in a program of
``torch.export``, the example it was traced with. Here nothing of the kind is left, and the example is zeros of the
right shape whatever was passed.

Example:
    >>> import torch
    >>> from torch import nn
    >>> program = traced(nn.Linear(3, 2), torch.zeros(1, 3))
    >>> len(program_bytes(program)) > 0 and b"stack_trace" not in program_bytes(program)
    True
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_privacy._lightning import LightningModule
from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.models.classifier import Classifier

__all__ = ["constants_of", "network_of", "onnx_bytes", "program_bytes", "traced", "weights_bytes", "without_traces"]

INPUT, OUTPUT = "inputs", "outputs"
_OPSET = 20
_KEPT_META = ("val", "tensor_meta")
_NOISY = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


def network_of(module: object) -> nn.Module:
    """A copy of the network that maps inputs to outputs, for inference on the CPU.

    Args:
        module: A Classifier, whose backbone is taken, or any other module.

    Raises:
        ConfigurationError: It is not a module.
        UnsupportedError: Its state holds something other than tensors.
    """
    if not isinstance(module, nn.Module):
        raise ConfigurationError(f"module must be an nn.Module or a LightningModule, got {type(module).__name__}")
    network: nn.Module = module.backbone if isinstance(module, Classifier) else module
    # A LightningModule knows its trainer, and through it the data: neither is copied.
    left_out: dict[int, Any] = {}
    for each in network.modules():
        if isinstance(each, LightningModule) and each._trainer is not None:
            left_out[id(each._trainer)] = None
    network = copy.deepcopy(network, left_out).cpu().eval().requires_grad_(False)
    for name, value in network.state_dict().items():
        if not isinstance(value, Tensor):
            raise UnsupportedError(
                f"the state of the module holds {name!r}, a {type(value).__name__}, which can't be exported: what it "
                "says of the training data is not known; remove it before the export"
            )
    return network


def weights_bytes(network: nn.Module) -> bytes:
    """Parameters and buffers in safetensors; tied ones are written once for each name.

    Raises:
        ConfigurationError: safetensors is not installed.
    """
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise _missing("safetensors") from error
    written: bytes = save({name: value.detach().clone().contiguous() for name, value in network.state_dict().items()})
    return written


def traced(network: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """The network as a program for batches of any length from 1 on.

    Args:
        network: From :func:`network_of`.
        example: Only its shape after the first dimension and its dtype matter.

    Raises:
        UnsupportedError: It can't be traced; the message says why.
    """
    zeros = example.new_zeros((2, *example.shape[1:]), device="cpu")
    batch = torch.export.Dim("batch", min=1)
    try:
        with _quiet():
            program = torch.export.export(network, (zeros,), dynamic_shapes=({0: batch},), strict=False)
    except Exception as error:  # of many kinds, all about the network
        raise UnsupportedError(
            f"torch.export can't turn {type(network).__name__} into a program for batches of any length "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0]:.300}): leave 'torch' and 'onnx' out of "
            "formats, or write its forward without branches that depend on the data or on the length of the batch"
        ) from error
    return without_traces(program)


def constants_of(program: torch.export.ExportedProgram, network: nn.Module) -> dict[str, Any]:
    """What a program holds besides the state of its network, by name: the ONNX file that is made of it holds it too.

    Buffers that no checkpoint has, and tensors that are plain attributes of a module or made in its forward. What
    shares its memory with a parameter is that parameter.

    Args:
        program: From :func:`traced`.
        network: What was traced.
    """
    places = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()} - {0}
    return {
        name: value
        for name, value in program.constants.items()
        if not (isinstance(value, Tensor) and value.untyped_storage().data_ptr() in places)
    }


def without_traces(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program without the example it was traced with and without places in source files."""
    for part in program.graph_module.modules():
        if isinstance(part, torch.fx.GraphModule):
            for node in part.graph.nodes:
                node.meta = {name: value for name, value in node.meta.items() if name in _KEPT_META}
    program.example_inputs = None
    return program


def program_bytes(program: torch.export.ExportedProgram) -> bytes:
    """The content of a ``.pt2`` file, which ``torch.export.load`` reads."""
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(program, buffer)
    return buffer.getvalue()


def onnx_bytes(program: torch.export.ExportedProgram) -> bytes:
    """The program as ONNX, whose input is called ``"inputs"`` and whose output ``"outputs"``.

    Raises:
        ConfigurationError: onnx or onnxscript is not installed.
        UnsupportedError: It has an operation that ONNX does not have.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch.onnx needs it, and says so less clearly
    except ImportError as error:
        raise _missing("onnx and onnxscript") from error
    try:
        with _quiet():
            made = torch.onnx.export(
                program,
                (),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=_OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # of many kinds, all about the network
        raise UnsupportedError(
            f"torch.onnx can't translate the network ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0]:.300}): leave 'onnx' out of formats"
        ) from error
    if made is None:
        raise UnsupportedError("torch.onnx gave no program: leave 'onnx' out of formats")
    proto = made.model_proto
    strip(proto)
    onnx.checker.check_model(proto, full_check=True)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def strip(proto: Any) -> None:
    """Take out of an ONNX model what it does not compute with: places in source files, and shapes in between.

    Args:
        proto: An ``onnx.ModelProto``, changed in place.
    """
    graph = proto.graph
    graph.ClearField("value_info")
    parts = [proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *proto.functions]
    parts += [node for function in proto.functions for node in function.node]
    for part in parts:
        for name in ("metadata_props", "doc_string"):
            if name in part.DESCRIPTOR.fields_by_name:
                part.ClearField(name)


def tensors_of(named: Mapping[str, Any]) -> Mapping[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of each tensor.

    Args:
        named: By name; what is no tensor is left out.
    """
    return {
        name: (tuple(value.shape), str(value.dtype).removeprefix("torch."))
        for name, value in named.items()
        if isinstance(value, Tensor)
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' advice to those who write exporters."""
    levels = {name: logging.getLogger(name).level for name in _NOISY}
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _missing(what: str) -> ConfigurationError:
    return ConfigurationError(f"exporting needs {what}: pip install 'lightning-privacy[export]'")
