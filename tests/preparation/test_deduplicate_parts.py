"""The parts of de-duplication: likeness, blocks, learned weights, groups without chains, one record a person."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import polars as pl
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation.deduplicate_blocking import candidate_pairs
from lightning_privacy.preparation.deduplicate_clusters import cluster
from lightning_privacy.preparation.deduplicate_columns import ComparedColumn, contained_columns, kind_of
from lightning_privacy.preparation.deduplicate_merge import merge
from lightning_privacy.preparation.deduplicate_weights import compare, estimate_weights


def _column(values, kind, name="x"):
    return ComparedColumn(pl.Series(name, values), kind)


def _levels(kind, first, others):
    column = _column([first, *others], kind)
    count = len(others)
    return column.levels(np.zeros(count, np.int64), np.arange(1, count + 1)).tolist()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([True, False], "category"),
        ([1, 2], "number"),
        ([1.5, 2.0], "number"),
        (["2020-01-02", "2020-15-45", None], "date"),
        (["ada@x.org", "b@y.org", "c", "d@z.org", "e@z.org"], "code"),
        (["C117694", "C117695"], "code"),
        (["tq13 8df", "tq13 8hu"], "text"),
        (["ada", "carl"], "text"),
        (["f", "m"] * 100, "category"),
        ([None, None], "text"),
    ],
    ids=["flag", "whole", "real", "date", "mail", "number-of-customer", "postcode", "name", "gender", "missing"],
)
def test_the_kind_of_a_column_is_seen(values, kind):
    assert kind_of(pl.Series("x", values)) == kind


def test_a_column_of_lists_is_named():
    with pytest.raises(ConfigurationError, match=r"column 'x' holds List\(Int64\), which can't be compared"):
        kind_of(pl.Series("x", [[1]]))


def test_likeness_of_text():
    # equal but for case; two words exchanged; a typing error; another name that begins alike; another; missing
    others = ["ADA  byron ", "byron ada", "ada byrom", "ada carton", "carl gauss", None]
    assert _levels("text", "ada byron", others) == [5, 5 - 1, 4, 3, 1, 0]


def test_likeness_of_dates_numbers_codes_and_categories():
    assert _levels("date", "1840-12-06", ["1840-12-06", "1840-12-26", "1840-01-30", "1950-05-17", None]) == [
        4,
        3,
        2,
        1,
        0,
    ]
    assert _levels("number", 36, [36, 37, 39, 50, None]) == [4, 3, 2, 1, 0]
    assert _levels("number", 123456, [123456, 123457, 123956, 654321]) == [4, 3, 3, 1]
    assert _levels("code", "robert255@smith.net", ["robert25@smith.net", "roberta25@smth.net", "ann@smith.net"]) == [
        3,
        2,
        1,
    ]
    assert _levels("category", "f", ["f", "m", None]) == [2, 1, 0]


def test_cells_of_100_000_characters_are_compared_by_their_beginning():
    long = "x" * 100_000
    assert _levels("text", long, [long, "x" * 99_999]) == [5, 5]


def test_values_in_each_others_place_are_alike():
    given = _column(["caleb", "rowe", "caleb"], "text", "given")
    surname = _column(["rowe", "caleb", "smith"], "text", "surname")
    levels = compare([given, surname], np.array([0, 0]), np.array([1, 2]))
    assert [level.tolist() for level in levels] == [[4, 5], [4, 1]]


def test_a_column_that_repeats_another_is_found():
    people = [("ada", "byron"), ("carl", "gauss"), ("emmy", "noether"), ("max", "born")]
    table = pl.DataFrame({"first": [a for a, _ in people], "last": [b for _, b in people]})
    table = table.with_columns(
        full=pl.col("first") + " " + pl.col("last"), place=pl.Series(["ulm", "rome", "oslo", "bonn"])
    )
    columns = [ComparedColumn(table[name], "text") for name in ("full", "first", "last", "place")]
    assert list(contained_columns(columns)) == ["full"]


def test_blocks_hold_the_pairs_that_share_two_keys_or_a_rare_one():
    names = ["ada byron", "ada byrom", "carl gauss", "max gauss", None]
    born = ["1815-12-10", "1815-12-11", "1777-04-30", "1882-12-11", "1777-04-30"]
    pairs = candidate_pairs([_column(names, "text", "name"), _column(born, "date", "born")])
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [(0, 1), (2, 3), (2, 4)]


def test_large_blocks_are_left_out_unless_another_key_breaks_them_up():
    place = ["london"] * 12
    born = [f"18{number:02d}-01-01" for number in range(11)] + ["1800-01-01"]
    columns = [_column(place, "text", "place"), _column(born, "date", "born")]
    pairs = candidate_pairs(columns, block_limit=5)
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [(0, 11)]
    assert len(candidate_pairs(columns, block_limit=12).first) == 66


def test_the_block_limit_gives_way_to_the_pair_limit():
    columns = [_column(["a"] * 10 + ["b"] * 4 + ["c", "c"], "text")]
    assert len(candidate_pairs(columns, block_limit=10).first) == 45 + 6 + 1
    fewer = candidate_pairs(columns, block_limit=10, pair_limit=10)
    assert (len(fewer.first), fewer.block_limit) == (7, 5)
    with pytest.raises(ConfigurationError, match="pair_limit=0 pairs"):
        candidate_pairs(columns, pair_limit=0)


def _mixture(generator, pairs, share, agree_one, agree_two):
    matched = generator.random(pairs) < share
    levels = []
    for one, two in zip(agree_one, agree_two, strict=True):
        equal = generator.random(pairs) < np.where(matched, one, two)
        levels.append(np.where(equal, 2, 1).astype(np.int8))
    return levels


def test_weights_are_those_the_pairs_were_drawn_with():
    # 40,000 pairs: the largest of the errors has a standard deviation below 0.01; 0.05 is passed by chance in no run.
    generator = np.random.default_rng(0)
    one, two = (0.95, 0.9, 0.85, 0.9), (0.1, 0.2, 0.05, 0.3)
    levels = _mixture(generator, 40_000, 0.2, one, two)
    columns = [_column([str(number) for number in range(400)], "category", str(at)) for at in range(4)]
    weights = estimate_weights(columns, levels, [np.array([1 - u, u]) for u in two])
    assert weights.share == pytest.approx(0.2, abs=0.02)
    assert [m[1] for m in weights.one_person] == pytest.approx(one, abs=0.05)
    assert weights.prior == pytest.approx(np.log2(0.2 * 40_000 / (400 * 399 / 2)), abs=0.2)


def test_without_duplicates_the_share_of_matches_goes_to_nothing():
    # Two clusters of people who have a town and a trade in common: nobody twice.
    generator = np.random.default_rng(1)
    levels = _mixture(generator, 20_000, 0.1, (1.0, 1.0, 0.02, 0.02, 0.02), (0.02, 0.02, 0.02, 0.02, 0.02))
    columns = [_column([str(number) for number in range(1000)], "category", str(at)) for at in range(5)]
    weights = estimate_weights(columns, levels, [np.array([0.98, 0.02])] * 5)
    assert weights.share < 0.02  # a tenth of the pairs agree in two things


def _brute(scores, threshold):
    """Average linkage by hand: join the two groups with the largest mean score while it reaches the threshold."""
    groups = [[number] for number in range(len(scores))]
    while len(groups) > 1:
        means = {
            (i, j): np.mean([scores[a, b] for a in groups[i] for b in groups[j]])
            for i, j in combinations(range(len(groups)), 2)
        }
        (i, j), best = max(means.items(), key=lambda item: item[1])
        if best < threshold:
            break
        groups[i] += groups.pop(j)
    return {frozenset(group) for group in groups}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [-2.0, 0.0, 1.5])
def test_groups_are_those_of_average_linkage(seed, threshold):
    generator = np.random.default_rng(seed)
    scores = generator.normal(0, 4, (9, 9))
    scores = scores + scores.T
    first, second = np.triu_indices(9, 1)
    likely = scores[first, second] > -4
    tree = cluster(9, first[likely], second[likely], scores[first, second][likely], lambda a, b: scores[a, b])
    persons = tree.persons(threshold)
    found = {frozenset(np.flatnonzero(persons == person).tolist()) for person in np.unique(persons)}
    parts = {frozenset(group) for group in _brute(scores, threshold)}
    assert found == parts
    assert fcluster(linkage(100 - scores[first, second], "average"), 100 - threshold, "distance").max() == len(found)


def test_a_chain_of_weak_links_is_not_one_person():
    # 60 people in a row, each a little like the next and unlike all others: the closure would make them one.
    count = 60
    scores = np.full((count, count), -15.0)
    near = np.arange(count - 1)
    scores[near, near + 1] = scores[near + 1, near] = 2.0
    tree = cluster(count, near, near + 1, np.full(count - 1, 2.0), lambda a, b: scores[a, b])
    assert np.bincount(tree.persons(0.0)).max() == 2


def test_a_part_that_is_too_large_is_cut_at_its_weakest_links():
    # 500 pairs of records, each pair sure, held together by weak links into one part of a thousand.
    even = np.arange(0, 1000, 2)
    first = np.concatenate([even, even[:-1] + 1])
    second = np.concatenate([even + 1, even[1:]])
    scores = np.concatenate([np.full(500, 20.0), np.full(499, 0.5)])
    tree = cluster(1000, first, second, scores, lambda a, b: np.where(a // 2 == b // 2, 20.0, -30.0))
    assert (tree.persons(0.0) == np.arange(1000) // 2).all()


RECORDS = pl.DataFrame(
    {
        "person": [0, 1, 0, 1, 2, 0],
        "name": ["Ada", None, "Ada B", "Carl", None, "Ada B"],
        "age": [36, 50, None, 50, None, 37],
    }
)


@pytest.mark.parametrize(
    ("rule", "rows"),
    [
        ("first", [(0, "Ada", 36), (1, None, 50), (2, None, None)]),
        ("complete", [(0, "Ada", 36), (1, "Carl", 50), (2, None, None)]),
        ("frequent", [(0, "Ada B", 36), (1, "Carl", 50), (2, None, None)]),
    ],
)
def test_one_record_a_person(rule, rows):
    assert merge(RECORDS, "person", rule).rows() == rows
