"""Keyed pseudonyms."""

from __future__ import annotations

import hashlib
import hmac
import pickle
from datetime import UTC, datetime

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from lightning_privacy import PrivacyLedger
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation import Context, Preparation, Roles
from lightning_privacy.preparation.pseudonymise import Pseudonymise, pseudonym
from lightning_privacy.security import Key, KeyRing
from lightning_privacy.security.errors import KeyExpiredError

KEY = bytes(range(32))
TABLE = pl.DataFrame({"name": ["Ada", "Bob", "Ada", None, "Zoë 👩"], "age": [1, 2, 3, 4, 5]})
ROLES = Roles(identifier="name")


def _hidden(table=TABLE, key=KEY, roles=ROLES, **arguments):
    step = Pseudonymise(**arguments)
    step.fit(table.lazy(), Context(roles=roles, key=key))
    return step.run(table)


def test_it_is_the_hmac_of_the_name():
    """By the standard library, step by step: a key of the purpose, then the name under it."""
    purpose = hmac.new(KEY, b"lightning_privacy.preparation/1/pseudonyms of person", hashlib.sha256).digest()
    expected = [
        None if name is None else hmac.new(purpose, name.encode(), hashlib.sha256).hexdigest()[:32]
        for name in TABLE["name"]
    ]
    assert _hidden()["name"].to_list() == expected
    assert pseudonym("Ada", KEY) == expected[0]


def test_rows_of_a_person_stay_together_and_nothing_else_changes():
    hidden = _hidden()
    names = hidden["name"].to_list()
    assert names[0] == names[2] != names[1]
    assert names[3] is None
    assert hidden["age"].to_list() == TABLE["age"].to_list()
    assert "Ada" not in hidden.write_csv()


@pytest.mark.parametrize(
    ("change", "arguments"),
    [({"key": bytes(32)}, {}), ({}, {"domain": "employer"})],
    ids=["another key", "another domain"],
)
def test_pseudonyms_do_not_match_under(change, arguments):
    others = _hidden(**change, **arguments)["name"].drop_nulls()
    assert not set(others) & set(_hidden()["name"].drop_nulls())


def test_a_key_of_security_is_its_secret_and_a_ring_its_current_key():
    key = Key(KEY, key_id="now")
    assert_frame_equal(_hidden(key=key), _hidden())
    assert_frame_equal(_hidden(key=KeyRing(key, Key(bytes(32), key_id="before"))), _hidden())


def test_an_expired_key_is_refused():
    key = Key(KEY, expires=datetime(2020, 1, 1, tzinfo=UTC))
    for given in (key, KeyRing(key)):
        with pytest.raises(KeyExpiredError):
            _hidden(key=given)


def test_whole_numbers_get_the_pseudonym_of_their_digits():
    table = pl.DataFrame({"name": [17, None]})
    assert _hidden(table)["name"].to_list() == [pseudonym("17", KEY), None]


def test_lazily_and_in_batches_it_is_the_same():
    table = pl.DataFrame({"name": [f"person {i % 700}" for i in range(5000)]})
    step = Pseudonymise()
    step.fit(table.lazy(), Context(roles=ROLES, key=KEY))
    whole = step.run(table)
    assert whole["name"].n_unique() == 700
    batches = list(Preparation([step]).stream(table, rows=300))
    assert_frame_equal(pl.concat(batches), whole)


def test_it_is_free_under_differential_privacy():
    ledger = PrivacyLedger(delta=1e-5, budget=0.1)
    Preparation([Pseudonymise()]).fit_apply(TABLE, Context(roles=ROLES, key=KEY, ledger=ledger))
    assert ledger.history == []
    assert ledger.caveats == ()


def test_the_key_does_not_travel_with_the_step():
    step = Pseudonymise()
    step.fit(TABLE.lazy(), Context(roles=ROLES, key=KEY))
    derived = step._secret
    copy = pickle.dumps(step)
    assert derived not in copy
    assert KEY not in copy
    with pytest.raises(ConfigurationError, match="must be fitted"):
        pickle.loads(copy).run(TABLE)
    assert derived.hex() not in repr(vars(Context(key=KEY, roles=ROLES)))
    assert repr(KEY) not in repr(Context(key=KEY, roles=ROLES))


@pytest.mark.parametrize("key", ["secret", b"short", object(), 7], ids=["text", "short", "object", "number"])
def test_a_wrong_key_is_named_and_never_shown(key):
    with pytest.raises(ConfigurationError, match="key must be 32") as caught:
        _hidden(key=key)
    assert "secret'" not in str(caught.value)
    assert "short" not in str(caught.value)


def test_without_a_key_or_a_column_it_refuses():
    with pytest.raises(ConfigurationError, match="needs a key"):
        _hidden(key=None)
    with pytest.raises(ConfigurationError, match="no column"):
        _hidden(roles=Roles())


@pytest.mark.parametrize("bits", [0, 60, 130, 260, 64.0])
def test_a_length_out_of_range_is_named(bits):
    with pytest.raises(ConfigurationError, match="bits"):
        Pseudonymise(bits=bits)


def test_other_bad_input_is_named():
    with pytest.raises(ConfigurationError, match="domain"):
        Pseudonymise(domain="")
    with pytest.raises(ConfigurationError, match="did you mean 'name'"):
        _hidden(columns="nam")
    with pytest.raises(ConfigurationError, match="no one way of being written"):
        _hidden(pl.DataFrame({"name": [1.5]}))
