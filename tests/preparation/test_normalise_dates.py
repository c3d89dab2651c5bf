"""Dates in many forms; those that don't exist, or may be two days, are kept and counted."""

from __future__ import annotations

from datetime import date, datetime

import polars as pl
import pytest

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation.normalise_dates import NormaliseDates

DAY = date(1999, 4, 3)


def _at(*clock):
    return datetime(1999, 4, 3, *clock)  # noqa: DTZ001 - local times, as people write them


def _run(values, **settings):
    step = NormaliseDates(["d"], **settings)
    table = step.run(pl.DataFrame({"d": values}, schema={"d": pl.String}))
    learned = {key.removeprefix("d: "): number for key, number in step.report().learned.items()}
    return table, learned


@pytest.mark.parametrize(
    "text",
    [
        "1999-04-03",
        "1999-4-3",
        "1999/04/03",
        "19990403",
        "03.04.1999",
        "3 April 1999",
        "3 Apr 1999",
        "April 3, 1999",
        " 1999-04-03 ",
        "1999-04-03 10:30",
        "1999-04-03T10:30:00Z",
        "03.04.1999 10:30:00",
    ],
)
def test_one_day_in_many_forms(text):
    table, learned = _run([text])
    assert table["d"].to_list() == [DAY]
    assert learned == {}


@pytest.mark.parametrize(
    ("text", "day_first", "wanted"),
    [
        ("03/04/1999", True, DAY),
        ("04/03/1999", False, DAY),
        ("03/04/1999", None, None),
        ("04/04/1999", None, date(1999, 4, 4)),
        ("25/12/1999", None, date(1999, 12, 25)),
        ("12/25/1999", None, date(1999, 12, 25)),
        ("12/25/1999", True, None),
        ("25/12/99", None, None),
    ],
)
def test_a_slash_is_read_only_where_it_is_clear(text, day_first, wanted):
    table, _ = _run([text], day_first=day_first)
    assert table["d"].to_list() == [wanted]


def test_dates_that_do_not_exist_are_kept_beside_and_counted():
    given = ["1999-02-30", "2023-02-29", "2024-02-29", "31.04.2000", "soon", "03/04/1999", None, "1/2/99"]
    table, learned = _run(given)
    assert table["d"].to_list() == [None, None, date(2024, 2, 29), None, None, None, None, None]
    assert table["d_as_given"].to_list() == [*given[:2], None, *given[3:]]
    assert learned == {"dates that don't exist": 3, "dates with two meanings": 1, "no dates": 2}
    table, learned = _run(given, invalid="null")
    assert table.columns == ["d"]
    assert learned["dates that don't exist"] == 3


def test_public_bounds():
    table, learned = _run(
        ["1899-12-31", "1900-01-01", "2000-01-01", "2000-01-02"], earliest="1900-01-01", latest=date(2000, 1, 1)
    )
    assert table["d"].to_list() == [None, date(1900, 1, 1), date(2000, 1, 1), None]
    assert learned == {"dates out of bounds": 2}
    days = pl.DataFrame({"d": [date(1800, 1, 1), date(1950, 1, 1)]})
    assert NormaliseDates(["d"], earliest="1900-01-01").run(days)["d"].to_list() == [None, date(1950, 1, 1)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1999-04-03 10:30", _at(10, 30)),
        ("1999-04-03T10:30:15", _at(10, 30, 15)),
        ("03.04.1999 22:30", _at(22, 30)),
        ("1999-04-03 10:30 PM", _at(22, 30)),
        ("1999-04-03", _at()),
        ("1999-04-03 25:00", None),
    ],
)
def test_the_time_of_day_is_kept_if_asked(text, wanted):
    assert _run([text], time=True)[0]["d"].to_list() == [wanted]


def test_further_formats():
    assert _run(["3|4|1999"], formats="%d|%m|%Y")[0]["d"].to_list() == [DAY]


def test_every_value_missing_stays_missing():
    table, learned = _run([None, None])
    assert table["d"].to_list() == [None, None]
    assert table["d"].dtype == pl.Date
    assert learned == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": ["e"]}, "columns names column 'e'"),
        ({"columns": ["n"]}, "columns names 'n', which holds Int64"),
        ({"columns": []}, "columns must name at least one"),
        ({"columns": ["d"], "earliest": "1900"}, "earliest must be a date such as '1900-01-01', got '1900'"),
        ({"columns": ["d"], "earliest": "2000-01-01", "latest": "1999-01-01"}, "is after latest"),
        ({"columns": ["d"], "invalid": "drop"}, "invalid must be one of"),
    ],
    ids=["unknown", "number", "none", "bound", "order", "invalid"],
)
def test_bad_settings_of_dates_are_named(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        NormaliseDates(**settings).run(pl.DataFrame({"d": ["a"], "n": [1]}))
