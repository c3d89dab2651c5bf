"""From a raw table to a deployed model: one command, one ledger."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import dp_accounting
import pytest
import torch
from dp_accounting.pld import PLDAccountant
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from lightning_privacy.accounting import LaplaceRelease, PrivacyLedger, SampledGaussian, TruncatedSampledGaussian
from lightning_privacy.accounting.epsilon_text import epsilon_text
from lightning_privacy.accounting.releases import SelectionRelease
from lightning_privacy.cli import run
from lightning_privacy.data import AugmentationDataModule, PersonaDataModule
from lightning_privacy.errors import PrivacyBudgetExceeded
from lightning_privacy.plugins import EncryptedCheckpointIO
from lightning_privacy.security import Key
from lightning_privacy.serving import load_exported

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Experiment logs directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
    pytest.mark.filterwarnings("ignore:Logged while training.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
SMALL = ["data.num_persons=500", "data.batch_size=128", "trainer.max_epochs=1", "compare_nonprivate=false"]


def composed(folder: Path, *overrides: str) -> DictConfig:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [
        f"paths.root={folder}",
        f"paths.output_dir={folder}",
        "+trainer.enable_progress_bar=false",
        "~callbacks.progress",
    ]
    with initialize_config_module("lightning_privacy.conf", version_base="1.3"):
        return compose("config", overrides=["experiment=persona", *SMALL, *paths, *overrides])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("persona")
    text = io.StringIO()
    summary = run(composed(folder), folder, Console(file=text, width=100))
    return folder, summary, text.getvalue()


def test_every_stage_has_left_its_artefact_and_none_is_readable(finished: Any) -> None:
    folder, summary, _ = finished
    assert (folder / "deployed" / "manifest.json").is_file()
    # The lock file holds nothing.
    assert {path.suffix for path in (folder / "store").iterdir() if path.stat().st_size} == {".encrypted"}
    assert all(Path(place).exists() for place in summary.artefacts.values())
    key = Key.from_file(folder / "keys" / "lightning-privacy.key")
    checkpoint = EncryptedCheckpointIO(key).load_checkpoint(folder / "checkpoints" / "last.ckpt")
    assert checkpoint["global_step"] == summary.outcome.steps
    with pytest.raises(Exception, match=r"[Ii]nvalid|[Uu]npickl|load|magic|corrupt"):
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def test_p33_epsilon_is_the_composition_of_all_parts(finished: Any) -> None:
    """Composed here from the figures of the ledger's history, by dp_accounting itself."""
    folder, summary, _ = finished
    key = Key.from_file(folder / "keys" / "lightning-privacy.key")
    checkpoint = EncryptedCheckpointIO(key).load_checkpoint(folder / "checkpoints" / "last.ckpt")
    assert summary.guarantee.epsilon <= 3.0
    ledger = PrivacyLedger(delta=1e-5, budget=3.0)
    (state,) = [value for name, value in checkpoint["callbacks"].items() if "DifferentialPrivacy" in name]
    ledger.load_state_dict(state["ledger"])
    accountant = PLDAccountant(dp_accounting.NeighboringRelation.REPLACE_SPECIAL)
    kinds = []
    for release, count, label in ledger.history:
        if isinstance(release, LaplaceRelease | SelectionRelease):  # the second is charged as the first
            event: dp_accounting.DpEvent = dp_accounting.LaplaceDpEvent(1 / release.epsilon)
        else:
            assert isinstance(release, SampledGaussian | TruncatedSampledGaussian)
            event = dp_accounting.PoissonSampledDpEvent(
                release.sample_rate, dp_accounting.GaussianDpEvent(release.noise_multiplier)
            )
        accountant.compose(event, count)
        kinds.append(label)
    assert len(kinds) == 3  # a median, class counts, steps
    # A cap on the batch is a little dearer than none.
    assert summary.guarantee.epsilon == pytest.approx(accountant.get_epsilon(1e-5), rel=0.02)


def test_the_deployed_model_is_the_one_that_was_tested(finished: Any) -> None:
    folder, summary, _ = finished
    manifest = json.loads((folder / "deployed" / "manifest.json").read_text())
    assert manifest["privacy"]["epsilon"] == pytest.approx(summary.guarantee.epsilon)
    assert manifest["metrics"]["acc"] == pytest.approx(summary.outcome.test["acc"])
    assert manifest["quantised"]["before"]["accuracy"] == pytest.approx(summary.outcome.test["acc"], abs=1e-6)
    key = Key.from_file(folder / "keys" / "lightning-privacy.key")
    model = load_exported(folder / "deployed", key=key)
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert str(folder) not in (folder / "deployed" / "manifest.json").read_text()


def test_p34_the_report_says_that_each_person_is_in_one_record(finished: Any) -> None:
    folder, _, _ = finished
    page = (folder / "report.html").read_text()
    assert "at most one example is of one person" in page
    assert "Persons with several examples" not in page


def test_figures_of_training_are_of_images_as_they_are(finished: Any, tmp_path: Path) -> None:
    folder, summary, _ = finished
    plain = composed(
        tmp_path,
        "data.transforms=null",
        f"data.store={folder}/store",
        f"security.key.path={folder}/keys/lightning-privacy.key",
    )
    datamodule = instantiate(plain.data)
    datamodule.ledger = PrivacyLedger(delta=1e-5)
    key = Key.from_file(folder / "keys" / "lightning-privacy.key")
    checkpoint = EncryptedCheckpointIO(key).load_checkpoint(folder / "checkpoints" / "last.ckpt")
    model = instantiate(plain.model)
    model.load_state_dict(checkpoint["state_dict"])
    model.eval()
    train = datamodule.splits.train
    right = (model(train.tensors[0]).argmax(dim=1) == train.labels).float().mean()
    assert summary.outcome.train["acc"] == pytest.approx(float(right), abs=1e-6)


def test_images_are_augmented_one_by_one(tmp_path: Path) -> None:
    """One augmentation of each example, or as many views as privacy was told."""
    datamodule = instantiate(composed(tmp_path).data)
    assert isinstance(datamodule, AugmentationDataModule)
    assert isinstance(datamodule, PersonaDataModule)
    assert datamodule.mixes_examples is None
    assert datamodule.views_per_example == 1
    assert not isinstance(instantiate(composed(tmp_path, "data.transforms=null").data), AugmentationDataModule)
    assert not isinstance(instantiate(composed(tmp_path, "data.transforms.moved=null").data), AugmentationDataModule)


def test_one_override_puts_fashion_mnist_in_place_of_digits(tmp_path: Path) -> None:
    sources = {
        repr(instantiate(composed(tmp_path, *overrides).data)._plan.source)
        for overrides in ([f"data.root={tmp_path}"], ["data=persona_fashion", f"data.root={tmp_path}"])
    }
    (source,) = sources
    assert "fashion-mnist" in source
    assert "digits" in repr(instantiate(composed(tmp_path).data)._plan.source)


def test_p34_what_epsilon_is_for_a_person_in_several_records_is_told(tmp_path: Path) -> None:
    options = ["data.max_records_per_person=2", "data.num_persons=300"]
    guarantee = run(composed(tmp_path, *options), tmp_path, Console(file=io.StringIO())).guarantee
    (told,) = [caveat for caveat in guarantee.caveats if "for a person, both at delta" in caveat]
    record = epsilon_text(guarantee.epsilon)
    assert told.startswith(f"A person may be in 2 records: epsilon is {record} for a record and ")


def test_p34_what_was_released_before_records_were_cut_is_told_for_a_person(tmp_path: Path) -> None:
    early = "{_target_: lightning_privacy.preparation.FillMedian, columns: age, bounds: {age: [18, 95]}, epsilon: 0.05}"
    options = ["data.num_persons=300", "data.preparation.contributions=null", f"+data.preparation.early={early}"]
    guarantee = run(composed(tmp_path, *options), tmp_path, Console(file=io.StringIO())).guarantee
    (told,) = [caveat for caveat in guarantee.caveats if "for a person, both at delta" in caveat]
    (most,) = [caveat for caveat in guarantee.caveats if "before those of a person were cut to 1" in caveat]
    records = int(re.search(r"one person had up to (\d+) of them", most)[1])
    assert records > 1
    assert told.startswith(f"A person may be in {records} records: epsilon is {epsilon_text(guarantee.epsilon)} for")


def test_a_budget_that_is_too_small_stops_before_the_stage_and_names_it(tmp_path: Path) -> None:
    with pytest.raises(PrivacyBudgetExceeded, match=r"(?i)median"):
        run(composed(tmp_path, "callbacks.privacy.epsilon=0.03"), tmp_path, Console(file=io.StringIO()))
    assert not (tmp_path / "deployed").exists()
    assert not (tmp_path / "checkpoints").exists()


def test_p26_resumed_from_its_store_the_preparation_counts_once(finished: Any, tmp_path: Path) -> None:
    folder, summary, _ = finished
    resumed = composed(
        tmp_path,
        f"ckpt_path={folder}/checkpoints/last.ckpt",
        f"data.store={folder}/store",
        f"security.key.path={folder}/keys/lightning-privacy.key",
        "trainer.max_epochs=2",
        "callbacks.privacy.epsilon=null",
        f"callbacks.privacy.noise_multiplier={summary.guarantee.noise_multiplier}",
    )
    again = run(resumed, tmp_path, Console(file=io.StringIO()))
    assert again.guarantee.steps > summary.guarantee.steps
    assert again.guarantee.table.count("age") == summary.guarantee.table.count("age")
