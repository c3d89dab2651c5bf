"""Partitions: a pure function of labels, seed and parameters; everyone's examples are theirs alone.

Statistical checks run on fixed seeds, so their outcome is fixed; ``ERROR`` is the probability with which one named
check would fail for a fresh seed.
"""

from __future__ import annotations

import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.federated.partitions import (
    DirichletPartition,
    IIDPartition,
    NaturalPartition,
    QuantityPartition,
    ShardPartition,
    fingerprint,
)
from lightning_privacy.federated.partitions._minimum import fill_up

ERROR = 1e-6
LABELS = np.arange(600) % 10
MAKERS = {
    "iid": IIDPartition,
    "dirichlet": lambda clients: DirichletPartition(clients, alpha=0.3),
    "dirichlet equal": lambda clients: DirichletPartition(clients, alpha=0.3, equal_sizes=True),
    "shards": lambda clients: ShardPartition(clients, shards_per_client=1),
    "quantity": lambda clients: QuantityPartition(clients, alpha=0.3),
}
every_kind = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def _check_cover(parts, num_examples):
    """Every example has one client; every client has examples, in increasing order."""
    assert sorted(np.concatenate(parts).tolist()) == list(range(num_examples))
    for part in parts:
        assert part.dtype == np.int64
        assert len(part) > 0
        assert (np.diff(part) > 0).all()


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(sorted(MAKERS)),
    labels=st.lists(st.integers(-2, 5), min_size=1, max_size=60),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**70),
)
def test_clients_are_disjoint_and_cover_the_data(kind, labels, share, seed):
    num_clients = 1 + int(share * (len(labels) - 1))
    parts = MAKERS[kind](num_clients).split(labels, len(labels), seed)
    assert len(parts) == num_clients
    _check_cover(parts, len(labels))


@settings(max_examples=100, deadline=None)
@given(
    alpha=st.floats(1e-4, 1e6),
    num_clients=st.integers(1, 20),
    min_examples=st.integers(1, 5),
    extra=st.integers(0, 50),
    quantity=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_every_client_has_the_minimum(alpha, num_clients, min_examples, extra, quantity, seed):
    num_examples = num_clients * min_examples + extra
    kind = QuantityPartition if quantity else DirichletPartition
    parts = kind(num_clients, alpha=alpha, min_examples=min_examples).split(
        np.arange(num_examples) % 3, num_examples, seed
    )
    _check_cover(parts, num_examples)
    assert min(map(len, parts)) >= min_examples


@pytest.mark.parametrize("kind", [DirichletPartition, QuantityPartition])
def test_a_minimum_that_holds_already_changes_nothing(kind):
    without = kind(5, alpha=5.0).split(LABELS, 600, seed=1)
    least = min(map(len, without))
    assert fingerprint(kind(5, alpha=5.0, min_examples=least).split(LABELS, 600, seed=1)) == fingerprint(without)


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=12), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_the_minimum_is_taken_from_the_largest_clients_and_from_them_alone(sizes, share, seed):
    old = np.array(sizes)
    least = int(share * (old.sum() // len(old)))
    before = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(old)), old))
    after = fill_up(before, len(old), least, np.random.default_rng(seed))
    new = np.bincount(after, minlength=len(old))
    assert (new[old < least] == least).all()
    gave = new < old
    assert not (new > old)[old >= least].any()
    if gave.any():  # the givers are left at one level, give or take one, which no one else is above
        level = new[gave].min()
        assert level >= least
        assert (new <= level + 1).all()
    # Whoever did not give has kept every example.
    assert (after == before)[~gave[before]].all()
    assert fingerprint([after]) == fingerprint([fill_up(before, len(old), least, np.random.default_rng(seed))])


@every_kind
def test_equal_arguments_give_equal_clients_and_another_seed_others(make):
    first = fingerprint(make(7).split(LABELS, 600, seed=5))
    assert fingerprint(make(7).split(LABELS, 600, seed=5)) == first
    assert fingerprint(make(7).split(LABELS.tolist(), 600, seed=5)) == first
    assert fingerprint(make(7).split(torch.from_numpy(LABELS), 600, seed=5)) == first
    assert fingerprint(make(7).split(LABELS, 600, seed=6)) != first


@every_kind
def test_p40_no_global_generator_is_read_or_touched(make):
    first = fingerprint(make(7).split(LABELS, 600, seed=5))
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    before = (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate())
    assert fingerprint(make(7).split(LABELS, 600, seed=5)) == first
    assert (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()) == before


def test_another_process_finds_the_same_clients():
    """Hash seeds and memory addresses are others there, as on another machine."""
    code = (
        "import numpy as np; from lightning_privacy.federated.partitions import *\n"
        "labels = np.arange(600) % 10\n"
        "for kind in (IIDPartition(7), DirichletPartition(7, 0.3), ShardPartition(7), QuantityPartition(7, 0.3)):\n"
        "    print(fingerprint(kind.split(labels, 600, seed=5)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kinds = (IIDPartition(7), DirichletPartition(7, 0.3), ShardPartition(7), QuantityPartition(7, 0.3))
    assert run.stdout.split() == [fingerprint(kind.split(LABELS, 600, seed=5)) for kind in kinds]


@every_kind
def test_what_a_checkpoint_keeps_is_plain(tmp_path, make):
    description = make(np.int64(7)).describe()
    torch.save(description, tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == description == make(7).describe()
    assert all(type(value) in (str, int, float, bool) for value in description.values())
    assert pickle.loads(pickle.dumps(make(7))) == make(7)


def test_kinds_and_parameters_tell_partitions_apart():
    kinds = [
        IIDPartition(4),
        IIDPartition(5),
        DirichletPartition(4, 0.3),
        DirichletPartition(4, 0.4),
        DirichletPartition(4, 0.3, min_examples=2),
        DirichletPartition(4, 0.3, equal_sizes=True),
        ShardPartition(4),
        ShardPartition(4, 3),
        QuantityPartition(4, 0.3),
        NaturalPartition([0, 1, 2, 3]),
        NaturalPartition([0, 1, 3, 2]),
    ]
    descriptions = [str(kind.describe()) for kind in kinds]
    assert len(set(descriptions)) == len(kinds)


def test_fingerprints_tell_assignments_apart():
    base = [np.array([0, 1]), np.array([2])]
    others = [
        [np.array([0]), np.array([1, 2])],
        [np.array([2]), np.array([0, 1])],
        [np.array([0, 1]), np.array([3])],
        [np.array([0, 1, 2])],
    ]
    assert len({fingerprint(parts) for parts in (base, *others)}) == 5
    assert fingerprint([part.astype(np.int32) for part in base]) == fingerprint(base)


def test_iid_sizes_differ_by_one_and_labels_are_those_of_the_whole():
    parts = IIDPartition(7).split(None, 6000, seed=0)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    table = np.array([np.bincount(part % 10, minlength=10) for part in parts])
    assert stats.chi2_contingency(table).pvalue > ERROR


def _shares(alpha, seeds, num_clients, num_classes, count):
    """Share of each client in each class, shape (seeds, classes, clients), without the rounding's dependence."""
    labels = np.repeat(np.arange(num_classes), count)
    shares = np.zeros((seeds, num_classes, num_clients))
    for seed in range(seeds):
        parts = DirichletPartition(num_clients, alpha=alpha).split(labels, len(labels), seed)
        for client, part in enumerate(parts):
            shares[seed, :, client] = np.bincount(labels[part], minlength=num_classes) / count
    return shares


@pytest.mark.parametrize("alpha", [0.3, 1.0, 10.0])
def test_shares_of_a_class_follow_the_dirichlet_distribution(alpha):
    """The share of one client is Beta(alpha, (K - 1) alpha): Kolmogorov-Smirnov; and classes are independent."""
    num_clients, count = 4, 2000
    shares = _shares(alpha, seeds=150, num_clients=num_clients, num_classes=3, count=count)
    law = stats.beta(alpha, (num_clients - 1) * alpha)
    for client in range(num_clients):
        sample = shares[:, :, client].ravel()
        # Counts are the shares rounded; less than one count either way leaves the test exact enough.
        spread = np.random.default_rng(client).uniform(-0.5, 0.5, sample.shape) / count
        distance = stats.kstest(np.clip(sample + spread, 1e-12, 1 - 1e-12), law.cdf).statistic
        grid_slack = np.max(law.cdf(np.minimum(sample + 1 / count, 1)) - law.cdf(np.maximum(sample - 1 / count, 0)))
        allowed = np.sqrt(np.log(2 * num_clients / ERROR) / 2 / len(sample)) + grid_slack
        assert distance < allowed
    between = np.corrcoef(shares[:, 0, 0], shares[:, 1, 0])[0, 1]
    assert abs(between) < stats.norm.isf(ERROR / 2) / np.sqrt(len(shares))


def test_a_share_is_rounded_without_preference():
    """On average every client gets the same, the first and the last included."""
    sizes = np.zeros(6)
    rounds = 3000
    for seed in range(rounds):
        parts = QuantityPartition(6, alpha=50.0).split(None, 12, seed)
        sizes += [len(part) for part in parts]
    # A size has mean 2; its variance is at most (sd of 12 shares of Dir(50)) + rounding, below 0.6.
    assert np.abs(sizes / rounds - 2).max() < stats.norm.isf(ERROR / 12) * np.sqrt(0.6 / rounds)


def test_a_small_alpha_is_more_skewed():
    def distinct(alpha):
        parts = DirichletPartition(10, alpha=alpha).split(LABELS, 600, seed=0)
        return np.mean([len(np.unique(LABELS[part])) for part in parts])

    assert distinct(0.05) < distinct(0.5) < distinct(50.0) == 10


def test_equal_sizes_keep_the_skew():
    parts = DirichletPartition(20, alpha=0.5, equal_sizes=True).split(LABELS, 600, seed=0)
    assert {len(part) for part in parts} == {30}
    flat = DirichletPartition(20, alpha=1e6, equal_sizes=True).split(LABELS, 600, seed=0)
    largest = [np.mean([np.bincount(LABELS[part]).max() / 30 for part in made]) for made in (parts, flat)]
    assert largest[0] > 0.6 > 0.35 > largest[1]


def test_shards_hold_as_many_classes_as_shards():
    labels = np.random.default_rng(0).permutation(np.arange(6000) % 10)
    parts = ShardPartition(100, shards_per_client=2).split(labels, 6000, seed=0)
    assert {len(part) for part in parts} == {60}
    assert max(len(np.unique(labels[part])) for part in parts) <= 2
    # Someone has two shards of one class and most have two classes, as dealing at random gives.
    assert {len(np.unique(labels[part])) for part in parts} == {1, 2}


def test_10_000_clients_of_a_million_examples_are_no_loop_over_examples():
    """The work is sorting; that it is fast is measured elsewhere, that it is right is seen here."""
    labels = np.random.default_rng(0).integers(0, 10, 1_000_000)
    parts = DirichletPartition(10_000, alpha=0.3, min_examples=5).split(labels, len(labels), seed=0)
    assert min(map(len, parts)) >= 5
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(1_000_000))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IIDPartition(0), "num_clients must be a whole number >= 1, got 0"),
        (lambda: IIDPartition(2.5), "num_clients must be a whole number"),
        (lambda: DirichletPartition(5, alpha=0.0), "alpha must be a finite number > 0, got 0.0"),
        (lambda: DirichletPartition(5, alpha=-1), "alpha must be a finite number > 0, got -1"),
        (lambda: DirichletPartition(5, alpha=float("nan")), "alpha must be a finite number > 0, got nan"),
        (lambda: DirichletPartition(5, alpha=1e300), "alpha must be at most 1e[+]09.*use IIDPartition"),
        (lambda: DirichletPartition(5, alpha=1, min_examples=0), "min_examples must be"),
        (lambda: QuantityPartition(5, alpha=0), "alpha must be"),
        (lambda: ShardPartition(5, shards_per_client=0), "shards_per_client must be"),
    ],
)
def test_bad_parameters_are_named(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


@every_kind
def test_more_clients_than_examples(make):
    with pytest.raises(ConfigurationError, match="num_clients must be at most the number of examples, 4, got 5"):
        make(5).split([0, 1, 2, 3], 4, seed=0)


@pytest.mark.parametrize(
    ("partition", "labels", "size", "message"),
    [
        (DirichletPartition(2, 0.3), None, 10, "labels must be given for DirichletPartition.*labels="),
        (ShardPartition(2), None, 10, "labels must be given for ShardPartition"),
        (DirichletPartition(2, 0.3), [0, 1], 10, r"labels must be one per example, shape \(10,\), got shape \(2,\)"),
        (ShardPartition(2), np.zeros((10, 3)), 10, r"got shape \(10, 3\)"),
        (DirichletPartition(2, 0.3), np.linspace(0, 1, 10), 10, "labels must be classes.*got 0.111"),
        (ShardPartition(4, 3), np.arange(10), 10, "shards_per_client must be at most 2"),
        (DirichletPartition(4, 0.3, min_examples=3), np.arange(10), 10, "min_examples must be at most 2"),
        (QuantityPartition(4, 0.3, min_examples=3), None, 10, "min_examples must be at most 2"),
        (IIDPartition(1), None, 0, "num_examples must be a whole number >= 1"),
    ],
)
def test_bad_data_is_named(partition, labels, size, message):
    with pytest.raises(ConfigurationError, match=message):
        partition.split(labels, size, seed=0)


def test_a_partition_of_ones_own_may_leave_no_client_empty():
    class Lopsided(IIDPartition):
        def owners(self, labels, num_examples, seed):
            return np.zeros(num_examples, dtype=np.int64)

    with pytest.raises(ConfigurationError, match=r"every client must have an example, got 2 .*the first is client 1"):
        Lopsided(3).split(None, 5, seed=0)


def test_a_bad_seed_is_named():
    with pytest.raises(ConfigurationError, match="seed must be a whole number >= 0, got -1"):
        IIDPartition(2).split(None, 4, seed=-1)


def test_labels_that_are_not_needed_may_be_anything():
    assert len(IIDPartition(2).split("ignored", 4, seed=0)) == 2


def test_classes_may_be_strings():
    labels = np.where(LABELS < 5, "low", "high")
    assert fingerprint(DirichletPartition(5, 0.3).split(labels, 600, seed=0)) == fingerprint(
        DirichletPartition(5, 0.3).split((LABELS < 5).astype(int), 600, seed=0)
    )
