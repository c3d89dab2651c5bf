"""Training steps for the tests of the independence probe: faulty ones, sound ones, and what they train on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_privacy._lightning import LightningModule


class Listed(Dataset[Any]):
    """Examples that are there already."""

    def __init__(self, examples: Sequence[Any]) -> None:
        self.examples = list(examples)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Any:
        return self.examples[index]


def vectors(classes: int = 3, size: int = 6, count: int = 24, dtype: torch.dtype = torch.float32) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, size, generator=generator, dtype=dtype)
    return [(row, number % classes) for number, row in enumerate(x)]


def sequences(length: int = 5, features: int = 4, count: int = 24) -> list[Any]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(count, length, features, generator=generator)
    return [(row, number % 3) for number, row in enumerate(x)]


def images(count: int = 24) -> list[Any]:
    generator = torch.Generator().manual_seed(3)
    return [(image, number % 3) for number, image in enumerate(torch.rand(count, 2, 6, 6, generator=generator))]


def tokens(length: int = 6, count: int = 24, words: int = 11) -> list[Any]:
    generator = torch.Generator().manual_seed(4)
    return [{"ids": row} for row in torch.randint(1, words, (count, length), generator=generator)]


def texts(count: int = 24, words: int = 11, longest: int = 7) -> list[Any]:
    """Token sequences of different lengths, without padding; some tokens are not to be predicted."""
    generator = torch.Generator().manual_seed(5)
    made = []
    for number in range(count):
        ids = torch.randint(1, words, (2 + number * 3 % (longest - 1),), generator=generator)
        labels = torch.where(torch.rand(len(ids), generator=generator) < 0.3, -100, ids)
        labels[0] = ids[0]
        made.append({"ids": ids, "labels": labels})
    return made


def padded(examples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    ids = nn.utils.rnn.pad_sequence([item["ids"] for item in examples], batch_first=True)
    labels = nn.utils.rnn.pad_sequence([item["labels"] for item in examples], batch_first=True, padding_value=-100)
    return {"ids": ids, "labels": labels, "lengths": torch.tensor([len(item["ids"]) for item in examples])}


class Probed(LightningModule):
    """A module made of a case."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.case = case
        for name, layer in case.layers().items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.case.step(self, batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.01)


@dataclass
class Case:
    """A training step.

    Args:
        name: of the case.
        step: called as ``step(module, batch)``, returns the loss.
        layers: makes the module's layers, by attribute name.
        examples: makes the data.
        collate: makes a batch of examples.
        says: what the refusal must match; empty for a sound step.
        pitfall: which row of the list of pitfalls it is of.
        base: class of the module.
    """

    name: str
    step: Callable[[Any, Any], Any]
    layers: Callable[[], dict[str, nn.Module]]
    examples: Callable[[], list[Any]] = vectors
    collate: Callable[[list[Any]], Any] | None = None
    says: str = ""
    pitfall: str = ""
    base: type[Probed] = field(default=Probed)

    def module(self) -> Probed:
        return self.base(self)

    def loader(self) -> DataLoader[Any]:
        return DataLoader(Listed(self.examples()), batch_size=8, shuffle=True, collate_fn=self.collate)
