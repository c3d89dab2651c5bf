"""Networks of recurrent and attention layers through the engine, against brute force."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from brute_force import (
    check_clipped_sums,
    engine_for,
    normal,
    outputs_loss,
)
from laid_out import check_laid_out
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from transformers.pytorch_utils import Conv1D

from lightning_privacy.errors import UnsupportedError
from lightning_privacy.gradients.rules import composite_rule_for


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(20)


class Reader(nn.Module):
    """Tokens of sequences of unequal length, packed; answers from the final state."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.words, self.rnn, self.answer = nn.Embedding(9, 4), kind(4, 3, 2, bidirectional=True), nn.Linear(6, 2)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        words = self.words(tokens).transpose(0, 1)
        packed = pack_padded_sequence(words, lengths, enforce_sorted=False)
        _, state = self.rnn(packed)
        state = state[0] if isinstance(state, tuple) else state
        return self.answer(state[-2:].transpose(0, 1).flatten(1))


class StepByStep(nn.Module):
    """A cell in a loop whose state goes on to the next cell."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper, self.answer = nn.LSTMCell(3, 4), nn.GRUCell(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        states, upper = None, None
        for step in x.unbind(1):
            states = self.lower(step, states)
            upper = self.upper(states[0], upper)
        return self.answer(torch.relu_(upper))


class TimeFirst(nn.Module):
    """Layers that take time first, in a network that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.attention, self.answer = nn.GRU(3, 4), nn.MultiheadAttention(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.rnn(x.transpose(0, 1))
        attended, _ = self.attention(states, states, states)
        attended += states
        return self.answer(attended.transpose(0, 1)).flatten(1)


class Upsampler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 4, 3, stride=2), nn.ConvTranspose2d(4, 2, 3, stride=2)
        self.slopes, self.mix = nn.PReLU(4), nn.Bilinear(6, 6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(self.slopes(self.down(x)), output_size=x.shape[2:])
        return self.mix(y[:, 0], y[:, 1]).flatten(1)


class SharedAttention(nn.Module):
    """One attention layer used for itself and across."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.attention(x, memory, memory)[0]


def _transformer(**options: bool) -> nn.Module:
    return nn.Transformer(4, 2, 2, 1, 6, dropout=0.0, batch_first=True, **options)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    "packed RNN": (
        lambda: Reader(nn.RNN),
        lambda: (torch.randint(0, 9, (5, 6)), torch.tensor([3, 6, 1, 6, 2])),
    ),
    "packed LSTM": (
        lambda: Reader(nn.LSTM),
        lambda: (torch.randint(0, 9, (5, 6)), torch.tensor([3, 6, 1, 6, 2])),
    ),
    "cells": (StepByStep, lambda: (normal(5, 4, 3),)),
    "upsampler": (Upsampler, lambda: (normal(5, 1, 6, 6),)),
    "attention used twice": (SharedAttention, lambda: (normal(5, 3, 4), normal(5, 2, 4))),
    "encoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 6, 0.0, batch_first=True), 2),
        lambda: (normal(5, 3, 4),),
    ),
    "encoder, norm first": (
        lambda: nn.TransformerEncoderLayer(4, 2, 6, 0.0, batch_first=True, norm_first=True),
        lambda: (normal(5, 3, 4),),
    ),
    "transformer": (_transformer, lambda: (normal(5, 3, 4), normal(5, 2, 4))),
    "GPT-2's linear layers": (
        lambda: nn.Sequential(Conv1D(6, 4), nn.GELU(), Conv1D(2, 6)),
        lambda: (normal(5, 3, 4),),
    ),
}


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning")
@pytest.mark.parametrize("train", [True, False], ids=["training", "evaluating"])
@pytest.mark.parametrize(("make", "data"), MODELS.values(), ids=MODELS)
def test_networks(make: Callable[[], nn.Module], data: Callable[[], tuple[Tensor, ...]], train: bool) -> None:
    check_clipped_sums(make().double().train(train), data())


@pytest.mark.parametrize("train", [True, False], ids=["training", "evaluating"])
def test_layers_that_take_time_first_once_a_probe_has_looked(train: bool) -> None:
    check_laid_out(TimeFirst().double().train(train), (normal(5, 4, 3),))


@pytest.mark.parametrize("layer", [nn.LSTM(3, 4), nn.MultiheadAttention(3, 1)], ids=["LSTM", "attention"])
def test_p03_layers_that_take_time_first_are_refused_without_a_probe(layer: nn.Module) -> None:
    """With as many steps as examples, a batch put first would not be told from one put second."""
    engine = engine_for(layer)
    engine.arm(batch_size=5, step=0)
    x = torch.randn(5, 5, 3)
    with pytest.raises(UnsupportedError, match=r"takes time first.*batch_first=True.*probe=True"):
        layer(*([x] if isinstance(layer, nn.LSTM) else [x, x, x]))
    engine.detach()


@pytest.mark.parametrize("train", [True, False], ids=["training", "evaluating"])
def test_an_encoder_of_padded_sequences(train: bool) -> None:
    """In evaluation this is the case in which torch would take its fused path over nested tensors."""
    layer = nn.TransformerEncoderLayer(4, 2, 6, 0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True).double().train(train)
    padding = torch.arange(4).expand(5, 4) >= torch.tensor([[4], [2], [3], [1], [4]])

    def loss(model: nn.Module, x: Tensor, padding: Tensor) -> Tensor:
        encoded = model(x, src_key_padding_mask=padding)
        return torch.tanh(encoded).masked_fill(padding.unsqueeze(2), 0).pow(3).sum((1, 2))

    check_clipped_sums(model, (normal(5, 4, 4), padding), loss=loss)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
def test_the_fused_path_of_evaluation_is_what_it_was() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), 2).double().eval()
    x = normal(5, 4, 4)
    padding = torch.arange(4).expand(5, 4) >= torch.tensor([[4], [2], [3], [1], [4]])
    with torch.no_grad():
        expected = model(x, src_key_padding_mask=padding)
    engine = engine_for(model)
    with torch.no_grad():
        assert torch.equal(model(x, src_key_padding_mask=padding), expected)
    engine.detach()


@pytest.mark.parametrize("trained", ["layers.0.self_attn.out_proj", "layers.1.self_attn.in_proj_weight", "layers.0"])
def test_an_encoder_of_which_a_part_trains(trained: str) -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 6, 0.0, batch_first=True), 2).double().eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(trained))
    check_clipped_sums(model, (normal(5, 3, 4),))


def test_sequences_that_are_not_finite_add_nothing() -> None:
    model = nn.Sequential(nn.Linear(3, 4), _Last(nn.LSTM(4, 5, 2, batch_first=True)))
    x = torch.randn(5, 4, 3)
    found = []
    for data in (x, torch.cat([x, torch.full((1, 4, 3), torch.nan)])):
        engine = engine_for(model, max_grad_norm=0.1)
        engine.arm(batch_size=len(data), step=0)
        outputs_loss(model, data).mean().backward()
        found.append([p.grad.clone() for p in model.parameters()])
        engine.detach()
    torch.testing.assert_close(found[0], found[1])


class _Last(nn.Module):
    def __init__(self, rnn: nn.RNNBase) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0][:, -1]


def test_layers_and_subclasses() -> None:
    class Own(nn.LSTM):
        pass

    assert composite_rule_for(nn.LSTM(3, 4)) is not None
    assert composite_rule_for(Own(3, 4)) is None
    layer = nn.MultiheadAttention(4, 2)
    layer.out_proj.forward = lambda x: x
    assert composite_rule_for(layer) is None
