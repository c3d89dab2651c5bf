"""Shakespeare by speaker: windows, speakers, what is held out, and a network that learns from it."""

from __future__ import annotations

import functools
import os
import string
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_privacy._lightning import Trainer
from lightning_privacy.data import ShakespeareDataModule, SpeakerDataset
from lightning_privacy.data.shakespeare import CHARACTERS, decode, encode
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated import NaturalPartition
from lightning_privacy.models import CharGRU, Classifier

REAL = Path(os.environ.get("LIGHTNING_PRIVACY_DATA", Path(__file__).parents[3] / "shared" / "data")) / "shakespeare"


def _write(folder, speeches):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "input.txt").write_text("\n\n".join(f"{name}:\n{text}" for name, text in speeches) + "\n")
    return folder


def _texts(part):
    """Each window of a part with its last target: the characters it was cut from."""
    inputs, targets = part.tensors
    return [decode(first) + decode(last) for first, last in zip(inputs, targets[:, -1:], strict=True)]


def test_every_printable_character_has_a_number_and_all_others_share_one():
    text = string.printable.replace("\t", "").replace("\r", "").replace("\x0b", "").replace("\x0c", "")
    assert sorted(encode(text).tolist()) == list(range(96)) == sorted(encode(CHARACTERS).tolist())
    assert decode(encode(text)) == text
    assert encode("\té\U0001f3ad\x7f\x00").tolist() == [96] * 5
    assert encode("").tolist() == []


def test_p33_the_characters_are_not_those_of_the_text(tmp_path):
    few = ShakespeareDataModule(_write(tmp_path / "few", [("A", "ab" * 50)]), sequence_length=10)
    many = ShakespeareDataModule(_write(tmp_path / "many", [("A", "ab" * 50), ("B", "xyz" * 50)]), sequence_length=10)
    assert few.num_characters == many.num_characters == 97
    assert torch.equal(few.splits.train.tensors[0], many.splits.train.tensors[0][: len(few.splits.train)])


def test_windows_are_what_each_speaker_says_in_order(tmp_path):
    said = {"ROMEO": "abcdefghijklmnopqrstuvwxyz", "JULIET": "0123456789ABCDEFGHIJKLMN"}
    pieces = [
        ("ROMEO", said["ROMEO"][:9]),
        ("JULIET", said["JULIET"][:20]),
        ("ROMEO", said["ROMEO"][9:]),
        ("JULIET", said["JULIET"][20:]),
    ]
    splits = ShakespeareDataModule(_write(tmp_path, pieces), sequence_length=4, held_out=0.5).splits
    assert sorted(set(splits.train.speaker)) == ["JULIET", "ROMEO"]
    for name in said:
        whole = said[name][:9] + "\n" + said[name][9:] if name == "ROMEO" else said[name][:20] + "\n" + said[name][20:]
        windows = [whole[start : start + 5] for start in range(0, len(whole) - 4, 4)]
        found = [
            [text for text, speaker in zip(_texts(part), part.speaker, strict=True) if speaker == name]
            for part in (splits.train, splits.val, splits.test)
        ]
        train = len(windows) - len(windows) // 2
        assert found[0] == windows[:train]
        assert sorted(found[1] + found[2]) == sorted(windows[train:])
    assert abs(len(splits.val) - len(splits.test)) <= 1
    inputs, targets = splits.train.tensors
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert inputs.dtype == targets.dtype == torch.int64


def test_a_speaker_without_a_window_is_left_out_and_a_pause_is_not_a_speaker(tmp_path):
    folder = _write(tmp_path, [("SHORT", "abc"), ("LONG", "first part of it"), ("LONG", "and the rest")])
    path = folder / "input.txt"
    path.write_text(path.read_text() + "\n\nsaid after a pause\n\nSILENT:\n")
    splits = ShakespeareDataModule(folder, sequence_length=5, held_out=0.01).splits
    assert set(splits.train.speaker) == {"LONG"}
    joined = "first part of it\nand the rest\nsaid after a pause"
    assert "".join(text[:-1] for text in _texts(splits.train)) == joined[: len(splits.train) * 5]
    assert splits.val is None


def test_a_speaker_is_a_client(tmp_path):
    folder = _write(tmp_path, [("B", "x" * 41), ("A", "y" * 21), ("B", "z" * 40)])
    datamodule = ShakespeareDataModule(folder, sequence_length=10, batch_size=3, held_out=0.3)
    datamodule.setup("fit")
    train = datamodule.train_dataloader().dataset
    partition = NaturalPartition("speaker").bind(train)
    assert partition.names == ("A", "B")
    parts = partition.split(None, len(train), seed=0)
    assert [set(train.speaker[part]) for part in parts] == [{"A"}, {"B"}]
    inputs, targets = next(iter(datamodule.train_dataloader()))
    assert inputs.shape == targets.shape == (3, 10)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"lacks input\.txt: fetch .* and set data\.root to its folder"):
        ShakespeareDataModule(tmp_path).prepare_data()


@pytest.mark.parametrize("content", ["", "just prose\nof two lines", "A:\nshort"])
def test_a_file_without_speakers_is_named(tmp_path, content):
    (tmp_path / "input.txt").write_text(content)
    with pytest.raises(ConfigurationError, match="has no speaker with sequence_length=80 characters"):
        ShakespeareDataModule(tmp_path).setup("fit")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"sequence_length": 0}, "sequence_length must be"), ({"held_out": 1.0}, "held_out must be")],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        ShakespeareDataModule(**arguments)


def test_speakers_must_be_one_per_window():
    with pytest.raises(ConfigurationError, match="speaker must have 2 entries, got 1"):
        SpeakerDataset(torch.zeros(2, 4), torch.zeros(2, 4), np.array(["A"]))


@pytest.mark.skipif(not (REAL / "input.txt").is_file(), reason=f"{REAL} lacks input.txt")
def test_the_real_plays():
    splits = ShakespeareDataModule(REAL).splits
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [10256, 1218, 1219]
    assert len(set(splits.train.speaker)) == 256
    assert int(max(part.tensors[0].max() for part in (splits.train, splits.val, splits.test))) < 96
    assert decode(splits.train.tensors[0][list(splits.train.speaker).index("JULIET")]).startswith("How now! who calls?")


def test_the_network_sees_only_what_came_before():
    network = CharGRU(num_characters=20, embedding_size=4, hidden_size=8, num_layers=2)
    text = torch.randint(20, (3, 12), generator=torch.Generator().manual_seed(0))
    logits = network(text)
    assert logits.shape == (3, 20, 12)
    changed = text.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 20
    other = network(changed)
    torch.testing.assert_close(other[:, :, :7], logits[:, :, :7])
    assert not torch.allclose(other[:, :, 7], logits[:, :, 7])
    alone = network(text[1:2])
    torch.testing.assert_close(alone, logits[1:2])


def test_the_classifier_gives_one_loss_per_text(monkeypatch):
    adam = functools.partial(torch.optim.Adam, lr=0.01)
    model = Classifier(CharGRU(num_characters=97, hidden_size=8), num_classes=97, optimizer=adam)
    monkeypatch.setattr(model, "log", lambda *args, **kwargs: None)  # there is no trainer
    inputs, targets = torch.randint(97, (2, 5, 6), generator=torch.Generator().manual_seed(0)).unbind(0)
    output = model.training_step((inputs, targets), 0)
    assert output["losses"].shape == (5,)
    expected = torch.nn.functional.cross_entropy(model(inputs), targets)
    torch.testing.assert_close(output["loss"], expected)
    torch.testing.assert_close(output["losses"].mean(), expected)


def test_a_few_epochs_learn_the_next_character(tmp_path):
    folder = _write(tmp_path, [(name, "to be or not to be, " * 40) for name in "ABC"])
    datamodule = ShakespeareDataModule(folder, batch_size=8, sequence_length=20)
    adam = functools.partial(torch.optim.Adam, lr=0.02)
    torch.manual_seed(0)
    model = Classifier(CharGRU(num_characters=97, hidden_size=32), num_classes=97, optimizer=adam)
    trainer = Trainer(
        max_epochs=6,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=datamodule)
    # The most frequent character alone is right for a quarter of the places.
    assert trainer.callback_metrics["val/acc"] > 0.7


@pytest.mark.parametrize("name", ["num_characters", "embedding_size", "hidden_size", "num_layers"])
def test_sizes_of_the_network_are_checked(name):
    with pytest.raises(ConfigurationError, match=f"{name} must be"):
        CharGRU(**{"num_characters": 5, name: 0})
