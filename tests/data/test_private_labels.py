"""Randomised labels of a data set: once, the same for everyone and after a resume, and paid for."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import warnings
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from lightning_privacy.accounting import PrivacyLedger, RandomizedResponseRelease
from lightning_privacy.data.in_memory import InMemoryDataset, collate
from lightning_privacy.data.private_labels import PrivateLabels
from lightning_privacy.errors import (
    CheckpointError,
    ConfigurationError,
    PrivacyBudgetExceeded,
    PrivacyViolation,
    UnsupportedError,
)
from lightning_privacy.mechanisms import ForwardCorrection, NoiseSource, SeededNoiseWarning
from lightning_privacy.sampling import resample

COUNT, CLASSES = 600, 4
TRUE = torch.arange(COUNT) % CLASSES
INPUTS = torch.arange(COUNT, dtype=torch.float32).reshape(COUNT, 1)
Batch = namedtuple("Batch", ["inputs", "labels", "groups"])


class Examples(Dataset):
    """A data set of examples of any form."""

    def __init__(self, make):
        self._make = make

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return self._make(index)


def private(dataset=None, epsilon=1.0, ledger=None, **options):
    return PrivateLabels(
        TensorDataset(INPUTS, TRUE) if dataset is None else dataset, CLASSES, epsilon, ledger, **options
    )


def seeded(seed=1):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeededNoiseWarning)
        return NoiseSource(seed=seed)


def epoch(dataset, **options):
    batches = list(DataLoader(dataset, batch_size=50, **options))
    return torch.cat([batch[0] for batch in batches]), torch.cat([batch[1] for batch in batches])


def test_p16_labels_are_the_same_in_every_epoch_and_worker():
    dataset = private()
    inputs, labels = epoch(dataset)
    assert torch.equal(inputs, INPUTS)
    assert torch.equal(labels, dataset.labels)
    assert torch.equal(epoch(dataset)[1], labels)
    assert torch.equal(epoch(dataset, num_workers=2)[1], labels)
    assert torch.equal(torch.stack([pickle.loads(pickle.dumps(dataset))[i][1] for i in range(COUNT)]), labels)
    # Of a uniform label with epsilon 1 in four classes, 0.475 stay: 5 standard errors are 0.1.
    assert 0.37 < (labels == TRUE).float().mean() < 0.58
    assert not torch.equal(private().labels, labels)


def test_they_are_charged_once_for_all_and_what_they_do_not_cover_is_told():
    ledger = PrivacyLedger(delta=1e-6)
    dataset = private(ledger=ledger)
    for _ in range(2):
        epoch(dataset)
    ((release, count, label),) = ledger.history
    assert (release, count) == (RandomizedResponseRelease(1.0, CLASSES), 1)
    assert label.startswith("labels ")
    assert ledger.replace_one_epsilon() == pytest.approx(1.0, abs=1e-3)
    assert "not the inputs beside them" in ledger.caveats[0]


def test_p25_a_seed_is_told_and_repeats_the_labels():
    ledgers = [PrivacyLedger(delta=1e-6) for _ in range(2)]
    one, two = (private(ledger=ledger, noise=seeded()) for ledger in ledgers)
    assert torch.equal(one.labels, two.labels)
    assert ledgers[0].history == ledgers[1].history
    assert any("NOT PRIVATE" in caveat for caveat in ledgers[0].caveats)


def test_p30_without_a_budget_there_is_no_data_set():
    ledger = PrivacyLedger(delta=1e-6, budget=0.1)
    with pytest.raises(PrivacyBudgetExceeded):
        private(ledger=ledger)
    assert ledger.groups == ()


def through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("restore_ledger", [False, True], ids=["ledger made anew", "ledger restored"])
def test_p26_a_resumed_run_has_the_labels_of_the_first_and_pays_once(restore_ledger):
    first_ledger = PrivacyLedger(delta=1e-6)
    first = private(ledger=first_ledger)
    saved = through_a_file({"data": first.state_dict(), "ledger": first_ledger.state_dict()})
    ledger = PrivacyLedger(delta=1e-6)
    resumed = private(ledger=ledger)
    # As Lightning does it: the DataModule first, then the callbacks.
    resumed.load_state_dict(saved["data"])
    if restore_ledger:
        ledger.load_state_dict(saved["ledger"])
    assert torch.equal(epoch(resumed)[1], first.labels)
    assert ledger.count(RandomizedResponseRelease(1.0, CLASSES)) == 1
    # And again from there.
    third = private(ledger=PrivacyLedger(delta=1e-6))
    third.load_state_dict(through_a_file(resumed.state_dict()))
    assert torch.equal(third.labels, first.labels)


def test_p26_labels_drawn_anew_beside_a_restored_ledger_are_refused():
    first_ledger = PrivacyLedger(delta=1e-6)
    private(ledger=first_ledger)
    ledger = PrivacyLedger(delta=1e-6)
    resumed = private(ledger=ledger)
    ledger.load_state_dict(first_ledger.state_dict())
    for use in (lambda: resumed[0], lambda: resumed.labels, lambda: resumed.state_dict(), lambda: epoch(resumed)):
        with pytest.raises(PrivacyViolation, match="randomised anew, and the ledger, restored from a checkpoint"):
            use()


@pytest.mark.parametrize(
    "use",
    [lambda dataset: dataset[0], lambda dataset: dataset.labels, lambda dataset: epoch(dataset, num_workers=1)],
    ids=["example", "labels", "workers"],
)
def test_p26_two_sets_of_labels_that_were_used_are_charged_twice(use):
    state = private().state_dict()
    ledger = PrivacyLedger(delta=1e-6)
    dataset = private(ledger=ledger)
    use(dataset)
    dataset.load_state_dict(state)
    assert ledger.count(RandomizedResponseRelease(1.0, CLASSES)) == 2
    assert torch.equal(dataset.labels, state["labels"])
    dataset.load_state_dict(state)
    assert ledger.count(RandomizedResponseRelease(1.0, CLASSES)) == 2


def test_p30_a_second_set_that_the_budget_does_not_cover_changes_nothing():
    dataset = private(ledger=PrivacyLedger(delta=1e-6, budget=1.0))
    before = dataset.labels.clone()
    with pytest.raises(PrivacyBudgetExceeded):
        dataset.load_state_dict(private().state_dict())
    assert torch.equal(dataset.labels, before)


@pytest.mark.parametrize(
    ("make", "place", "kind"),
    [
        (lambda i: (INPUTS[i], i % CLASSES), 1, int),
        (lambda i: [INPUTS[i], np.int16(i % CLASSES), "x"], -2, np.int16),
        (lambda i: Batch(INPUTS[i], TRUE[i].to(torch.int32), i), "labels", torch.Tensor),
        (lambda i: Batch(INPUTS[i], TRUE[i], i), 1, torch.Tensor),
        (lambda i: {"x": INPUTS[i], "y": np.array(i % CLASSES)}, "y", np.integer),
    ],
    ids=["tuple", "list", "named tuple by name", "named tuple by place", "mapping"],
)
def test_examples_keep_their_form(make, place, kind):
    dataset = private(Examples(make), label=place, epsilon=50.0)
    for index in (0, 7):
        example, original = dataset[index], make(index)
        assert type(example) is type(original)
        key = list(original) if isinstance(original, dict) else range(len(original))
        for name in key:
            assert type(example[name]) in (type(original[name]), np.int64), name
            assert example[name] == original[name]
        got = example[place] if not isinstance(place, str) or isinstance(example, dict) else getattr(example, place)
        assert isinstance(got, kind)
    assert dataset.__getitems__([3, 5])[1] == dataset[5]


def test_batches_are_gathered_where_the_data_set_does_so():
    dataset = private(InMemoryDataset(INPUTS, TRUE, TRUE + 1))
    inputs, labels, groups = next(iter(DataLoader(dataset, batch_size=COUNT, collate_fn=collate)))
    assert torch.equal(inputs, INPUTS)
    assert torch.equal(groups, TRUE + 1)
    assert torch.equal(labels, dataset.labels)
    assert not torch.equal(labels, TRUE)


def test_labels_that_are_given_are_not_read():
    def make(index):
        raise AssertionError("read")

    assert len(private(Examples(make), labels=TRUE.tolist()).labels) == COUNT


def test_its_correction_is_of_its_noise():
    correction = private(epsilon=2.5).correction()
    assert isinstance(correction, ForwardCorrection)
    assert (correction.num_classes, correction.epsilon) == (CLASSES, 2.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": TensorDataset(INPUTS[:0], TRUE[:0])}, "dataset must not be empty"),
        ({"dataset": TensorDataset(INPUTS, TRUE + 1)}, r"labels must be whole numbers in \[0, 4\), and some are not"),
        ({"dataset": TensorDataset(INPUTS, INPUTS)}, r"labels must be one-dimensional.*\(600, 1\)"),
        ({"dataset": TensorDataset(INPUTS, INPUTS[:, 0])}, "labels must be whole numbers, got float32"),
        ({"dataset": Examples(lambda i: (i, 0.5))}, "the label of an example must be one whole number, got float"),
        ({"dataset": Examples(lambda i: (i,))}, "label must be a position or a name in an example, got 1 and a tuple"),
        ({"dataset": Examples(lambda i: {"a": 1}), "label": "b"}, "got 'b' and a dict"),
        ({"label": None}, "label must be a position or a name in an example, got None"),
        ({"labels": [0, 1]}, "labels must be one for each of the 600 examples"),
        ({"labels": 3}, "labels must be one for each of the 600 examples"),
        ({"epsilon": 0.0}, "epsilon must be a finite number > 0, got 0.0"),
        ({"noise": 3}, "noise must be a NoiseSource or None, got 3"),
    ],
)
def test_bad_arguments_are_named_and_nothing_is_charged(options, message):
    ledger = PrivacyLedger(delta=1e-6)
    with pytest.raises(ConfigurationError, match=message):
        private(ledger=ledger, **options)
    assert ledger.groups == ()
    assert ledger.caveats == ()


def _twice(data):
    """Ways to have an example of ``data`` twice, through whatever data sets."""

    class Turned(Dataset):
        """Changes the examples of another data set."""

        def __init__(self, dataset):
            self.dataset = dataset

        def __len__(self):
            return len(self.dataset)

        def __getitem__(self, index):
            image, label = self.dataset[index]
            return -image, label

    part = Subset(data, [3, 4, 5])
    parts = TensorDataset(*(tensor[:10] for tensor in data.tensors)), TensorDataset(*(t[9:] for t in data.tensors))
    return {
        "inside": Subset(Subset(data, [0, 1, 1]), [1, 2]),
        "outside": Subset(Subset(data, [0, 1, 2]), [1, 1]),
        "from the end": Subset(data, [0, len(data) - 1, -1]),
        "added": data + data,
        "overlap": ConcatDataset([Subset(data, [0, 1]), Subset(part, [0]), Subset(data, [3])]),
        "part of a sum": Subset(ConcatDataset([data, part]), [4, len(data) + 1]),
        "turned": ConcatDataset([data, Turned(data)]),
        "another object": ConcatDataset([data, TensorDataset(*data.tensors)]),
        "slices": ConcatDataset(parts),
        "labels of others": ConcatDataset([data, TensorDataset(data.tensors[0].clone(), data.tensors[1])]),
    }


@pytest.mark.parametrize("name", list(_twice(TensorDataset(INPUTS, TRUE))))
def test_p34_an_example_that_is_twice_somewhere_inside_is_refused(name):
    """It would have two answers about its label, and one charge."""
    ledger = PrivacyLedger(delta=1e-6)
    with pytest.raises(UnsupportedError, match="examples repeat"):
        private(_twice(TensorDataset(INPUTS, TRUE))[name], ledger=ledger)
    assert ledger.groups == ()


def test_data_sets_around_others_are_taken_where_nothing_repeats():
    data = TensorDataset(INPUTS, TRUE)
    half = len(data) // 2
    parts = Subset(data, range(half)), Subset(Subset(data, range(half, len(data))), list(range(len(data) - half)))
    whole = ConcatDataset([ConcatDataset(parts), TensorDataset(INPUTS.clone(), TRUE.clone())])
    dataset = private(whole)
    assert len(dataset) == 2 * len(data)
    assert torch.equal(dataset[half + 1][0], INPUTS[half + 1])
    with pytest.raises(UnsupportedError, match="examples repeat"):
        dataset.around(ConcatDataset([data, data]))


def test_p34_data_in_which_examples_repeat_are_refused():
    repeats = Subset(TensorDataset(INPUTS, TRUE), [0, 1, 1, 2])
    resampled = resample(TensorDataset(INPUTS, TRUE), labels=TRUE, replacement=True)
    for dataset in (repeats, resampled):
        with pytest.raises(UnsupportedError, match="examples repeat, and each copy would be a further answer"):
            private(dataset)
    assert len(private(Subset(TensorDataset(INPUTS, TRUE), [0, 1, 5])).labels) == 3


SCRIPT = """
import json, sys
from datetime import timedelta
import torch
from torch import distributed
from torch.utils.data import TensorDataset
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.data.private_labels import PrivateLabels
from lightning_privacy.errors import UnsupportedError

rank, store, output = int(sys.argv[1]), sys.argv[2], sys.argv[3]
ledger, dataset, report = PrivacyLedger(delta=1e-6), TensorDataset(torch.zeros(600, 1), torch.arange(600) % 4), {}
try:
    PrivateLabels(dataset, 4, 1.0, ledger)
except UnsupportedError as error:
    report["refused"] = str(error)
report["charged"] = len(ledger.groups)
distributed.init_process_group(
    "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=60)
)
private = PrivateLabels(dataset, 4, 1.0, ledger)
report["labels"] = private.labels.tolist()
report["history"] = [[count, label] for _, count, label in ledger.history]
with open(output, "w") as file:
    json.dump(report, file)
distributed.barrier()
distributed.destroy_process_group()
"""


def test_p19_several_processes_have_the_same_labels(tmp_path):
    outputs = [tmp_path / f"{rank}.json" for rank in (0, 1)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(rank), str(tmp_path / "store"), str(output)],
            env=os.environ | {"WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
        )
        for rank, output in enumerate(outputs)
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    one, two = (json.loads(output.read_text()) for output in outputs)
    for report in (one, two):
        assert "several processes that are not connected yet" in report["refused"]
        assert report["charged"] == 0
    assert one["labels"] == two["labels"] != TRUE.tolist()
    assert one["history"] == two["history"]
    assert one["history"][0][0] == 1


@pytest.mark.parametrize("known", [False, True], ids=["ledger made anew", "ledger restored"])
def test_p26_labels_of_an_earlier_run_are_taken_over_without_drawing(known):
    before = PrivacyLedger(delta=1e-6)
    first = private(ledger=before)
    ledger = PrivacyLedger(delta=1e-6)
    if known:
        ledger.load_state_dict(before.state_dict())
    dataset = private(ledger=ledger, state=through_a_file(first.state_dict()))
    assert torch.equal(dataset.labels, first.labels)
    assert ledger.history == before.history
    with pytest.raises(CheckpointError, match="drawn with"):
        private(epsilon=2.0, state=first.state_dict())
    with pytest.raises(PrivacyBudgetExceeded):
        private(ledger=PrivacyLedger(delta=1e-6, budget=0.1), state=first.state_dict())


def test_the_same_labels_around_data_loaded_anew():
    dataset = private()
    other = dataset.around(TensorDataset(INPUTS + 1, TRUE))
    assert other[3][0] == 4
    assert torch.equal(other.labels, dataset.labels)
    assert dataset[3][0] == 3
    with pytest.raises(ConfigurationError, match="dataset must have 600 examples, got 3"):
        dataset.around(TensorDataset(INPUTS[:3], TRUE[:3]))


def test_a_ledger_that_is_none_is_named():
    with pytest.raises(ConfigurationError, match="ledger must be a PrivacyLedger or None, got 3"):
        private(ledger=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "must hold int64 labels of 600 examples, got None"),
        ({"labels": TRUE[1:]}, "must hold int64 labels of 600 examples"),
        ({"labels": TRUE + 1}, r"labels must be in \[0, 4\)"),
        ({"epsilon": 2.0}, r"drawn with \(num_classes, epsilon\) = \(4, 2.0\), these with \(4, 1.0\)"),
        ({"num_classes": None}, r"\(None, 1.0\)"),
        ({"receipt": 5}, "what the ledger calls the labels, got 5"),
    ],
)
def test_a_state_of_something_else_is_refused(change, message):
    dataset = private()
    before = dataset.labels.clone()
    with pytest.raises(CheckpointError, match=message):
        dataset.load_state_dict(private().state_dict() | change)
    assert torch.equal(dataset.labels, before)
