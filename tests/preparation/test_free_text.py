"""Personal data in prose: found by patterns, by the row's own names and by a model, and replaced by its kind."""

from __future__ import annotations

import pickle
import socket

import polars as pl
import pytest

from lightning_privacy import PrivacyLedger
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation import Context, Preparation, Roles, free_text
from lightning_privacy.preparation.free_text import HideFreeText

pytest.importorskip("presidio_analyzer", reason="presidio-analyzer is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def patterns():
    step = HideFreeText("note")
    step.fit(pl.LazyFrame({"note": ["x"]}), Context())
    return step


def _hide(step, *texts):
    return step.run(pl.DataFrame({"note": list(texts)}, schema={"note": pl.String}))["note"].to_list()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail a.b@x.co.uk now", "mail <EMAIL_ADDRESS> now"),
        ("call +44 20 7946 0958!", "call <PHONE_NUMBER>!"),
        ("card 4111 1111 1111 1111.", "card <CREDIT_CARD>."),
        ("account DE89370400440532013000", "account <IBAN_CODE>"),
        ("from 192.168.0.1", "from <IP_ADDRESS>"),
        ("nothing here", "nothing here"),
        ("", ""),
        (None, None),
    ],
)
def test_patterns(patterns, text, expected):
    assert _hide(patterns, text) == [expected]


def test_check_digits_are_looked_at(patterns):
    assert _hide(patterns, "account DE89370400440532013001") != ["account <IBAN_CODE>"]


def test_two_finds_that_overlap_leave_no_end_over(patterns):
    (hidden,) = _hide(patterns, "https://example.com/?user=a.b@x.co.uk&card=4111111111111111")
    for part in ("example", "x.co", "4111"):
        assert part not in hidden


def test_names_of_the_row_are_hidden_whole_word_by_word():
    table = pl.DataFrame(
        {
            "name": ["Ann O'Neil-Smith", "Bo", None],
            "note": ["ann smith met Annette; O'NEIL left", "Bob and bo, BO", "Ann"],
        }
    )
    step = HideFreeText(["note"], names_from=["name"])
    step.fit(table.lazy(), Context())
    hidden = step.run(table)["note"].to_list()
    assert hidden == ["<NAME> met Annette; O'<NAME> left", "Bob and <NAME>, <NAME>", "Ann"]


def test_only_what_is_asked_for():
    step = HideFreeText("note", entities=["EMAIL_ADDRESS"])
    step.fit(pl.LazyFrame({"note": ["x"]}), Context())
    assert _hide(step, "a@x.org, 192.168.0.1") == ["<EMAIL_ADDRESS>, 192.168.0.1"]


def test_a_cell_of_a_hundred_thousand_characters(patterns):
    """The time of a pattern may grow with the square of the text: pieces of it are looked at, and overlap."""
    filler = "a.b-" * 12_500
    (hidden,) = _hide(patterns, f"{filler} a.b@x.co.uk {filler}")
    assert hidden == f"{filler} <EMAIL_ADDRESS> {filler}"
    for before in range(780, 1020, 17):  # across the borders of pieces
        assert _hide(patterns, "." * before + " a.b@x.co.uk") == ["." * before + " <EMAIL_ADDRESS>"]


def test_a_model_that_is_installed_finds_names_and_places(tmp_path):
    spacy = pytest.importorskip("spacy")
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PERSON", "pattern": "Ada"}, {"label": "GPE", "pattern": "Ulm"}])
    nlp.to_disk(tmp_path / "model")
    step = HideFreeText("note", model=str(tmp_path / "model"))
    step.fit(pl.LazyFrame({"note": ["x"]}), Context())
    assert _hide(step, "Ada of Ulm, ada@x.org") == ["<PERSON> of <LOCATION>, <EMAIL_ADDRESS>"]
    assert step.report().caveats == ()


def test_without_a_model_the_report_says_what_was_not_looked_for(patterns):
    patterns.fit(pl.LazyFrame({"note": ["x"]}), Context())
    assert "Names and places" in patterns.report().caveats[0]


def test_it_needs_no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    step = HideFreeText("note")
    step.fit(pl.LazyFrame({"note": ["x"]}), Context())
    assert _hide(step, "a@x.org https://x.org") == ["<EMAIL_ADDRESS> <URL>"]


def test_it_is_free_under_differential_privacy():
    ledger = PrivacyLedger(delta=1e-5, budget=0.1)
    context = Context(roles=Roles(free_text="note"), ledger=ledger)
    prepared, _ = Preparation([HideFreeText()]).fit_apply(pl.DataFrame({"note": ["a@x.org"]}), context)
    assert prepared["note"].to_list() == ["<EMAIL_ADDRESS>"]
    assert (ledger.history, ledger.caveats) == ([], ())


def test_a_step_can_be_sent_to_another_process(patterns):
    copy = pickle.loads(pickle.dumps(patterns))
    copy.fit(pl.LazyFrame({"note": ["x"]}), Context())
    assert _hide(copy, "a@x.org") == ["<EMAIL_ADDRESS>"]


def test_without_presidio_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(free_text, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"lightning-privacy\[free-text\]"):
        HideFreeText("note").fit(pl.LazyFrame({"note": ["x"]}), Context())


def test_a_model_that_is_missing_is_named():
    with pytest.raises(ConfigurationError, match=r"'no_such_model' is not installed.*python -m spacy download"):
        HideFreeText("note", model="no_such_model").fit(pl.LazyFrame({"note": ["x"]}), Context())


@pytest.mark.parametrize(
    ("arguments", "table", "message"),
    [
        (
            {"columns": "note", "entities": ["NAME"]},
            {"note": ["x"]},
            "entities has 'NAME', for which there is no pattern",
        ),
        ({"columns": "note", "score": 0}, {"note": ["x"]}, "score"),
        ({"columns": "note", "language": ""}, {"note": ["x"]}, "language"),
        ({"columns": "note", "model": ""}, {"note": ["x"]}, "model must be"),
        ({"columns": "note"}, {"note": [1]}, "and not text"),
        ({"columns": "not"}, {"note": ["x"]}, "did you mean 'note'"),
        ({"columns": "note", "names_from": ["nam"]}, {"note": ["x"], "name": ["y"]}, "did you mean 'name'"),
        ({}, {"note": ["x"]}, "has no columns"),
    ],
    ids=["entity", "score", "language", "model", "number", "column", "names", "no columns"],
)
def test_bad_input_is_named(arguments, table, message):
    with pytest.raises(ConfigurationError, match=message):
        HideFreeText(**arguments).fit(pl.DataFrame(table).lazy(), Context())
