"""Answers are charged before they are given, and never beyond the budget."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from lightning_privacy import NoiseSource, PrivacyBudgetExceeded, PrivacyLedger, SeededNoiseWarning
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.security import TamperedError
from lightning_privacy.serving import PrivatePredictor, RequestError, load_exported

KEY = bytes(range(32))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.db"


def _noisy(model, path, **settings):
    given = {"mode": "noisy_argmax", "epsilon": 0.5, "budget": 2.0, "ledger_path": path, "key": KEY, **settings}
    return PrivatePredictor(model, **given)


def test_labels_are_those_of_the_module(small_export, small_network):
    inputs = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    expected = small_network(inputs).argmax(1)
    assert torch.equal(PrivatePredictor(load_exported(small_export))(inputs).labels, expected)
    assert torch.equal(PrivatePredictor(small_network)(inputs).labels, expected)
    scores = PrivatePredictor(small_network, mode="rounded", decimals=3)(inputs).scores
    torch.testing.assert_close(scores, small_network(inputs).softmax(1).double(), rtol=0, atol=6e-4)


def test_the_network_is_run_for_inference(small_network):
    network = nn.Sequential(nn.Dropout(0.9), small_network).train()
    inputs = torch.randn(50, 4)
    assert torch.equal(PrivatePredictor(network)(inputs).labels, small_network(inputs).argmax(1))
    assert network.training


def test_a_budget_is_for_rows_and_for_each_client(small_network, path):
    predictor = _noisy(small_network, path)
    assert len(predictor(torch.zeros(3, 4), client="a")) == 3
    with pytest.raises(PrivacyBudgetExceeded, match=r"budget of 'a' is spent: 2 more .* \(budget 2\), 1 would"):
        predictor(torch.zeros(2, 4), client="a")
    assert predictor.remaining("a") == 1
    predictor(torch.zeros(1, 4), client="a")
    with pytest.raises(PrivacyBudgetExceeded, match=r"1 more answer does not fit in \(budget 2\), 0 would"):
        predictor(torch.zeros(1, 4), client="a")
    assert len(predictor(torch.zeros(4, 4), client="b")) == 4
    assert _noisy(small_network, path).remaining("b") == 0


def test_many_clients_at_once_each_get_their_own(small_network, path):
    predictor = _noisy(small_network, path, mode="noisy_scores", epsilon=1000.0, budget=3000.0)
    inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    first, second, third = predictor.answer_many([("a", inputs[:2]), ("b", inputs[:4]), ("c", inputs[4:])])
    assert isinstance(second, PrivacyBudgetExceeded)
    expected = small_network(inputs).softmax(1).double()
    torch.testing.assert_close(first.scores, expected[:2], rtol=0, atol=0.1)
    torch.testing.assert_close(third.scores, expected[4:], rtol=0, atol=0.1)


def test_an_answer_is_charged_before_the_model_runs(path):
    class Watched(nn.Module):
        def forward(self, inputs):
            seen.append(predictor.ledger.answers("a"))
            raise RuntimeError("power failure")

    seen: list[int] = []
    predictor = _noisy(Watched(), path)
    with pytest.raises(RuntimeError, match="power failure"):
        predictor(torch.zeros(1, 4), client="a")
    assert seen == [1]
    assert predictor.ledger.spent("a") == 0.5


def test_a_refused_request_does_not_run_the_model(path):
    class Watched(nn.Module):
        def forward(self, inputs):
            seen.append(len(inputs))
            return torch.zeros(len(inputs), 2)

    seen: list[int] = []
    predictor = _noisy(Watched(), path)
    predictor.answer_many([("a", torch.zeros(5, 4)), ("b", torch.zeros(2, 4)), ("a", torch.zeros(9, 4))])
    assert seen == [2]


def test_wrong_inputs_cost_nothing(small_export, path):
    predictor = _noisy(load_exported(small_export), path)
    with pytest.raises(RequestError, match="shape"):
        predictor(torch.zeros(1, 5))
    with pytest.raises(RequestError, match="shape"):
        predictor.answer_many([("a", torch.zeros(1, 4)), ("b", torch.zeros(1, 5))])
    assert predictor.ledger.answers() == 0


def test_an_altered_ledger_answers_nothing(small_network, path):
    predictor = _noisy(small_network, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(TamperedError):
        predictor(torch.zeros(1, 4))


def test_nan_is_no_answer_without_noise(path):
    class Broken(nn.Module):
        def forward(self, inputs):
            return torch.full((len(inputs), 4), torch.nan)

    answers = _noisy(Broken(), path, epsilon=1000.0, budget=1e6)(torch.zeros(400, 1))
    assert len(set(answers.labels.tolist())) == 4  # uniform: a label is missing with probability below 1e-49


def test_answers_of_a_private_model_are_free_and_those_of_another_are_not(small_export, public_export, path, tmp_path):
    private = PrivatePredictor(load_exported(small_export), max_answers=2, ledger_path=path, key=KEY)
    private(torch.zeros(2, 4))
    assert private.ledger.spent() == 0.0
    with pytest.raises(PrivacyBudgetExceeded, match="max_answers 2"):
        private(torch.zeros(1, 4))
    other = PrivatePredictor(load_exported(public_export), max_answers=2, ledger_path=tmp_path / "o.db", key=KEY)
    other(torch.zeros(2, 4))
    assert other.ledger.spent() == float("inf")


def test_what_is_guaranteed_is_told(small_export, public_export, path, ledger):
    said = PrivatePredictor(load_exported(small_export)).guarantee()
    assert "epsilon 2.887 at delta 1e-05" in said
    assert "adds nothing to this epsilon" in said
    said = PrivatePredictor(load_exported(public_export)).guarantee()
    assert "Not private" in said
    assert "can tell who was in the training data" in said
    said = _noisy(load_exported(public_export), path, sensitivity=0.1).guarantee()
    assert "epsilon 0.5 with delta 0" in said
    assert "at most 0.1 as declared" in said
    assert "no total_budget" in said
    assert "not protected" in said
    assert "epsilon 2.887" in PrivatePredictor(nn.Linear(2, 2), training=ledger).guarantee()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeededNoiseWarning)
        noise = NoiseSource(seed=1)
    assert "NOT PRIVATE" in _noisy(load_exported(public_export), path, noise=noise).guarantee()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"mode": "noisy_argmax", "epsilon": 1.0}, "averages the noise away"),
        ({"mode": "noisy_argmax", "epsilon": 1.0, "budget": 1.0}, "ledger_path and key"),
        ({"mode": "noisy_argmax", "epsilon": 1.0, "budget": 1.0, "ledger_path": "x.db"}, "ledger_path and key"),
        ({"mode": "label", "budget": 1.0, "ledger_path": "x.db", "key": KEY}, "budget has no meaning"),
        ({"mode": "label", "ledger_path": "x.db", "key": KEY}, "ledger_path is for a limit"),
        ({"mode": "noisy_argmax", "epsilon": 1.0, "budget": -1.0, "ledger_path": "x.db", "key": KEY}, "budget"),
        ({"training": PrivacyLedger(delta=1e-5)}, "no releases"),
        ({"noise": 3}, "noise"),
    ],
    ids=["no budget", "no ledger", "no key", "label", "idle ledger", "negative", "empty ledger", "noise"],
)
def test_what_makes_no_sense_is_named(settings, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=named):
        PrivatePredictor(nn.Linear(4, 3), **settings)
    assert not list(tmp_path.iterdir())


def test_what_is_no_model_and_who_is_no_client(small_network):
    with pytest.raises(ConfigurationError, match="module"):
        PrivatePredictor("model")
    with pytest.raises(ConfigurationError, match="client"):
        PrivatePredictor(small_network)(torch.zeros(1, 4), client="")
    with pytest.raises(RequestError, match="at least one"):
        PrivatePredictor(small_network)(torch.zeros(0, 4))
