"""Clients that come with the data: by ids, by a column, by a function, from a file."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from lightning_privacy.data import InMemoryDataset
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.labels import column_of, labels_of
from lightning_privacy.federated.partitions import FilePartition, NaturalPartition, ShardPartition

WHO = ["b", "a", "b", "c", "a", "b"]


def _lists(parts):
    return [part.tolist() for part in parts]


class Items(Dataset):
    """A data set of whatever items it is given, with attributes."""

    def __init__(self, items, **attributes):
        self.items = items
        self.__dict__.update(attributes)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Column:
    """What a pandas column is to NumPy: values of dtype object behind to_numpy."""

    def to_numpy(self):
        return np.array(WHO, dtype=object)


@dataclass
class Frame:
    """What a table of pandas or of Hugging Face is here: column names, and a column by name."""

    columns: tuple[str, ...] = ("who",)

    def __len__(self):
        return len(WHO)

    def __getitem__(self, name):
        assert name == "who", "no row is read where the column can be had"
        return Column()


@pytest.mark.parametrize(
    "ids",
    [WHO, tuple(WHO), np.array(WHO), np.array(WHO, dtype=object), Column()],
    ids=["list", "tuple", "array", "objects", "column"],
)
def test_ids_in_any_form(ids):
    partition = NaturalPartition(ids)
    assert partition.num_clients == 3
    assert partition.names == ("a", "b", "c")
    assert _lists(partition.split(None, 6, seed=0)) == [[1, 4], [0, 2, 5], [3]]
    assert partition.describe() == NaturalPartition(WHO).describe()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-5, 20), min_size=1, max_size=60), st.integers(1, 4))
def test_a_client_is_who_has_an_id_and_enough_examples(ids, least):
    expected = {
        name: [index for index, value in enumerate(ids) if value == name]
        for name in sorted(set(ids))
        if ids.count(name) >= least
    }
    if not expected:
        with pytest.raises(ConfigurationError, match="min_examples must be at most"):
            NaturalPartition(torch.tensor(ids), min_examples=least)
        return
    partition = NaturalPartition(torch.tensor(ids), min_examples=least)
    assert partition.names == tuple(map(str, expected))
    assert _lists(partition.split(None, len(ids), seed=0)) == list(expected.values())


@pytest.mark.parametrize(
    "dataset",
    [
        Items([0] * 6, who=WHO),
        Items([{"who": name, "x": 1.0} for name in WHO]),
        Items([SimpleNamespace(who=name) for name in WHO]),
        Frame(),
        Subset(Items([0] * 8, who=["z", *WHO, "z"]), range(1, 7)),
        ConcatDataset([Items([0] * 2, who=WHO[:2]), Items([{"who": name} for name in WHO[2:]])]),
    ],
    ids=["attribute", "entry", "attribute of items", "table", "subset", "concatenation"],
)
def test_ids_by_the_name_of_a_column(dataset):
    unbound = NaturalPartition("who")
    bound = unbound.bind(dataset)
    assert bound.describe() == NaturalPartition(WHO).describe()
    with pytest.raises(ConfigurationError, match=r"ids='who' must be read from a data set.*bind\(dataset\)"):
        unbound.num_clients  # noqa: B018


def test_ids_by_a_function_of_an_item():
    dataset = TensorDataset(torch.arange(6.0), torch.tensor([4, 3, 4, 9, 3, 4]))
    bound = NaturalPartition(lambda item: item[1] % 2, min_examples=2).bind(dataset)
    assert bound.min_examples == 2
    assert bound.names == ("0", "1")
    assert _lists(bound.split(None, 6, seed=0)) == [[0, 2, 5], [1, 3, 4]]
    with pytest.raises(ConfigurationError, match="must be read from a data set"):
        NaturalPartition(len).split(None, 6, seed=0)


def test_what_a_checkpoint_keeps_tells_ids_apart_and_not_their_form(tmp_path):
    description = NaturalPartition([1, 1, 2]).describe()
    torch.save(description, tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == description
    assert NaturalPartition(torch.tensor([1, 1, 2])).describe() == description
    for other in ([1, 2, 2], [1, 1, 3], [1, 1, 2, 2]):
        assert NaturalPartition(other).describe() != description
    assert pickle.loads(pickle.dumps(NaturalPartition([1, 1, 2]))).describe() == description


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2, None], "ids must have a value for each example"),
        ([1.0, float("nan")], "ids must have a value for each example"),
        (["a", "", "b"], r"ids must not be empty, got '' for 1 \(the first at position 1\)"),
        (["a", 1], "ids must be all numbers or all texts"),
        (np.zeros((3, 2), dtype=int), r"ids must be one per example.*got shape \(3, 2\)"),
        ([], "ids must"),
    ],
    ids=["none", "nan", "empty", "mixed", "table", "no example"],
)
def test_ids_that_are_none(ids, message):
    with pytest.raises(ConfigurationError, match=message):
        NaturalPartition(ids)


def test_ids_of_the_wrong_length():
    with pytest.raises(ConfigurationError, match="ids must be one per example, 7, got 6"):
        NaturalPartition(WHO).split(None, 7, seed=0)
    with pytest.raises(ConfigurationError, match="ids must be one per example, 2, got 6"):
        NaturalPartition(WHO).split(None, 2, seed=0)


@pytest.mark.parametrize("dataset", [TensorDataset(torch.zeros(3)), Items([{"x": 1}])], ids=["tensors", "entries"])
def test_a_column_that_is_not_there(dataset):
    with pytest.raises(ConfigurationError, match=r"ids='speaker' was found neither as a column of the .* nor in all"):
        NaturalPartition("speaker").bind(dataset)


@pytest.mark.parametrize(
    "dataset",
    [
        Items([0, 0, 0], targets=[3, 1, 2]),
        Items([0, 0, 0], labels=torch.tensor([3, 1, 2])),
        Items([0, 0, 0], targets=[1, 2], labels=np.array([3, 1, 2])),
        TensorDataset(torch.zeros(3, 2), torch.tensor([3, 1, 2])),
        InMemoryDataset(torch.zeros(3, 2), torch.tensor([3, 1, 2])),
        Subset(TensorDataset(torch.zeros(4, 2), torch.tensor([2, 1, 9, 3])), [3, 1, 0]),
        Subset(
            Subset(TensorDataset(torch.zeros(4, 2), torch.tensor([2, 1, 9, 3])), [0, 1, 3]), torch.tensor([2, 1, 0])
        ),
        ConcatDataset([Items([0], targets=[3]), TensorDataset(torch.zeros(2), torch.tensor([1, 2]))]),
    ],
    ids=[
        "targets",
        "labels",
        "the right length",
        "tensors",
        "in memory",
        "subset",
        "subset of subset",
        "concatenation",
    ],
)
def test_labels_are_found(dataset):
    assert labels_of(dataset).tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    "dataset",
    [
        Items([0, 0]),
        TensorDataset(torch.tensor([1, 2])),
        TensorDataset(torch.zeros(2), torch.zeros(2)),
        TensorDataset(torch.zeros(2), torch.zeros(2, 3, dtype=torch.int64)),
        TensorDataset(torch.zeros(2), torch.tensor([0, 1]), torch.tensor([5, 6])),
        Subset(Items([0, 0]), [1]),
        ConcatDataset([Items([0, 0]), Items([0], targets=[3])]),
    ],
    ids=["none", "inputs alone", "real", "several", "three", "subset", "half"],
)
def test_labels_that_are_missing_are_asked_for(dataset):
    with pytest.raises(ConfigurationError, match=r"labels were not found in the .* pass them as labels= .*'targets'"):
        labels_of(dataset)


def test_a_partition_by_labels_takes_them_from_where_it_is_told():
    labels = [0, 1, 0, 2, 1, 0]
    dataset = Items([{"kind": label} for label in labels], targets=[9] * 6)
    expected = _lists(ShardPartition(3, 1).split(labels, 6, seed=0))
    for source in (labels, torch.tensor(labels), "kind", lambda item: item["kind"]):
        partition = ShardPartition(3, 1, labels=source)
        assert not partition.needs_labels
        assert partition.describe() == ShardPartition(3, 1).describe()
        assert _lists(partition.bind(dataset).split(None, 6, seed=0)) == expected
    assert ShardPartition(3, 1).bind(dataset).needs_labels
    with pytest.raises(ConfigurationError, match=r"labels='kind' must be read from a data set.*bind\(dataset\)"):
        ShardPartition(3, 1, labels="kind").split(None, 6, seed=0)
    with pytest.raises(ConfigurationError, match=r"labels='colour' was found neither as a column of the Items nor"):
        ShardPartition(3, 1, labels="colour").bind(dataset)


def test_reading_a_column_loads_no_example():
    class Lazy(Items):
        def __getitem__(self, index):
            raise AssertionError("an example was loaded")

    dataset = Lazy([0] * 6, who=WHO, targets=list(range(6)))
    assert column_of(Subset(dataset, [1, 0]), "who").tolist() == ["a", "b"]
    assert labels_of(dataset).tolist() == list(range(6))


CLIENTS = {"anna": [2, 0], "ben": [1], "cleo": [5, 3, 4]}


def _write(path, clients):
    if path.suffix == ".json":
        path.write_text(json.dumps(clients))
    elif path.suffix == ".npz":
        np.savez(path, **{name: np.array(indices) for name, indices in clients.items()})
    else:
        rows = [f"{name},{index}" for name, indices in clients.items() for index in indices]
        path.write_text("\n".join(["client,index", *rows]))
    return path


@pytest.mark.parametrize("ending", ["json", "npz", "csv"])
def test_clients_from_a_file(tmp_path, ending):
    partition = FilePartition(_write(tmp_path / f"clients.{ending}", CLIENTS))
    assert partition.num_clients == 3
    assert partition.names == ("anna", "ben", "cleo")
    assert _lists(partition.split(None, 6, seed=0)) == [[0, 2], [1], [3, 4, 5]]
    # Neither the place of the file nor its format matters to who may resume.
    other = FilePartition(_write(tmp_path / "other.json", CLIENTS))
    assert partition.describe() == other.describe()
    moved = FilePartition(_write(tmp_path / "moved.json", {**CLIENTS, "anna": [2], "ben": [1, 0]}))
    assert moved.describe() != partition.describe()


def test_clients_as_a_list_of_lists(tmp_path):
    (tmp_path / "clients.json").write_text("[[2, 0], [1]]")
    partition = FilePartition(str(tmp_path / "clients.json"))
    assert partition.names == ("0", "1")
    assert _lists(partition.split(None, 3, seed=0)) == [[0, 2], [1]]


def test_examples_a_file_leaves_out(tmp_path):
    path = _write(tmp_path / "clients.json", CLIENTS)
    with pytest.raises(ConfigurationError, match="lists 6 of the 9 examples: pass cover=False"):
        FilePartition(path).split(None, 9, seed=0)
    assert _lists(FilePartition(path, cover=False).split(None, 9, seed=0)) == [[0, 2], [1], [3, 4, 5]]
    with pytest.raises(ConfigurationError, match="lists index 5, and the data set has 5 examples"):
        FilePartition(path, cover=False).split(None, 5, seed=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.txt", "", r"path must end with one of \.json, \.npz, \.csv, got"),
        ("c.json", "{", r"could not be read as \.json"),
        ("c.json", "7", "neither an object of clients nor a list of lists"),
        ("c.json", "{}", "must list each client once, got none"),
        ("c.json", '{"a": [0], "a": [1]}', r"must list each client once, got \['a'\]"),
        ("c.json", '{"a": [0], "b": []}', r"must list at least one index for client b, got \[\]"),
        ("c.json", '{"a": [0, -1]}', "must list whole numbers >= 0 for client a"),
        ("c.json", '{"a": [0.5]}', "must list whole numbers >= 0 for client a"),
        ("c.json", '{"a": ["x"]}', "must list whole numbers >= 0 for client a"),
        ("c.json", '{"a": [[0]]}', "at least one index for client a"),
        ("c.json", '{"a": {"b": 1}}', "client a"),
        ("c.json", '{"a": [0, 1], "b": [1]}', "must list an index once, got 1 2 times"),
        ("c.csv", "who,index\na,1\n", r"could not be read as \.csv: 'client'"),
        ("c.csv", "client,index\na,one\n", r"could not be read as \.csv"),
        ("c.csv", "client,index\na\n", r"could not be read as \.csv"),
        ("c.npz", "no archive", r"could not be read as \.npz"),
    ],
)
def test_a_file_that_is_none(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        FilePartition(tmp_path / name)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(ConfigurationError, match=r"clients\.json is not a file"):
        FilePartition(tmp_path / "clients.json")


def test_a_file_with_code_in_it_is_not_run(tmp_path):
    np.savez(tmp_path / "c.npz", a=np.array([print], dtype=object))
    with pytest.raises(ConfigurationError, match=r"could not be read as \.npz"):
        FilePartition(tmp_path / "c.npz")
