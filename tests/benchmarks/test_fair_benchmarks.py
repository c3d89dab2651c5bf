"""The benchmarks of Adult and of group DRO: they train what they say, and judge as they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_privacy.data.coloured import coloured
from lightning_privacy.data.in_memory import InMemoryDataset

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROW = "39, Private, 1, Bachelors, 13, Divorced, Sales, Unmarried, White, {}, {}, 0, 40, Cuba, {}"


def _row(accuracy, gap, epsilon=None):
    spent = {} if epsilon is None else {"epsilon": epsilon, "delta": 1e-5}
    run = {"test_accuracy": accuracy, "demographic_parity_gap": gap, **spent}
    return {"median_test_accuracy": accuracy, "median_gap": abs(gap), "runs": [run, run]}


def test_adult_is_judged_by_every_run(load_benchmark):
    adult = load_benchmark("adult")
    good = {"logistic": _row(0.845, 0.18), "fair": _row(0.83, -0.09), "logistic, epsilon 1": _row(0.842, 0.18, 0.99)}
    assert len(adult.judge(good)) == 5
    assert all(adult.judge(good).values())
    for name, bad in [
        ("logistic", _row(0.8439, 0.2)),
        ("fair", _row(0.83, -0.091)),
        ("fair", _row(0.8249, 0.05)),
        ("logistic, epsilon 1", _row(0.85, 0.1, 1.01)),
    ]:
        mixed = {**bad, "runs": [good[name]["runs"][0], bad["runs"][0]]}
        assert list(adult.judge({**good, name: mixed}).values()).count(False) == 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["logistic", "fair, epsilon 3"])
def test_adult_trains_the_experiment_and_looks_at_the_groups(tmp_path, load_benchmark, name):
    adult = load_benchmark("adult")
    sexes, incomes = ("Male", "Female", "Male", "Female"), (">50K", "<=50K", "<=50K", ">50K")
    rows = [ROW.format(sex, 5000 * (income == ">50K"), income) for sex, income in zip(sexes, incomes, strict=True)]
    (tmp_path / "adult.data").write_text("\n".join(rows * 50))
    (tmp_path / "adult.test").write_text("\n".join(rows * 3))
    small = ["trainer.max_epochs=2", "data.batch_size=20"]
    if name != "logistic":
        small += ["callbacks.privacy.delta=1e-4", "callbacks.privacy.probe=false"]
    figures, settings = adult.train(adult.ROWS[name], root=tmp_path, seed=1, overrides=small)
    assert figures["sex"]["male"]["n"] == figures["sex"]["female"]["n"] == 6
    rates = [figures["sex"][sex]["selection_rate"] for sex in ("male", "female")]
    assert figures["demographic_parity_gap"] == rates[0] - rates[1]
    mean = sum(figures["sex"][sex]["accuracy"] for sex in ("male", "female")) / 2
    assert figures["test_accuracy"] == pytest.approx(mean)
    assert settings["max_epochs"] == 2
    if name != "logistic":
        assert figures["epsilon"] <= 3.0
        assert "class counts" in figures["ledger"]


def test_group_dro_trains_all_sides(monkeypatch, load_benchmark):
    benchmark = load_benchmark("group_dro")
    monkeypatch.setattr(benchmark, "_BATCH", 20)
    labels = torch.arange(80) % 2
    pictures, _, groups = coloured(torch.rand(80, 28, 28), labels, num_labels=2, correlation=0.7, seed=0)
    part = InMemoryDataset(pictures, labels, groups)
    result = benchmark.run(benchmark.Parts(part, part, part), seeds=[1, 2], epochs=1, decays=(0.0, 0.1))
    assert [len(side["search"]) for side in result["sides"].values()] == [2, 2, 2]
    dro, plain = (result["sides"][name]["runs"] for name in ("group_dro", "plain"))
    gains = [one["test_worst"] - other["test_worst"] for one, other in zip(dro, plain, strict=True)]
    assert result["gain_of_the_worst_group"] == gains
    assert list(result["claims"].values()) == [min(gains) >= 0.1]
    assert sum(dro[0]["weights_at_the_end"].values()) == pytest.approx(1)
    assert dro[0]["test_worst"] == min(dro[0]["test_groups"].values())
