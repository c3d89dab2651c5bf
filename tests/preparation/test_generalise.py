"""Bands, regions and buckets of time."""

from __future__ import annotations

from datetime import UTC, date, datetime

import polars as pl
import pytest

from lightning_privacy import PrivacyLedger
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation import Context, Preparation
from lightning_privacy.preparation.generalise import Bands, Prefix, Regions, TimeBuckets


def _run(step, values, dtype=None):
    return step.run(pl.DataFrame({"x": pl.Series(values, dtype=dtype)}))["x"].to_list()


@pytest.mark.parametrize("value", [-5.0, 0.0, 17.9, 18.0, 29.999, 30.0, 64.0, 65.0, 1e9])
def test_each_number_is_in_the_band_of_the_last_edge_below(value):
    edges, labels = [18, 30, 65], ["child", "young", "grown", "old"]
    expected = labels[sum(edge <= value for edge in edges)]
    assert _run(Bands("x", edges=edges, labels=labels), [value]) == [expected]


def test_bands_are_named_after_whole_ages():
    assert Bands("x", edges=[18, 19, 30, 65]).labels == ("<18", "18", "19-29", "30-64", "65+")
    assert Bands("x", edges=[0.5, 1]).labels == ("<0.5", "0.5 to <1", "1+")


def test_what_is_no_number_has_no_band():
    assert _run(Bands("x", edges=[18]), [None, float("nan"), float("inf"), 3.0]) == [None, None, "18+", "<18"]
    assert _run(Bands("x", edges=[18]), [None, None], pl.Int32) == [None, None]


def test_regions_follow_the_list():
    regions = {"south": ["Ulm", "münchen"], "west": "Bonn"}
    values = ["ulm", " MÜNCHEN ", "Bonn", "Oslo", None]
    assert _run(Regions("x", regions), values) == ["south", "south", "west", "other", None]
    assert _run(Regions("x", regions, other=None), values)[3] is None


def test_prefixes_of_postcodes():
    values = ["tq13 8df", " sw1a 2aa", "12", None, ""]
    assert _run(Prefix("x"), values) == ["tq", "sw", None, None, None]
    assert _run(Prefix("x", r"^\w\w"), values) == ["tq", None, "12", None, None]


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        ("day", (1987, 5, 17)),
        ("week", (1987, 5, 11)),
        ("month", (1987, 5, 1)),
        ("quarter", (1987, 4, 1)),
        ("year", (1987, 1, 1)),
        ("decade", (1980, 1, 1)),
    ],
)
def test_time_goes_to_the_beginning_of_its_bucket(every, expected):
    assert _run(TimeBuckets("x", every=every), [date(1987, 5, 17), None]) == [date(*expected), None]
    assert _run(TimeBuckets("x", every=every), [datetime(1987, 5, 17, 23, 59, tzinfo=UTC)]) == [
        datetime(*expected, tzinfo=UTC)
    ]


def test_all_of_it_is_free_under_differential_privacy():
    table = pl.DataFrame({"age": [30], "place": ["Ulm"], "code": ["tq1"], "day": [date(2020, 2, 29)]})
    ledger = PrivacyLedger(delta=1e-5, budget=0.1)
    steps = [Bands("age", edges=[18]), Regions("place", {"a": ["b"]}), Prefix("code"), TimeBuckets("day")]
    prepared, report = Preparation(steps).fit_apply(table, Context(ledger=ledger))
    assert prepared.rows() == [("18+", "other", "tq", date(2020, 2, 1))]
    assert ledger.history == []
    assert report.caveats == ()


@pytest.mark.parametrize("edges", [[], [30, 18], [18, 18], [18, float("nan")], "18", [True], None], ids=str)
def test_edges_that_do_not_rise_are_named(edges):
    with pytest.raises(ConfigurationError, match="edges must be finite numbers that rise"):
        Bands("x", edges=edges)


@pytest.mark.parametrize("labels", [["a"], ["a", "a"], ["a", "b", "c"]])
def test_labels_that_do_not_match_are_named(labels):
    with pytest.raises(ConfigurationError, match="labels must be 2 different names"):
        Bands("x", edges=[18], labels=labels)


def test_a_place_in_two_regions_is_named():
    with pytest.raises(ConfigurationError, match="'ULM ' in both 'a' and 'b'"):
        Regions("x", {"a": ["Ulm"], "b": ["ULM "]})
    with pytest.raises(ConfigurationError, match="regions must map"):
        Regions("x", {})
    with pytest.raises(ConfigurationError, match="other"):
        Regions("x", {"a": ["b"]}, other="")


@pytest.mark.parametrize(
    ("step", "values", "message"),
    [
        (Bands("x", edges=[18]), ["a"], "bands are of numbers"),
        (Regions("x", {"a": ["b"]}), [1], "and not text"),
        (Prefix("x"), [1.0], "and not text"),
        (TimeBuckets("x"), ["2020-01-01"], "buckets are of dates"),
        (TimeBuckets("y"), ["2020-01-01"], "'y', which the table does not have"),
    ],
    ids=["bands", "regions", "prefix", "buckets", "unknown"],
)
def test_a_column_of_another_kind_is_named(step, values, message):
    with pytest.raises(ConfigurationError, match=message):
        _run(step, values)


def test_other_bad_settings_are_named():
    with pytest.raises(ConfigurationError, match="every must be one of"):
        TimeBuckets("x", every="1mo")
    with pytest.raises(ConfigurationError, match="pattern must be a regular expression"):
        Prefix("x", "(")
