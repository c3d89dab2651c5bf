"""Text and codes: one spelling for one thing, row by row, with what can't be told kept and counted."""

from __future__ import annotations

import polars as pl
import pytest

from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.errors import ConfigurationError, PrivacyViolation
from lightning_privacy.preparation import Context, Preparation
from lightning_privacy.preparation.normalise import NormaliseCodes, NormaliseText


def _text(values, **settings):
    return NormaliseText(["x"], **settings).run(pl.DataFrame({"x": values}, schema={"x": pl.String}))["x"].to_list()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("  two\t\nwords  ", "two words"),
        ("Mu\u0308ller", "Müller"),
        ("\ufeffAda\u200b", "Ada"),
        ("\uff21\uff24\uff21", "ADA"),
        ("a\u202eb", "ab"),
        ("MÃ¼ller", "Müller"),
        ("JosÃ©", "José"),
        ("\u00e2\u201a\u00acuro", "€uro"),
        ("Ãngel", "Ãngel"),
        ("Müller", "Müller"),
        ("Â", "Â"),
        ("Null", "Null"),
        ("Nan", "Nan"),
    ],
    ids=[
        "white-space",
        "composed",
        "invisible",
        "wide",
        "direction",
        "misread",
        "misread-accent",
        "misread-three-bytes",
        "a-name-that-begins-like-one",
        "right-already",
        "one-letter",
        "a-name-like-nothing",
        "another",
    ],
)
def test_text_gets_one_form(given, wanted):
    assert _text([given]) == [wanted]


@pytest.mark.parametrize("given", ["", "  ", "-", "--", "?", "n/a", "N/A", "#N/A", None])
def test_what_stands_for_nothing_is_missing(given):
    assert _text([given, "x"]) == [None, "x"]


def test_case_and_repair_and_form_can_be_chosen():
    assert _text(["Ada BYRON"], case="lower") == ["ada byron"]
    assert _text(["Ada BYRON"], case="upper") == ["ADA BYRON"]
    assert _text(["Ada BYRON"], case="title") == ["Ada Byron"]
    assert _text(["MÃ¼ller"], repair=False, form=None) == ["MÃ¼ller"]
    assert _text(["ﬁ"], form="NFC") == ["ﬁ"]
    assert _text(["unbekannt", "-"], missing=["Unbekannt"]) == [None, "-"]


def test_a_cell_of_100_000_characters_is_normalised_and_kept():
    long = "ab  " * 25_000
    (result,) = _text([long])
    assert result == ("ab " * 25_000).strip()


def test_rows_do_not_depend_on_each_other():
    values = ["MÃ¼ller", " x ", None, "n/a", "\uff21\uff24\uff21"] * 3
    assert _text(values) == [_text([value])[0] for value in values]


def test_all_text_columns_are_the_default():
    table = pl.DataFrame({"a": [" x "], "n": [1], "b": [" y "]})
    assert NormaliseText().run(table).rows() == [("x", 1, "y")]


def test_a_column_that_is_all_missing_stays():
    assert _text([None, None]) == [None, None]
    table = pl.DataFrame({"x": [None, None]})
    assert NormaliseText(["x"]).run(table).equals(table)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": ["y"]}, "columns names column 'y', .* did you mean|its columns are 'x', 'n'"),
        ({"columns": ["n"]}, "columns names 'n', which holds Int64 and not text"),
        ({"columns": ["x", "x"]}, "columns names column 'x' twice"),
        ({"case": "camel"}, "case must be one of .* got 'camel'"),
        ({"form": "NFD"}, "form must be one of"),
    ],
    ids=["unknown", "number", "twice", "case", "form"],
)
def test_bad_settings_of_text_are_named(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        NormaliseText(**settings).run(pl.DataFrame({"x": ["a"], "n": [1]}))


def test_codes_become_one_and_unknown_ones_are_counted():
    table = pl.DataFrame({"sex": ["F", " f ", "female", "M", "x", None]})
    step = NormaliseCodes("sex", {"female": ["f"], "male": "m"})
    assert step.run(table)["sex"].to_list() == ["female", "female", "female", "male", "x", None]
    assert step.report().learned == {"sex: not on the list": 1, "sex: cells that say something": 5}
    assert step.report().changed == {"sex": 3}
    step = NormaliseCodes("sex", {"female": ["f"], "male": "m"}, unknown="null")
    assert step.run(table)["sex"].to_list()[4:] == [None, None]
    assert step.report().learned == {"sex: not on the list": 1, "sex: cells that say something": 5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sex", {"a": ["x"], "b": ["X"]}), "codes has 'X' for both 'a' and 'b'"),
        (("sex", {}), "codes must map each code"),
        (("sex", ["a"]), "codes must map each code"),
        (("age", {"a": []}), "column 'age' holds Int64"),
        (("sxe", {"a": []}), "did you mean 'sex'"),
    ],
    ids=["two-codes", "none", "a-list", "a-number", "unknown-column"],
)
def test_bad_codes_are_named(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        NormaliseCodes(*arguments).run(pl.DataFrame({"sex": ["a"], "age": [1]}))


def test_without_names_of_columns_it_goes_by_types_and_says_so():
    """A cell in another row makes text of a column of numbers, and then a "0" in it is missing."""
    step = NormaliseText(missing=["0"])
    assert step.private == "compares"
    one, two = (pl.DataFrame({"note": notes}) for notes in ([0, 1, 3], ["0", "1", "x"]))
    assert (step.run(one)["note"][0], step.run(two)["note"][0]) == (0, None)
    ledger = PrivacyLedger(delta=1e-6)
    with pytest.raises(PrivacyViolation, match=r"takes the columns whose type is text.*: name the columns"):
        Preparation([step]).fit_apply(two, Context(ledger=ledger))
    told = NormaliseText(missing=["0"], caveat=True)
    Preparation([told]).fit_apply(two, Context(ledger=ledger))
    assert ledger.caveats == (told.caveat_sentence(),)


def test_with_names_of_columns_it_is_of_each_row_alone():
    step = NormaliseText(["note"], missing=["0"])
    assert step.private == "rowwise"
    ledger = PrivacyLedger(delta=1e-6)
    tables = [pl.DataFrame({"note": ["0", "1", last]}) for last in ("3", "x")]
    one, two = (Preparation([step]).fit_apply(table, Context(ledger=ledger))[0] for table in tables)
    assert one[:2].equals(two[:2])
    assert one["note"].to_list() == [None, "1", "3"]
    assert ledger.caveats == ()


def test_without_names_of_columns_it_runs_in_batches():
    table = pl.DataFrame({"note": [" a", "b "] * 5, "number": range(10)})
    batches = list(Preparation([NormaliseText()]).stream(table, rows=3))
    assert pl.concat(batches)["note"].to_list() == ["a", "b"] * 5
