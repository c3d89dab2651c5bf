"""The account of answers: exact sums, exact under parallel clients, and it outlives its process."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_privacy import LaplaceRelease, NonPrivate, PrivacyLedger
from lightning_privacy.accounting import PureRelease, SelectionRelease
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.serving import Limits, Order, PredictorLedger
from lightning_privacy.serving._composition import affordable, cost_of, total, within

KEY = bytes(range(32))
TENTH = LaplaceRelease(epsilon=0.1)


@pytest.fixture
def ledger(tmp_path):
    return PredictorLedger(tmp_path / "answers.db", KEY)


@given(
    tenths=st.integers(1, 50),
    budget=st.integers(1, 500),
    spent=st.integers(0, 20),
)
@settings(deadline=None)
def test_numbers_are_taken_as_they_are_written(tenths, budget, spent):
    """In tenths: 0.1 ten times is 1.0, whatever the binary fractions say."""
    release, before = LaplaceRelease(tenths / 10), {LaplaceRelease(0.1): spent} if spent else {}
    fits = max(0, (budget - spent) // tenths)
    assert affordable(before, release, budget=budget / 10) == fits
    counts = {release: fits}
    counts[LaplaceRelease(0.1)] = counts.get(LaplaceRelease(0.1), 0) + spent
    assert within(counts, budget=budget / 10) is (spent + fits * tenths <= budget)
    assert total(counts) == pytest.approx((spent + fits * tenths) / 10)


def test_what_has_no_epsilon_of_its_own_fits_no_budget():
    assert cost_of(PureRelease(0.5)) == Fraction(1, 2)
    assert cost_of(SelectionRelease(0.5)) == Fraction(1, 2)
    assert cost_of(NonPrivate("labels")) is None
    assert not within({NonPrivate("labels"): 1}, budget=1e9)
    assert affordable({NonPrivate("labels"): 1}, TENTH, budget=1e9) == 0
    assert total({NonPrivate("labels"): 1}) == math.inf


def test_a_budget_is_spent_to_the_last_answer_and_no_further(ledger):
    limits = Limits(budget=1.0)
    granted = [ledger.charge([Order("clinic", TENTH)], limits) for _ in range(12)]
    assert granted == [[True]] * 10 + [[False]] * 2
    assert ledger.spent("clinic") == 1.0
    assert ledger.remaining("clinic", TENTH, limits) == 0
    assert ledger.remaining("other", TENTH, limits) == 10
    assert ledger.answers() == 10


def test_an_order_is_charged_as_a_whole_or_not(ledger):
    limits = Limits(budget=1.0)
    orders = [
        Order("clinic", TENTH, 7),
        Order("clinic", TENTH, 4),
        Order("clinic", TENTH, 3),
        Order("other", TENTH, 10),
    ]
    assert ledger.charge(orders, limits) == [True, False, True, True]
    assert (ledger.spent("clinic"), ledger.spent("other"), ledger.spent()) == (1.0, 1.0, 2.0)


def test_all_clients_together_have_a_budget(ledger):
    limits = Limits(budget=1.0, total_budget=1.5)
    assert ledger.charge([Order("a", TENTH, 10), Order("b", TENTH, 6), Order("b", TENTH, 5)], limits) == [
        True,
        False,
        True,
    ]
    assert ledger.remaining("c", TENTH, limits) == 0


def test_answers_can_be_counted_without_an_epsilon(ledger):
    limits = Limits(max_answers=3)
    assert ledger.charge([Order("a", None, 2), Order("a", NonPrivate("label")), Order("a", None)], limits) == [
        True,
        True,
        False,
    ]
    assert ledger.remaining("a", None, limits) == 0
    assert ledger.spent("a") == math.inf
    assert ledger.charge([Order("b", None, 3)], limits) == [True]
    assert ledger.spent("b") == 0.0
    # What was answered without noise is not forgotten when noise begins.
    assert ledger.charge([Order("a", TENTH)], Limits(budget=100.0)) == [False]


def test_it_outlives_its_process_and_mixes_kinds(ledger, tmp_path):
    ledger.charge([Order("a", TENTH, 3), Order("a", SelectionRelease(0.4))], Limits(budget=1.0))
    again = PredictorLedger(tmp_path / "answers.db", KEY)
    assert again.spent("a") == pytest.approx(0.7)
    assert again.charge([Order("a", PureRelease(0.3)), Order("a", TENTH)], Limits(budget=1.0)) == [True, False]


def test_as_a_ledger_it_composes_exactly(ledger):
    ledger.charge([Order("a", TENTH, 200), Order("b", TENTH, 50)], Limits(budget=20.0))
    reference = PrivacyLedger(delta=1e-6)
    reference.charge(TENTH, 200)
    made = ledger.privacy_ledger(delta=1e-6, client="a", unit="person")
    assert made.epsilon(exact=True) == reference.epsilon(exact=True) < 20.0
    assert made.unit == "person"
    assert ledger.privacy_ledger(delta=1e-6).count(TENTH) == 250


def test_names_of_clients_are_not_in_the_file(ledger, tmp_path):
    ledger.charge([Order("St. Mary's clinic", TENTH)], Limits(budget=1.0))
    assert b"Mary" not in (tmp_path / "answers.db").read_bytes()


def test_50_threads_get_exactly_what_there_is(ledger):
    """Each asks for one to three answers until it is refused one; batches of orders in random sizes."""
    source = random.Random(0)
    plans = [[source.randrange(1, 4) for _ in range(6)] for _ in range(50)]
    limits = Limits(budget=10.0)

    def ask(plan):
        orders = [Order("shared", TENTH, count) for count in plan]
        return sum(o.count for o, yes in zip(orders, ledger.charge(orders, limits), strict=True) if yes)

    with ThreadPoolExecutor(50) as pool:
        answered = sum(pool.map(ask, plans))
    assert answered == 100 == ledger.answers("shared")


_ASKS = """
from lightning_privacy.accounting import LaplaceRelease
from lightning_privacy.serving.predictor_ledger import Limits, Order, PredictorLedger
ledger = PredictorLedger(sys.argv[1], bytes(range(32)))
granted = [ledger.charge([Order("shared", LaplaceRelease(0.1))], Limits(budget=6.0))[0] for _ in range(25)]
print(sum(granted))
"""


def test_several_processes_share_one_budget(ledger, tmp_path, light_imports):
    command = [sys.executable, "-c", light_imports + _ASKS, str(tmp_path / "answers.db")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answered = [int(process.communicate()[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(answered) == 60 == ledger.answers()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Limits(budget=0), "budget"),
        (lambda: Limits(total_budget=-1.0), "total_budget"),
        (lambda: Limits(max_answers=0), "max_answers"),
        (lambda: Order("", TENTH), "client"),
        (lambda: Order("x" * 257, TENTH), "client"),
        (lambda: Order("x", TENTH, 0), "count"),
    ],
    ids=["budget", "total", "answers", "no name", "long name", "count"],
)
def test_what_makes_no_sense_is_named(make, named):
    with pytest.raises(ConfigurationError, match=named):
        make()
