"""No folder, whatever is in it, makes a report that claims more privacy than its ledger has."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest

from lightning_privacy.accounting import GaussianRelease, LaplaceRelease, NonPrivate, PrivacyLedger, SampledGaussian
from lightning_privacy.accounting.journal import LedgerJournal
from lightning_privacy.audit.audit_file import AuditResult
from lightning_privacy.callbacks._balance_cost import CellCost
from lightning_privacy.callbacks._privacy_audit_report import note_broken
from lightning_privacy.report import Guarantee, Outcome, RunSummary
from lightning_privacy.report.ledger_file import write_ledger
from lightning_privacy.report.model_card import ModelCard
from lightning_privacy.report.report_data import report_data
from lightning_privacy.report.run_record import RunRecord

OUTCOME = Outcome(3, 1.0, {}, {})


def _guarantee(folder):
    return report_data(RunRecord.read(folder))["guarantee"]


def _change(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _ledger(*releases, **arguments):
    ledger = PrivacyLedger(delta=1e-5, **arguments)
    for release, label in releases:
        ledger.charge(release, label=label)
    return ledger


def test_the_figures_are_those_of_the_ledger(whole_run):
    ledger = _ledger((LaplaceRelease(epsilon=0.05), "class counts"))
    ledger.charge(SampledGaussian(noise_multiplier=4.9, sample_rate=0.35), count=80)
    found = _guarantee(whole_run)
    assert found["status"] == "private"
    assert found["epsilon"] == ledger.epsilon(exact=True)
    assert found["replace_one_epsilon"] is None  # Laplace does not compose under it
    assert [release["count"] for release in found["releases"]] == [1, 80]
    assert [release["label"] for release in found["releases"]] == ["class counts", "training"]
    assert found["caveats"][0]["pitfall"] == "P31"


def test_the_replace_one_figure_is_worked_out_anew(tmp_path):
    ledger = _ledger((SampledGaussian(8.0, 0.1), "training"))
    write_ledger(tmp_path, ledger)
    _change(tmp_path, "ledger.json", replace_one_epsilon=0.001)
    assert _guarantee(tmp_path)["replace_one_epsilon"] == ledger.replace_one_epsilon()


@pytest.mark.parametrize("value", [0.1, 0])
def test_an_epsilon_below_that_of_the_releases_is_not_passed_on(run_copy, value):
    right = _guarantee(run_copy)["epsilon"]
    _change(run_copy, "ledger.json", epsilon=value)
    data = report_data(RunRecord.read(run_copy))
    assert data["guarantee"]["epsilon"] == pytest.approx(right, rel=1e-3)
    assert f"says epsilon {value:g}, and its releases give" in data["missing"][0]


def test_an_epsilon_that_no_release_accounts_for_is_noticed(run_copy):
    _change(run_copy, "ledger.json", releases=[])
    data = report_data(RunRecord.read(run_copy))
    assert data["guarantee"]["status"] == "unknown"
    assert "its releases give 0" in data["missing"][0]


def test_releases_that_were_taken_out_are_noticed_by_the_summary(run_copy):
    values = json.loads((run_copy / "ledger.json").read_text())
    right = values["epsilon"]
    values["releases"][1]["count"] = 1
    _change(run_copy, "ledger.json", releases=values["releases"], epsilon=0.1)
    assert _guarantee(run_copy)["epsilon"] == pytest.approx(right, rel=1e-3)


@pytest.mark.parametrize("value", [None, "3", True, math.inf, math.nan, [3]])
def test_an_epsilon_that_is_none_is_no_guarantee(run_copy, value):
    _change(run_copy, "ledger.json", epsilon=value)
    found = _guarantee(run_copy)
    assert found["status"] == "not private"
    assert found["precise"] is None


@pytest.mark.parametrize("changes", [{"delta": None}, {"delta": 0}, {"delta": 1.5}, {"unit": None}, {"unit": 3}])
def test_without_delta_and_unit_nothing_is_claimed(run_copy, changes):
    (run_copy / "summary.json").unlink()
    _change(run_copy, "ledger.json", **changes)
    found = _guarantee(run_copy)
    assert found["status"] == "unknown"
    assert found["precise"] is None


def test_a_release_without_protection_is_in_capital_letters(tmp_path):
    ledger = _ledger((SampledGaussian(8.0, 0.1), "training"), (NonPrivate("a raw mean"), None))
    write_ledger(tmp_path, ledger)
    RunSummary(OUTCOME, Guarantee.of(ledger)).write(tmp_path)
    found = _guarantee(tmp_path)
    assert found["status"] == "not private"
    assert found["epsilon"] is None


def test_p25_noise_from_a_seed_is_no_guarantee_whatever_epsilon_says(tmp_path):
    ledger = _ledger((SampledGaussian(8.0, 0.1), "training"))
    ledger.add_caveat("The noise was drawn from a fixed seed: whoever knows the seed can remove it. NOT PRIVATE.")
    write_ledger(tmp_path, ledger)
    found = _guarantee(tmp_path)
    assert found["status"] == "not private"
    assert found["precise"] is None


@pytest.mark.parametrize("place", [".", "logs/of/some/depth/version_0"])
def test_an_audit_that_is_broken_breaks_the_guarantee(run_copy, place):
    result = AuditResult(kind="canaries", title="Again", verdict="broken", sentence="9 was shown.")
    result.write(run_copy / place, name="z")
    found = _guarantee(run_copy)
    assert found["status"] == "broken"
    assert found["precise"].startswith("Promised, and contradicted by an audit")
    assert found["covered"] == []


@pytest.mark.parametrize(
    ("release", "label", "status"),
    [
        (LaplaceRelease(0.1), "training", "data"),
        (GaussianRelease(8.0), None, "data"),
        (GaussianRelease(8.0), "training", "private"),
        (SampledGaussian(8.0, 0.1), None, "private"),
    ],
)
def test_p33_what_was_learned_of_the_data_makes_no_model_private(tmp_path, release, label, status):
    write_ledger(tmp_path, _ledger((release, label)))
    assert _guarantee(tmp_path)["status"] == status


def test_a_ledger_of_the_data_makes_no_model_private(tmp_path):
    write_ledger(tmp_path, _ledger((SampledGaussian(8.0, 0.1), "training")), covers="data")
    found = _guarantee(tmp_path)
    assert found["status"] == "data"
    assert "weights" not in found["precise"]


def test_a_run_without_privacy_says_so(tmp_path):
    RunSummary(OUTCOME).write(tmp_path)
    data = report_data(RunRecord.read(tmp_path))
    found = data["guarantee"]
    assert not [sentence for sentence in data["missing"] if "ledger" in sentence]
    assert found["status"] == "none"
    assert "without differential privacy" in found["plain"][0]


def test_a_ledger_without_releases_promises_nothing(tmp_path):
    write_ledger(tmp_path, PrivacyLedger(delta=1e-5), complete=False)
    found = _guarantee(tmp_path)
    assert (found["status"], found["complete"]) == ("empty", False)


def test_a_run_that_stopped_has_the_ledger_of_that_moment(tmp_path):
    write_ledger(tmp_path, _ledger((SampledGaussian(8.0, 0.1), "training")), complete=False)
    found = _guarantee(tmp_path)
    assert (found["status"], found["complete"]) == ("private", False)


def test_a_figure_without_releases_is_not_known_to_hold(run_copy):
    (run_copy / "ledger.json").unlink()
    data = report_data(RunRecord.read(run_copy))
    found = data["guarantee"]
    assert (found["status"], found["precise"]) == ("unknown", None)
    assert any("not there to check it" in sentence for sentence in data["missing"])


@pytest.mark.parametrize(
    "releases",
    [None, {}, [3], [{"count": 1}], [{"parameters": {"kind": "magic"}, "count": 1, "label": None}],
     [{"parameters": {"kind": "laplace", "epsilon": -1}, "count": 1, "label": None}]],
)  # fmt: skip
def test_releases_that_cannot_be_read_are_said(run_copy, releases):
    _change(run_copy, "ledger.json", releases=releases)
    data = report_data(RunRecord.read(run_copy))
    assert data["guarantee"]["status"] == "unknown"
    assert data["guarantee"]["precise"] is None
    assert any("could not be checked" in sentence for sentence in data["missing"])


def test_an_epsilon_without_caveats_cannot_be_checked_and_is_not_claimed(run_copy):
    values = json.loads((run_copy / "ledger.json").read_text())
    del values["caveats"]
    (run_copy / "ledger.json").write_text(json.dumps(values | {"epsilon": 0.01}))
    assert _guarantee(run_copy)["status"] == "unknown"


def test_a_ledger_beside_the_summary_of_a_run_without_privacy_is_not_its_own(run_copy):
    RunSummary(OUTCOME).write(run_copy)
    data = report_data(RunRecord.read(run_copy))
    assert (data["guarantee"]["status"], data["guarantee"]["precise"]) == ("not private", None)
    assert any("it was not this run" in sentence for sentence in data["missing"])


@pytest.mark.parametrize("where", ["metrics", "logs/of/some/depth/version_0"])
def test_p26_steps_that_only_a_journal_knows_are_counted(tmp_path, where):
    release = SampledGaussian(8.0, 0.1)
    write_ledger(tmp_path, _ledger((release, "training")))
    place = tmp_path / where / "privacy_ledger"
    place.mkdir(parents=True)
    with LedgerJournal(place / "a1.jsonl", "a1") as journal:
        journal.record(release, total_count=1)
    assert report_data(RunRecord.read(tmp_path))["guarantee"]["epsilon"] == _ledger((release, "")).epsilon(exact=True)
    with LedgerJournal(place / "a1.jsonl", "a1") as journal:
        journal.record(release, total_count=500)
    (place / "clients.jsonl").write_text('{"run": "c", "steps": {"3": 5}}\n')
    right = PrivacyLedger(delta=1e-5)
    right.charge(release, count=500)
    data = report_data(RunRecord.read(tmp_path))
    found = data["guarantee"]
    assert (found["status"], found["epsilon"]) == ("private", right.epsilon(exact=True))
    assert found["replace_one_epsilon"] == right.replace_one_epsilon()
    assert any(f"{where}/privacy_ledger/a1.jsonl knows of more steps" in sentence for sentence in data["missing"])
    # What was charged is told as it is counted.
    assert [(each["count"], each["label"]) for each in found["releases"]] == [(1, "training"), (499, "journal")]
    assert ModelCard(data).text().count("499") == 1


def test_p26_a_journal_of_another_run_below_is_not_counted(tmp_path):
    """As where the run folder is the folder of the whole project."""
    release = SampledGaussian(8.0, 0.1)
    write_ledger(tmp_path, _ledger((release, "training")))
    place = tmp_path / "runs" / "other" / "privacy_ledger"
    place.mkdir(parents=True)
    (place.parent / "environment.json").write_text("{}")
    with LedgerJournal(place / "a1.jsonl", "a1") as journal:
        journal.record(release, total_count=500)
    assert _guarantee(tmp_path)["epsilon"] == _ledger((release, "")).epsilon(exact=True)


def test_p26_what_single_classes_cost_is_not_told_for_fewer_steps_than_were_taken(tmp_path):
    release = SampledGaussian(8.0, 0.1)
    write_ledger(tmp_path, _ledger((release, "training")), classes=[CellCost("ill", 0.1, 0.3)])
    assert _guarantee(tmp_path)["classes"] != []
    (tmp_path / "privacy_ledger").mkdir()
    with LedgerJournal(tmp_path / "privacy_ledger" / "a1.jsonl", "a1") as journal:
        journal.record(release, total_count=500)
    assert _guarantee(tmp_path)["classes"] == []


def test_p26_steps_make_a_training_whatever_ledger_json_lists(tmp_path):
    write_ledger(tmp_path, _ledger((LaplaceRelease(0.1), "counts")))
    (tmp_path / "privacy_ledger").mkdir()
    with LedgerJournal(tmp_path / "privacy_ledger" / "a1.jsonl", "a1") as journal:
        journal.record(SampledGaussian(8.0, 0.1), total_count=500)
    assert _guarantee(tmp_path)["status"] == "private"


def test_p26_a_damaged_journal_leaves_epsilon_unknown(tmp_path):
    release = SampledGaussian(8.0, 0.1)
    write_ledger(tmp_path, _ledger((release, "training")))
    (tmp_path / "privacy_ledger").mkdir()
    path = tmp_path / "privacy_ledger" / "a1.jsonl"
    with LedgerJournal(path, "a1") as journal:
        journal.record(release, total_count=1)
    path.write_text("{cut\n" + path.read_text())
    assert _guarantee(tmp_path)["status"] == "unknown"


def test_a_ledger_that_an_audit_contradicts_is_broken(tmp_path):
    ledger = _ledger((SampledGaussian(8.0, 0.1), "training"))
    note_broken(ledger, SimpleNamespace(broken=True, lower=9.0, claimed=1.0))
    write_ledger(tmp_path, ledger)
    found = _guarantee(tmp_path)
    assert (found["status"], found["covered"]) == ("broken", [])
    assert found["caveats"][0]["voids"]
    ledger.charge(NonPrivate("a raw mean"))
    write_ledger(tmp_path, ledger)
    assert _guarantee(tmp_path)["status"] == "not private"


def test_an_audit_that_cannot_be_read_leaves_the_guarantee_unknown(run_copy):
    (run_copy / "audit_canaries.json").write_text("{cut")
    found = _guarantee(run_copy)
    assert (found["status"], found["precise"]) == ("unknown", None)


@pytest.mark.parametrize(
    ("records", "caveat", "told"),
    [
        (1, None, True),
        (1, "Which records are one person's was decided by comparing all of them, without noise.", True),
        (1, "Something was released of the records before: one person had up to 3 of them.", False),
        (1, "The table does not say who a record is about: the guarantee is for one record.", False),
        (2, "Up to 2 records of one person are trained on: the guarantee is for one record.", False),
        (None, None, False),
    ],
)
def test_p34_persons_are_covered_where_each_has_one_record_and_no_caveat_says_otherwise(
    tmp_path, records, caveat, told
):
    ledger = _ledger((SampledGaussian(8.0, 0.1), "training"))
    if caveat is not None:
        ledger.add_caveat(caveat)
    write_ledger(tmp_path, ledger, records_per_person=records)
    found = _guarantee(tmp_path)
    assert any(line.startswith("Each person as a whole") for line in found["covered"]) is told
    assert any(line.startswith("Persons with several examples") for line in found["not_covered"]) is not told
