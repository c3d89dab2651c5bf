"""Digits, MNIST and Fashion-MNIST: sizes, scales, files where they lie, errors that name the file."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from lightning_privacy.data import DigitsDataModule, FashionMNISTDataModule, MNISTDataModule
from lightning_privacy.data.idx import read_idx
from lightning_privacy.errors import ConfigurationError

COUNTS = {"train": 50, "t10k": 20}


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def _write(folder, *, compressed):
    """A small data set in the publishers' format; image i has the value i everywhere."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in COUNTS.items():
        images = np.repeat(np.arange(count, dtype=np.uint8), 28 * 28).reshape(count, 28, 28)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
            path = folder / f"{part}-{kind}{'.gz' if compressed else ''}"
            path.write_bytes(gzip.compress(_idx(array)) if compressed else _idx(array))


def _tree(folder):
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("kind", [MNISTDataModule, FashionMNISTDataModule])
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("unpacked", [True, False])
def test_files_are_read_where_they_lie_and_nothing_is_written(tmp_path, kind, compressed, unpacked):
    name = kind.source.__name__
    _write(tmp_path / name / "raw" if unpacked else tmp_path, compressed=compressed)
    before = _tree(tmp_path)
    datamodule = kind(tmp_path, val_size=10)
    datamodule.prepare_data()
    datamodule.setup("fit")
    images, labels = datamodule.splits.train.tensors
    assert images.shape == (50, 1, 28, 28)
    assert labels.tolist() == [index % 10 for index in range(50)]
    expected = torch.arange(50) / 255 * 2 - 1
    torch.testing.assert_close(images[:, 0, 13, 5], expected)
    assert _tree(tmp_path) == before


def test_p33_validation_is_held_out_data_and_disjoint_from_the_test(tmp_path):
    _write(tmp_path, compressed=True)
    splits = MNISTDataModule(tmp_path, val_size=10).splits
    assert splits.val is not None
    values = [(part.tensors[0][:, 0, 0, 0] + 1) * 255 / 2 for part in (splits.val, splits.test)]
    assert sorted(torch.cat(values).round().int().tolist()) == list(range(20))
    assert splits.val.tensors[1].bincount().tolist() == [1] * 10
    assert len(splits.train) == 50


def test_without_validation_the_loader_is_an_empty_list(tmp_path):
    _write(tmp_path, compressed=True)
    datamodule = MNISTDataModule(tmp_path, val_size=0)
    assert datamodule.val_dataloader() == []
    assert len(datamodule.splits.test) == 20


def test_missing_files_are_named(tmp_path):
    _write(tmp_path, compressed=True)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(ConfigurationError, match=r"lacks t10k-labels-idx1-ubyte, and data\.download is false"):
        MNISTDataModule(tmp_path, download=False).prepare_data()


def test_a_download_that_fails_says_what_to_set(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("Error downloading:\nno network")

    monkeypatch.setattr(MNISTDataModule, "source", type("MNIST", (), {"__new__": refuse}))
    with pytest.raises(ConfigurationError, match=r"Error downloading: no network\): set data\.root"):
        MNISTDataModule(tmp_path).prepare_data()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an idx file"),
        (b"<html>not found</html>", "not an idx file"),
        (_idx(np.zeros(4, dtype=np.uint8))[:-1], "has 11 bytes where its header announces 12"),
        (_idx(np.zeros((2, 2), dtype=np.uint8))[:6], "fetch it again"),
        (gzip.compress(_idx(np.zeros(400, dtype=np.uint8)))[:30], "not a complete gzip file"),
    ],
    ids=["empty", "page", "cut data", "cut header", "cut gzip"],  # not the bytes: gzip writes the time into them
)
def test_a_damaged_file_is_named(tmp_path, content, message):
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"train-labels-idx1-ubyte.*{message}"):
        read_idx(path)


def test_digits_are_1437_90_and_270_in_proportion_and_disjoint():
    splits = DigitsDataModule().splits
    parts = [splits.train, splits.val, splits.test]
    assert [len(part) for part in parts] == [1437, 90, 270]
    whole = np.bincount(load_digits().target) / 1797
    for part in parts:
        assert np.abs(part.tensors[1].bincount().numpy() - whole * len(part)).max() < 1
    # No image of the training part appears among the others (the data set has no duplicates).
    rows = torch.cat([part.tensors[0].flatten(1) for part in parts]).numpy()
    assert len(np.unique(rows, axis=0)) == 1797


def test_digits_do_not_depend_on_the_global_seed():
    torch.manual_seed(1)
    first = DigitsDataModule().splits.train.tensors[1]
    torch.manual_seed(2)
    assert torch.equal(first, DigitsDataModule().splits.train.tensors[1])


def test_p33_the_scale_of_digits_is_the_constant_of_the_format():
    """Scaling up is linear and keeps corners, so a corner pixel is the original's over 16, times 2, minus 1."""
    splits = DigitsDataModule(val_size=0).splits
    images = torch.cat([splits.train.tensors[0], splits.test.tensors[0]])
    corners = {round((float(value) + 1) * 8, 4) for value in images[:, 0, 0, 0]}
    assert corners <= {float(value) for value in np.unique(load_digits().data[:, 0])}
    assert float(images.min()) == -1.0
    assert float(images.max()) <= 1.0
