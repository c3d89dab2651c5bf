"""What a client sent, as a tensor, or an error that says what would be right.

JSON is ``{"inputs": [...]}`` with one nested list of numbers for each example; a body of type
``application/octet-stream`` is the numbers themselves, little-endian, in the model's own type, example after example.

Example:
    >>> from lightning_privacy.serving.manifest import ModelCard
    >>> card = ModelCard("Linear", (2,), "float32", (3,), None, {})
    >>> parse_inputs(b'{"inputs": [[0.5, 1]]}', "application/json", card, max_examples=8)
    tensor([[0.5000, 1.0000]])
    >>> parse_inputs(b'{"inputs": [[1, 2, 3]]}', "application/json", card, max_examples=8)
    Traceback (most recent call last):
        ...
    lightning_privacy.serving.errors.RequestError: inputs must have shape [N, 2], one example of 2 numbers ...
"""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_privacy.serving.errors import RequestError
from lightning_privacy.serving.exported_model import checked_inputs, numbers_text
from lightning_privacy.serving.manifest import ModelCard

__all__ = ["BINARY", "JSON", "parse_inputs"]

JSON, BINARY = "application/json", "application/octet-stream"
_EXPECTED = 'the body must be {"inputs": [...]}, a list of examples'


def parse_inputs(body: bytes, content_type: str, card: ModelCard, *, max_examples: int) -> Tensor:
    """The inputs of a request, checked.

    Args:
        body: Of the request.
        content_type: Without parameters.
        card: What the model takes.
        max_examples: Most that one request may have.

    Raises:
        RequestError: It is not JSON, has other fields, numbers that are none, another shape, or too many examples.
    """
    inputs = _from_binary(body, card) if content_type == BINARY else _from_json(body)
    if len(inputs) > max_examples:
        raise RequestError(f"inputs must be at most {max_examples} examples in one request, got {len(inputs)}")
    return checked_inputs(inputs, card)


def _from_json(body: bytes) -> Tensor:
    try:
        values: Any = json.loads(body, parse_constant=_no_constant)
    except RecursionError as error:
        raise RequestError(f"{_EXPECTED}: the lists are nested too deeply") from error
    except ValueError as error:  # of JSON, of the text's encoding, of a constant
        raise RequestError(f"{_EXPECTED}: it is not JSON ({error!s:.100})") from error
    if not isinstance(values, dict) or "inputs" not in values:
        raise RequestError(f"{_EXPECTED}: inputs is missing")
    superfluous = sorted(set(values) - {"inputs"})
    if superfluous:
        raise RequestError(f"{_EXPECTED}, and nothing else: unknown {superfluous[0]!r:.80}")
    if not isinstance(values["inputs"], list):
        raise RequestError(f"{_EXPECTED}: inputs is a {type(values['inputs']).__name__}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers too large for the type; they are refused below
            array = np.array(values["inputs"])
    except (ValueError, OverflowError) as error:
        raise RequestError(f"{_EXPECTED}: the lists in it have different lengths or are nested too deeply") from error
    if array.size and array.dtype.kind not in "iuf":
        raise RequestError(f"{_EXPECTED} of numbers: something else is among them")
    return torch.from_numpy(array.astype(np.float64))


def _from_binary(body: bytes, card: ModelCard) -> Tensor:
    dtype = np.dtype(card.input_dtype).newbyteorder("<")
    size = math.prod(card.input_shape) * dtype.itemsize
    if size == 0 or len(body) % size:
        raise RequestError(
            f"the body must be a multiple of {size} bytes, one example of {numbers_text(card)} of "
            f"{card.input_dtype} after the other, got {len(body)}"
        )
    array = np.frombuffer(body, dtype).astype(dtype.newbyteorder("="))
    return torch.from_numpy(array.reshape(-1, *card.input_shape))


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a number")
