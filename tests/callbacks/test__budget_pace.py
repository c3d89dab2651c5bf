"""The pace of a budget, against a ledger that is asked before every step."""

from __future__ import annotations

import pytest

from lightning_privacy._lightning import Trainer
from lightning_privacy.accounting import GaussianRelease, LaplaceRelease, PrivacyLedger, SampledGaussian
from lightning_privacy.callbacks import DifferentialPrivacy
from lightning_privacy.callbacks._budget_pace import BudgetPace
from lightning_privacy.callbacks._schedule import StepSchedule
from lightning_privacy.callbacks.group_fairness import GroupFairness
from lightning_privacy.errors import PrivacyBudgetExceeded

STEP = GaussianRelease(6.0)


def _trainer(**options):
    return Trainer(**{"max_epochs": 1000, "min_epochs": 5, "accelerator": "cpu", "barebones": True} | options)


def _pace(trainer, ledger, *, per_step=1, steps=10):
    return BudgetPace(trainer, ledger, STEP, per_step=per_step, schedule=StepSchedule(steps, 1))


def _budget(releases):
    """A budget that pays for so many releases and not for one more."""
    ledger = PrivacyLedger(delta=1e-5)
    ledger.charge(STEP, releases)
    return ledger.epsilon(exact=True) * 1.001


@pytest.mark.parametrize("max_epochs", [1000, -1], ids=["far limit", "no limit"])
@pytest.mark.parametrize(("releases", "per_step"), [(23, 1), (20, 1), (3, 1), (23, 2), (7, 3)])
def test_p30_training_ends_with_the_last_step_that_is_paid(releases, per_step, max_epochs):
    """Epochs of ten steps; a step is not begun unless all of its releases could be paid."""
    trainer = _trainer(max_epochs=max_epochs)
    ledger = PrivacyLedger(delta=1e-5, budget=_budget(releases))
    assert ledger.affordable(STEP, 1000) == releases
    pace = _pace(trainer, ledger, per_step=per_step)
    taken = 0
    while not trainer.should_stop:
        for _ in range(pace.steps_of_epoch(done=0)):
            ledger.charge(STEP, per_step)
            pace.step_taken()
            taken += 1
            if trainer.should_stop:
                break
    assert taken == releases // per_step
    assert not ledger.affords(STEP, per_step)


def test_an_epoch_that_is_resumed_has_the_rest_of_its_steps():
    trainer = _trainer()
    pace = _pace(trainer, PrivacyLedger(delta=1e-5))
    assert [pace.steps_of_epoch(done) for done in (0, 4, 10, 12)] == [10, 6, 0, 0]
    assert not trainer.should_stop


def test_an_epoch_begins_only_if_a_step_of_it_is_paid():
    trainer = _trainer()
    ledger = PrivacyLedger(delta=1e-5, budget=_budget(5))
    pace = _pace(trainer, ledger)
    ledger.charge(STEP, 5)
    assert pace.steps_of_epoch(done=0) == 0
    assert trainer.should_stop


def test_without_a_budget_nothing_ends():
    trainer = _trainer(max_epochs=-1)
    pace = _pace(trainer, PrivacyLedger(delta=1e-5))
    pace.refuse_without_budget()
    for _ in range(3):
        for _ in range(pace.steps_of_epoch(done=0)):
            pace.step_taken()
    assert not trainer.should_stop


def test_a_step_that_used_fewer_releases_leaves_the_others_to_be_paid():
    """A step of two optimizers may need two releases; one that made none costs nothing."""
    trainer = _trainer()
    ledger = PrivacyLedger(delta=1e-5, budget=_budget(4))
    pace = _pace(trainer, ledger, per_step=2)
    assert pace.steps_of_epoch(done=0) == 10
    for releases, ends in [(0, False), (1, False), (1, False), (1, True)]:
        if releases:
            ledger.charge(STEP, releases)
        pace.step_taken()
        assert trainer.should_stop is ends


@pytest.mark.parametrize("same", [False, True], ids=["another release", "the same release"])
@pytest.mark.parametrize("seen", ["step_taken", "look_again"])
def test_p30_what_others_charge_between_steps_ends_training_before_a_step_that_is_not_paid(seen, same):
    """As asked of the ledger before each step; a charge of others comes before or after the pace hears of the step."""
    trainer = _trainer()
    ledger = PrivacyLedger(delta=1e-5, budget=_budget(25))
    pace = _pace(trainer, ledger)
    taken = 0
    while not trainer.should_stop:
        for _ in range(pace.steps_of_epoch(done=0)):
            ledger.charge(STEP)  # raises where it can't be paid
            taken += 1
            if seen == "look_again":
                pace.step_taken()
            if taken % 4 == 3 and ledger.affords(GaussianRelease(4.0)):
                ledger.charge(STEP if same else GaussianRelease(4.0), 2 if same else 1)
            getattr(pace, seen)()
            if trainer.should_stop:
                break
            assert ledger.affords(STEP)
    assert 12 < taken < 20
    assert not ledger.affords(STEP)


def test_steps_ask_the_ledger_nothing_but_where_others_have_charged_it():
    """One question at the start, one after the charge of others for the epoch, one for all the epochs after it."""
    ledger, asked = PrivacyLedger(delta=1e-5, budget=_budget(70)), []
    affordable, affords = ledger.affordable, ledger.affords
    ledger.affordable = lambda release, limit: asked.append("affordable") or affordable(release, limit)
    ledger.affords = lambda release, count: asked.append("affords") or affords(release, count)
    trainer = _trainer(max_epochs=6)
    pace = _pace(trainer, ledger)
    for epoch in range(5):
        for step in range(pace.steps_of_epoch(done=0)):
            ledger.charge(STEP)
            if (epoch, step) == (1, 4):
                ledger.charge(GaussianRelease(20.0))
            pace.step_taken()
    assert asked == ["affordable", "affords", "affordable"]
    assert not trainer.should_stop


@pytest.mark.parametrize("count", [7, 13], ids=["first epoch", "second epoch"])
def test_p30_a_table_of_groups_that_takes_the_last_step_s_budget_ends_a_fit_in_order(tiny, count):
    """The budget is that of so many steps with a private table after each, on the same ledger."""
    step, table = SampledGaussian(1.0, 0.1), LaplaceRelease(0.5)
    spent = PrivacyLedger(delta=1e-3)
    spent.charge(step, count)
    spent.charge(table, count)
    privacy = DifferentialPrivacy(
        delta=1e-3, epsilon=spent.epsilon(exact=True) * 1.0001, noise_multiplier=1.0, probe=False
    )
    fairness = GroupFairness(
        groups=lambda batch: batch[2] % 2,
        num_groups=2,
        num_classes=2,
        predict=lambda module, batch: batch[2] % 2,
        prediction_kind="preds",
        target=lambda batch: batch[2] % 2,
        private_epsilon=0.5,
        ledger=privacy.ledger,
        show=False,
        write=False,
    )
    trainer = tiny.trainer(callbacks=[privacy, fairness], max_epochs=5, val_check_interval=1)
    trainer.fit(tiny.Module(), tiny.loader(40), tiny.loader(12, shuffle=False))
    assert trainer.global_step == count
    assert [(release, times) for release, times in privacy.ledger.groups] == [(step, count), (table, count)]


def test_the_end_is_told_once(caplog):
    trainer = _trainer()
    ledger = PrivacyLedger(delta=1e-5, budget=_budget(1))
    pace = _pace(trainer, ledger)
    pace.steps_of_epoch(done=0)
    ledger.charge(STEP)
    with caplog.at_level("INFO"):
        pace.step_taken()
        pace.look_again()
    assert sum("training stops" in record.getMessage() for record in caplog.records) == 1


def test_the_trainer_gets_its_least_epochs_back():
    trainer = _trainer()
    ledger = PrivacyLedger(delta=1e-5, budget=_budget(1))
    pace = _pace(trainer, ledger)
    pace.steps_of_epoch(done=0)
    ledger.charge(STEP)
    pace.step_taken()
    assert trainer.should_stop
    assert trainer.min_epochs != 5
    pace.undo()
    assert trainer.min_epochs == 5


def test_p30_a_fit_that_can_take_no_step_is_refused():
    ledger = PrivacyLedger(delta=1e-5, budget=_budget(3))
    pace = _pace(_trainer(), ledger)
    pace.refuse_without_budget()
    ledger.charge(STEP, 3)
    with pytest.raises(PrivacyBudgetExceeded, match=r"no step can be taken: epsilon is .* one more step would pass it"):
        pace.refuse_without_budget()
