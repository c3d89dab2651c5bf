"""The card is what a hub reads, and has nothing in it that epsilon does not cover publishing."""

from __future__ import annotations

import json

import pytest
import yaml

from lightning_privacy.audit.audit_file import AuditResult
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.report.model_card import ModelCard
from lightning_privacy.report.report_data import report_data
from lightning_privacy.report.run_record import RunRecord


@pytest.fixture(scope="module")
def card(whole_run):
    return ModelCard.of(whole_run).text()


def _header(card):
    _, header, body = card.split("---\n", 2)
    return yaml.safe_load(header), body


def test_the_header_is_what_the_hub_reads(card):
    header, body = _header(card)
    assert header["library_name"] == "pytorch-lightning"
    assert "differential-privacy" in header["tags"]
    (model,) = header["model-index"]
    assert model["name"] == "PersonaNet"
    (result,) = model["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": 0.9}]
    assert result["dataset"]["name"] == "DigitsDataModule"
    assert body.lstrip().startswith("# PersonaNet\n")


def test_the_guarantee_is_on_the_card(card, whole_run):
    guarantee = report_data(RunRecord.read(whole_run))["guarantee"]
    assert guarantee["precise"] in card
    for part in ("Logged while training", "Laplace (epsilon 0.05)", "What it does not cover", "zero-out"):
        assert part in card


def test_what_was_computed_on_the_training_data_is_not_on_the_card(card, whole_run):
    summary = json.loads((whole_run / "summary.json").read_text())
    assert summary["outcome"]["train"]["acc"] == 0.91
    for figure in ("0.91", "91.0%", "0.98", "98.0%", "1,200", "1200", "33"):
        assert figure not in card.replace(str(summary["guarantee"]["epsilon"]), "")
    assert "Pictures from updates" not in card  # an attack on training data
    assert "Canaries in one run" not in card  # measured without noise


def test_a_broken_guarantee_is_no_selling_point(run_copy):
    AuditResult(kind="membership", title="m", verdict="broken", sentence="9 was shown.").write(run_copy)
    card = ModelCard.of(run_copy).text()
    header, body = _header(card)
    assert "differential-privacy" not in header["tags"]
    assert "NOT PRIVATE" in body
    assert "9 was shown." in body


def test_an_empty_folder_makes_a_card_that_claims_nothing(tmp_path):
    header, body = _header(ModelCard.of(tmp_path).text())
    assert header["tags"] == ["lightning-privacy"]
    assert "model-index" not in header
    assert "Not known to be private" in body


def test_hostile_names_stay_text(run_copy):
    name = "x\n---\nlicense: mit\n<script>alert(1)</script> [a](javascript:alert(1)) | `c` **b**"
    (run_copy / "config.yaml").write_text(json.dumps({"model": {"_target_": name}, "data": {"_target_": name}}))
    card = ModelCard.of(run_copy).text()
    header, body = _header(card)
    assert "license" not in header
    assert "<script" not in body
    title = next(line for line in body.splitlines() if line.startswith("# "))
    assert "\\[a\\](" in title
    assert "\\*\\*b\\*\\*" in title
    assert "\\|" in title


def test_the_card_is_written_where_it_is_wanted(whole_run, tmp_path):
    ModelCard.of(whole_run).write(tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == ModelCard.of(whole_run).text()
    with pytest.raises(ConfigurationError, match="folder must be the folder of a run"):
        ModelCard.of(tmp_path / "nowhere")
