"""Shakespeare by speaker: the next character of what is being said, with a natural client for every speaker.

The task of the first paper on federated averaging (McMahan et al., "Communication-Efficient Learning of Deep Networks
from Decentralized Data", AISTATS 2017, section 3), on the file of plays known as "tiny Shakespeare" (Karpathy,
char-rnn, 2015): 1.1 million characters, 309 speakers.

The characters are those of printable ASCII, a public list, and not those of the text, which would be learned from it.

Example:
    >>> from lightning_privacy.data import ShakespeareDataModule
    >>> ShakespeareDataModule(root="data/shakespeare").num_characters
    97
    >>> decode(encode("To be?"))
    'To be?'
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from typing_extensions import override

from lightning_privacy._validate import positive_int, within_open_unit
from lightning_privacy.data.in_memory import InMemoryDataModule, InMemoryDataset, Splits
from lightning_privacy.errors import ConfigurationError

__all__ = ["CHARACTERS", "ShakespeareDataModule", "SpeakerDataset", "decode", "encode"]

_FILE = "input.txt"
_FIRST, _LAST = 32, 126  # printable ASCII
#: What can be told apart; every other character counts as one more, the number ``len(CHARACTERS)``.
CHARACTERS = "\n" + "".join(map(chr, range(_FIRST, _LAST + 1)))
_OTHER = len(CHARACTERS)
_OTHER_SHOWN = "\N{REPLACEMENT CHARACTER}"


def encode(text: str) -> npt.NDArray[np.int64]:
    """The numbers of a text's characters, shape ``(len(text),)``, from 0 to ``len(CHARACTERS)``."""
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    table = np.full(_LAST + 2, _OTHER, dtype=np.int64)
    table[[ord(character) for character in CHARACTERS]] = np.arange(len(CHARACTERS))
    numbers: npt.NDArray[np.int64] = table[np.minimum(points, _LAST + 1)]
    return numbers


def decode(numbers: npt.ArrayLike) -> str:
    """The text of :func:`encode`'s numbers; a character outside the list is shown as a replacement character."""
    return "".join((CHARACTERS + _OTHER_SHOWN)[number] for number in np.asarray(numbers).ravel())


class SpeakerDataset(InMemoryDataset):
    """Windows of text and who speaks: ``NaturalPartition("speaker")`` makes every speaker a client.

    Args:
        inputs: Characters, int64, shape ``(num_examples, length)``.
        targets: The character after each of them, of the same shape.
        speaker: Name of each window's speaker, shape ``(num_examples,)``.

    Raises:
        ConfigurationError: Lengths differ.

    Example:
        >>> SpeakerDataset(torch.zeros(1, 4), torch.zeros(1, 4), np.array(["JULIET"])).speaker
        array(['JULIET'], dtype='<U6')
    """

    def __init__(self, inputs: torch.Tensor, targets: torch.Tensor, speaker: npt.NDArray[np.str_]) -> None:
        super().__init__(inputs, targets)
        if len(speaker) != len(inputs):
            raise ConfigurationError(f"speaker must have {len(inputs)} entries, got {len(speaker)}")
        self.speaker = speaker


class ShakespeareDataModule(InMemoryDataModule):
    """Windows of the text of every speaker; inputs and targets of shape ``(batch, sequence_length)``.

    What a speaker says, in the order of the plays, is cut into windows that don't overlap; an end too short for a
    window is left out, and so is a speaker without any window. The last windows of every speaker are held out, as by
    McMahan et al., in turn for the test and for validation.

    Args:
        root: Folder that holds ``input.txt``: paragraphs of which the first line names the speaker and ends with a
            colon.
        batch_size: Windows of a training batch.
        eval_batch_size: Windows of a validation or test batch.
        sequence_length: Characters of a window.
        held_out: Share of each speaker's windows, rounded down, that is not trained on, in (0, 1).

    Raises:
        ConfigurationError: The file is missing or has no speakers, or an argument is out of range.

    Example:
        >>> ShakespeareDataModule(root="data/shakespeare", batch_size=10).sequence_length
        80
    """

    num_characters: ClassVar[int] = len(CHARACTERS) + 1

    def __init__(
        self,
        root: str | Path = "data/shakespeare",
        batch_size: int = 64,
        eval_batch_size: int = 512,
        sequence_length: int = 80,
        held_out: float = 0.2,
    ) -> None:
        super().__init__(batch_size, eval_batch_size)
        self.root = Path(root)
        self.sequence_length = positive_int(sequence_length=sequence_length)
        self.held_out = within_open_unit(held_out=held_out)

    @override
    def prepare_data(self) -> None:
        if not (self.root / _FILE).is_file():
            raise ConfigurationError(
                f"data.root={self.root} lacks {_FILE}: fetch data/tinyshakespeare/{_FILE} of "
                "https://github.com/karpathy/char-rnn and set data.root to its folder"
            )

    @override
    def load(self) -> Splits:
        self.prepare_data()
        path = self.root / _FILE
        windows: list[npt.NDArray[np.int64]] = []
        held_out: list[npt.NDArray[np.bool_]] = []
        names: list[str] = []
        for name, text in sorted(_speeches(path).items()):
            numbers = encode(text)
            count = (len(numbers) - 1) // self.sequence_length
            # A window and the character after it, which is the first of the next one.
            starts = np.arange(count)[:, None] * self.sequence_length
            windows.append(numbers[starts + np.arange(self.sequence_length + 1)])
            held_out.append(np.arange(count) >= count - int(self.held_out * count))
            names += [name] * count
        if not names:
            raise ConfigurationError(
                f"{path} has no speaker with sequence_length={self.sequence_length} characters: it must be paragraphs "
                "whose first line names the speaker and ends with a colon"
            )
        everything = torch.from_numpy(np.concatenate(windows))
        speaker = np.array(names)
        aside = np.concatenate(held_out)
        evaluated = np.flatnonzero(aside)

        def part(positions: npt.NDArray[np.int64]) -> SpeakerDataset:
            chosen = everything[torch.from_numpy(positions)]
            return SpeakerDataset(chosen[:, :-1].contiguous(), chosen[:, 1:].contiguous(), speaker[positions])

        val = evaluated[1::2]
        return Splits(
            train=part(np.flatnonzero(~aside)), val=part(val) if len(val) else None, test=part(evaluated[0::2])
        )


def _speeches(path: Path) -> dict[str, str]:
    """All that each speaker says, in order."""
    said: dict[str, list[str]] = {}
    name: str | None = None
    for paragraph in re.split(r"\n\s*\n", path.read_text(encoding="utf-8").strip()):
        first, _, rest = paragraph.partition("\n")
        if first.endswith(":"):
            name, text = first[:-1], rest
        else:  # a pause within a speech
            text = paragraph
        if name is not None and text:
            said.setdefault(name, []).append(text)
    return {speaker: "\n".join(texts) for speaker, texts in said.items()}
