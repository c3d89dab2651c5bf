"""Wherever an epsilon is told to a person, it is no less than what was spent, nor more than a budget that was kept."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_privacy import DifferentialPrivacy
from lightning_privacy._lightning import LightningModule, Trainer
from lightning_privacy.accounting import LaplaceRelease, PrivacyLedger, SampledGaussian
from lightning_privacy.callbacks import differential_privacy
from lightning_privacy.callbacks._privacy_audit_report import note_broken
from lightning_privacy.callbacks.training_plan import _cost
from lightning_privacy.federated import ExamplePrivacy
from lightning_privacy.preparation.group_privacy import group_privacy
from lightning_privacy.report import Guarantee, Outcome, RunSummary
from lightning_privacy.report.sweep_command import sweep_lines, sweep_table
from lightning_privacy.report.sweep_data import sweep_data
from lightning_privacy.report.sweep_page import sweep_page
from lightning_privacy.report.sweep_privacy import sweep_privacy
from lightning_privacy.report.sweep_record import SweepEntry, SweepRecord
from lightning_privacy.serving.privacy_statement import PrivacyStatement
from lightning_privacy.strategies import _client_privacy, _example_privacy

_SIGMAS = (0.55, 0.6, 0.7, 0.9, 1.3, 4.0)
_OUTCOME = Outcome(10, 1.0, {}, {})


def _ledgers(budget=False):
    """What was spent is rounded down by some of them, whatever number of digits is shown."""
    for sigma in _SIGMAS:
        ledger = PrivacyLedger(delta=1e-5)
        ledger.charge(SampledGaussian(sigma, 0.05), 100, label="training")
        if budget:
            # A hair above what is spent, and not a round figure.
            within = PrivacyLedger(delta=1e-5, budget=ledger.epsilon(exact=True) + 1e-5)
            within.load_state_dict(ledger.state_dict())
            ledger = within
        yield ledger


def _figure(text, pattern):
    (found,) = re.findall(pattern + r"([\d.]*\d)", text)
    return float(found)


def _summary(ledger):
    row = next(line for line in RunSummary(_OUTCOME, Guarantee.of(ledger)).text().splitlines() if "epsilon" in line)
    return _figure(row, "epsilon.*?│ +")


def _data_note(ledger):
    return _figure(RunSummary(_OUTCOME, data_releases=Guarantee.of(ledger)).notes()[1], "costs epsilon ")


def _told(monkeypatch, place, tell, *arguments):
    told = []
    monkeypatch.setattr(place, "rank_zero_info", told.append)
    tell(*arguments)
    return _figure(told[0], r"Trained with \(epsilon=")


def _clients(ledger, monkeypatch):
    privacy = SimpleNamespace(ledger=ledger, noise_multiplier=1.0)
    return _told(monkeypatch, _client_privacy, _client_privacy.tell_guarantee, privacy)


def _examples(ledger, monkeypatch):
    privacy = SimpleNamespace(epsilon=ledger.epsilon, delta=ledger.delta, budget=ledger.budget, clients=(0,))
    return _told(monkeypatch, _example_privacy, _example_privacy.tell_example_guarantee, privacy)


@pytest.mark.parametrize("budget", [False, True])
def test_the_summary_of_a_run(budget):
    for ledger in _ledgers(budget):
        for told in (_summary(ledger), _data_note(ledger)):
            assert ledger.epsilon(exact=True) <= told <= (ledger.budget or ledger.epsilon(exact=True) + 1e-3)


@pytest.mark.parametrize("budget", [False, True])
@pytest.mark.parametrize("tell", [_clients, _examples])
def test_the_end_of_a_federated_fit(monkeypatch, tell, budget):
    for ledger in _ledgers(budget):
        told = tell(ledger, monkeypatch)
        assert ledger.epsilon(exact=True) <= told <= (ledger.budget or ledger.epsilon(exact=True) + 1e-3)


@pytest.mark.parametrize("sigma", _SIGMAS)
def test_the_summary_of_privacy_inside_clients(sigma):
    privacy = ExamplePrivacy(delta=1e-5, noise_multiplier=sigma)
    privacy.plan([40, 60], batch_size=10, steps=[4, 6])
    privacy.charge([0, 1])
    spent = privacy.epsilon(exact=True)
    assert spent <= _figure(privacy.summary(), "epsilon at most ") <= spent + 1e-3


def test_ledgers_plans_and_persons():
    for ledger in _ledgers():
        spent = ledger.epsilon(exact=True)
        lines = ledger.summary().splitlines()
        person = group_privacy(ledger, records=2)
        told = {
            "head": _figure(lines[0], "epsilon "),
            "entry": _figure(lines[4], r"training\s+"),
            "all": _figure(next(line for line in lines if line.startswith("all together")), r"100\s+"),
            "record": _figure(person.sentence(), "epsilon is "),
            "plan": _figure(
                _cost(SimpleNamespace(ledger=ledger, epsilon_at_end=spent, releases=1, affordable=None)), "^"
            ),
        }
        assert {name for name, shown in told.items() if not spent <= shown <= spent + 1e-3} == set()
        replaced = ledger.replace_one_epsilon()
        assert replaced <= _figure(ledger.summary(), "any other example: epsilon ") <= replaced + 1e-3
        assert person.epsilon <= _figure(person.sentence(), "for a record and ")


@pytest.mark.parametrize(("lower", "claimed"), [(3.0049, 3.0011), (5.0008, 1.23449)])
def test_what_an_audit_has_proved(lower, claimed):
    ledger = PrivacyLedger(delta=1e-5)
    note_broken(ledger, SimpleNamespace(broken=True, lower=lower, claimed=claimed))
    (told,) = ledger.caveats
    proved, charged = _figure(told, "at least "), _figure(told, "more than the ")
    assert lower - 1e-3 <= proved <= lower
    assert claimed <= charged <= claimed + 1e-3


class _Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(3, 2)

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("sigma", _SIGMAS)
def test_the_end_of_a_fit(monkeypatch, sigma):
    privacy = DifferentialPrivacy(delta=1e-3, noise_multiplier=sigma)
    told = []
    monkeypatch.setattr(differential_privacy, "rank_zero_info", told.append)
    trainer = Trainer(
        max_steps=3, callbacks=[privacy], logger=False, accelerator="cpu", enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    data = TensorDataset(torch.ones(40, 3), torch.zeros(40, dtype=torch.long))
    trainer.fit(_Model(), DataLoader(data, batch_size=10))
    spent = privacy.ledger.epsilon(exact=True)
    assert spent <= _figure(told[-1], r"Trained with \(epsilon=") <= spent + 1e-3


def test_what_an_exported_model_says():
    for ledger in _ledgers():
        assert ledger.epsilon(exact=True) <= _figure(PrivacyStatement.of(ledger).text, "epsilon ")
    for cost in (0.50001, 1.2344, 3.0004):
        ledger = PrivacyLedger(delta=1e-5)
        ledger.charge(LaplaceRelease(cost))
        assert ledger.epsilon(exact=True) <= _figure(PrivacyStatement.of(ledger).text, "costs epsilon ")


def test_what_a_sweep_costs():
    for ledger in _ledgers():
        spent = ledger.epsilon(exact=True)
        entry = SweepEntry("0", "finished", figures={"epsilon": spent}, ledgers=(ledger,))
        assert spent <= float(sweep_privacy([entry]).figure)
        unsure = sweep_privacy([replace(entry, unknown="it is gone")])
        assert spent <= _figure(unsure.figure, "at least ")


def test_the_table_and_the_page_of_a_sweep(tmp_path):
    for ledger in _ledgers():
        spent = ledger.epsilon(exact=True)
        entry = SweepEntry("0", "finished", figures={"epsilon": spent}, ledgers=(ledger,))
        data = sweep_data(SweepRecord(tmp_path, (entry, SweepEntry("1", "finished", private=False))))
        (column,) = [column for column in sweep_table(data).columns if column.header == "epsilon"]
        assert spent <= float(next(iter(column.cells)))
        assert spent <= _figure(sweep_lines(data)[1], "together: ")
        page = sweep_page(data)
        assert spent <= _figure(page, "private runs together have epsilon ")
        assert spent <= _figure(page, '<th scope="row" class="number">')
        assert spent <= _figure(page, '<th scope="row">0</th><td class="number">')
