"""The pipeline: steps held to the ledger, stopped before the budget breaks, counted, and streamed in bounded memory."""

from __future__ import annotations

import polars as pl
import pytest

from lightning_privacy.accounting import LaplaceRelease, PrivacyLedger
from lightning_privacy.errors import ConfigurationError, PrivacyBudgetExceeded, PrivacyViolation
from lightning_privacy.preparation import Context, Preparation, Roles, Step
from lightning_privacy.preparation.normalise import NormaliseText

TABLE = pl.DataFrame({"name": ["  Ada ", "CARL", None], "age": [36, 50, 12]})


class Adults(Step):
    name = "adults"

    def _apply(self, frame):
        return frame.filter(pl.col("age") >= 18)


class Noisy(Step):
    name = "noisy"
    private = "released"
    learns = True

    def __init__(self, epsilons=(1.0,), planned="same"):
        super().__init__()
        self.epsilons = epsilons
        self.announced = epsilons if planned == "same" else planned

    def planned(self, schema, context):
        return None if self.announced is None else [(LaplaceRelease(epsilon=e), 1) for e in self.announced]

    def _fit(self, frame, context):
        for epsilon in self.epsilons:
            if context.ledger is not None:
                context.ledger.charge(LaplaceRelease(epsilon=epsilon), label=self.name)
        self._learned["rows seen"] = frame.collect().height

    def _apply(self, frame):
        return frame.with_columns(seen=pl.lit(self._learned["rows seen"]))


class Pairs(Step):
    name = "pairs"
    private = "compares"

    def _apply(self, frame):
        return frame.unique()


def _ledger(budget=None):
    return PrivacyLedger(delta=1e-5, budget=budget)


def test_steps_run_in_order_and_are_counted():
    preparation = Preparation([NormaliseText(["name"], case="lower"), Adults(), Noisy()])
    table, report = preparation.fit_apply(TABLE, Context(roles=Roles(identifier="name")))
    assert table.rows() == [("ada", 36, 2), ("carl", 50, 2)]
    text, adults, noisy = report.steps
    assert (text.rows_before, text.rows_after, text.changed) == (3, 3, {"name": 2})
    assert (adults.rows_before, adults.rows_after, adults.changed) == (3, 2, {})
    assert (noisy.changed, noisy.learned) == ({"seen": 2}, {"rows seen": 2})
    assert report.to_dict()["steps"][1]["rows_after"] == 2
    assert "3 -> 2" in str(report)
    assert report.peak_memory > 2**20


def test_a_mapping_of_a_config_keeps_its_order_and_none_leaves_a_step_out():
    preparation = Preparation({"text": NormaliseText(), "pairs": None, "adults": Adults()})
    assert [step.name for step in preparation.steps] == ["normalise text", "adults"]


def test_a_fit_begins_anew():
    preparation = Preparation([NormaliseText(["name"])])
    for _ in range(2):
        _, report = preparation.fit_apply(TABLE)
    assert report.steps[0].rows_before == 3
    assert report.steps[0].changed == {"name": 1}


def test_new_rows_are_transformed_without_learning():
    preparation = Preparation([Noisy(), NormaliseText(["name"], case="upper")])
    ledger = _ledger()
    preparation.fit_apply(TABLE, Context(ledger=ledger))
    new = pl.DataFrame({"name": ["x"], "age": [1]})
    assert preparation.apply(new).rows() == [("X", 1, 3)]
    assert isinstance(preparation.apply(new.lazy()), pl.LazyFrame)
    assert ledger.count(LaplaceRelease(epsilon=1.0)) == 1


def test_a_step_that_learns_must_be_fitted():
    with pytest.raises(ConfigurationError, match="step 'noisy' must be fitted"):
        Preparation([Noisy()]).apply(TABLE)


def test_p33_a_budget_stops_before_the_step_and_names_it():
    ledger = _ledger(budget=2.5)
    first, second = Noisy((1.0,)), Noisy((1.0, 1.0))
    second.__class__ = type("Second", (Noisy,), {"name": "second"})
    with pytest.raises(PrivacyBudgetExceeded, match=r"step 2 of the preparation \(second\) was not begun"):
        Preparation([first, second]).fit_apply(TABLE, Context(ledger=ledger))
    # Half of the step would have fitted into the budget: it is paid for whole or not begun.
    assert ledger.count(LaplaceRelease(epsilon=1.0)) == 1
    assert "rows seen" not in second.report().learned


def test_p33_a_step_that_plans_nothing_is_stopped_by_its_own_charge():
    with pytest.raises(PrivacyBudgetExceeded, match="step 1 of the preparation"):
        Preparation([Noisy((1.0,), planned=None)]).fit_apply(TABLE, Context(ledger=_ledger(budget=0.5)))


@pytest.mark.parametrize("planned", [(0.5,), (), (1.0, 1.0)], ids=["cheaper", "nothing", "more"])
def test_p33_a_step_that_charges_something_else_than_planned_is_a_violation(planned):
    with pytest.raises(PrivacyViolation, match=r"step 1 of the preparation \(noisy\) charged"):
        Preparation([Noisy((1.0,), planned=planned)]).fit_apply(TABLE, Context(ledger=_ledger()))


def test_p33_the_budget_of_the_whole_is_the_composition_of_its_steps():
    ledger, alone = _ledger(), _ledger()
    Preparation([Noisy((1.0,)), Noisy((0.5, 0.25))]).fit_apply(TABLE, Context(ledger=ledger))
    for epsilon in (1.0, 0.5, 0.25):
        alone.charge(LaplaceRelease(epsilon=epsilon))
    assert ledger.epsilon(exact=True) == alone.epsilon(exact=True) > 0


def test_p34_comparing_rows_under_privacy_is_refused_or_a_caveat():
    ledger = _ledger()
    with pytest.raises(PrivacyViolation, match=r"step 'pairs' compares rows .* caveat=True"):
        Preparation([Pairs()]).fit_apply(TABLE, Context(ledger=ledger))
    assert ledger.caveats == ()
    _, report = Preparation([Pairs(caveat=True)]).fit_apply(TABLE, Context(ledger=ledger))
    assert len(ledger.caveats) == 1
    assert ledger.caveats == report.caveats == report.steps[0].caveats
    Preparation([Pairs()]).fit_apply(TABLE)  # no privacy, nothing to say


def test_a_context_does_not_contradict_itself():
    assert Context().private is False
    assert Context(ledger=_ledger()).private is True
    with pytest.raises(ConfigurationError, match="private=True needs a ledger"):
        Context(private=True)
    with pytest.raises(ConfigurationError, match="private=False with a ledger"):
        Context(private=False, ledger=_ledger())
    with pytest.raises(ConfigurationError, match="roles must be a Roles"):
        Context(roles=None)
    assert "secret" not in repr(Context(key=b"secret" * 6))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (TABLE.clear(), "the table has no rows, only the columns 'name', 'age'"),
        (pl.DataFrame(), "the table has no columns"),
        (pl.DataFrame({"a": [None, None], "b": pl.Series([None, None], dtype=pl.Int64)}), "every value .* is missing"),
        (TABLE.rename({"name": "nam"}), "identifier names column 'name', .* did you mean 'nam'"),
    ],
    ids=["no-rows", "no-columns", "no-values", "unknown-column"],
)
def test_bad_tables_have_their_own_messages(table, message):
    with pytest.raises(ConfigurationError, match=message):
        Preparation([Adults()]).fit_apply(table, Context(roles=Roles(identifier="name")))


def test_a_step_that_leaves_no_row_is_named():
    with pytest.raises(ConfigurationError, match=r"step 1 \(adults\) left no row"):
        Preparation([Adults()]).fit_apply(TABLE.with_columns(age=pl.lit(3)))


def test_steps_must_be_steps_and_only_once():
    with pytest.raises(ConfigurationError, match="steps must be steps"):
        Preparation(["lower"])
    step = Adults()
    with pytest.raises(ConfigurationError, match="same object twice"):
        Preparation([step, step])


def test_a_stream_gives_what_the_whole_gives_and_counts_it(tmp_path):
    table = pl.DataFrame({"name": [f" Name {number} " for number in range(1000)], "age": list(range(1000))})
    table.write_parquet(tmp_path / "t.parquet", row_group_size=100)
    steps = [NormaliseText(["name"], case="lower"), Adults()]
    preparation = Preparation(steps)
    batches = list(preparation.stream(pl.scan_parquet(tmp_path / "t.parquet"), rows=64))
    assert len(batches) > 5
    assert max(batch.height for batch in batches) <= 128
    assert pl.concat(batches).equals(preparation.apply(table))
    report = preparation.report()
    assert report.steps[0].changed == {"name": 1000}
    assert (report.steps[1].rows_before, report.steps[1].rows_after) == (1000, 982)


def test_a_stream_refuses_what_needs_the_whole_table():
    with pytest.raises(ConfigurationError, match="step 'pairs' compares rows"):
        list(Preparation([Pairs()]).stream(TABLE))
    with pytest.raises(ConfigurationError, match="has no rows"):
        list(Preparation([Adults()]).stream(TABLE.clear()))
    with pytest.raises(ConfigurationError, match="must be fitted"):
        list(Preparation([Noisy()]).stream(TABLE))
