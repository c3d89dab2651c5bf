"""Every experiment runs: one step, its test, its summary; on made-up files in the format of the real ones."""

from __future__ import annotations

import io
import json
import struct
import warnings
from pathlib import Path

import lightning_privacy.conf
import numpy as np
import pytest
from hydra import compose, initialize_config_module
from hydra.errors import InstantiationException
from rich.console import Console

from lightning_privacy.cli import run
from lightning_privacy.errors import ConfigurationError

CONF = Path(lightning_privacy.conf.__file__).parent
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
ADULT = (
    "{age}, Private, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, {race}, {sex}, 2174, 0, 40, "
    "United-States, {label}"
)
# What the made-up files are too small for.
SMALL_IMAGES = ("data.batch_size=64", "data.download=false")
SMALL_CLIENTS = (
    "data.batch_size=10", "data.download=false", "data.val_size=20", "trainer.strategy.partition.num_clients=6",
    "trainer.strategy.cohort_size=3",
)  # fmt: skip
SMALLER: dict[str, tuple[str, ...]] = {
    "adult": ("data.batch_size=64", "data.val_size=20"),
    "adult_fair": ("data.batch_size=64",),
    "adult_fair_private": ("data.batch_size=64",),
    "adult_logistic": ("data.batch_size=64",),
    "digits_nonprivate": (),
    "digits_private_labels": (),
    "fashion_mnist": SMALL_IMAGES,
    "fashion_mnist_scattering": SMALL_IMAGES,
    "federated_fashion_mnist": SMALL_CLIENTS,
    "federated_fashion_mnist_private": SMALL_CLIENTS,
    "federated_shakespeare": ("trainer.strategy.cohort_size=2", "data.sequence_length=20"),
    "mnist_scattering": SMALL_IMAGES,
    "persona": ("data.num_persons=400", "data.batch_size=64", "compare_nonprivate=false"),
}
PRIVATE = {
    name for name in SMALLER if name.startswith(("adult", "fashion", "mnist", "persona")) and name != "adult_fair"
}


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with images, rows of Adult and a play, in the publishers' formats."""
    folder = tmp_path_factory.mktemp("files")
    draws = np.random.default_rng(0)
    for part, count in (("train", 160), ("t10k", 60)):
        images = draws.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(_idx(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(_idx((np.arange(count) % 10).astype(np.uint8)))
    for name, count in (("adult.data", 200), ("adult.test", 100)):
        rows = [
            ADULT.format(
                age=20 + number % 50,
                race=("White", "Black", "Other")[number % 3],
                sex=("Male", "Female")[number % 2],
                label=(">50K", "<=50K")[number // 2 % 2],
            )
            for number in range(count)
        ]
        (folder / name).write_text("\n".join(rows) + "\n")
    speech = "To be, or not to be, that is the question. " * 8
    (folder / "input.txt").write_text("\n\n".join(f"SPEAKER {number}:\n{speech}" for number in range(4)) + "\n")
    return folder


def test_every_experiment_is_run():
    assert set(SMALLER) == set(EXPERIMENTS)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_runs(experiment, files, tmp_path):
    if experiment == "persona":
        for extra in ("mimesis", "polars", "rapidfuzz"):
            pytest.importorskip(extra, reason="needs the extra persona")
    where = [f"paths.root={tmp_path}", f"paths.output_dir={tmp_path}"]
    if "digits" not in experiment and experiment != "persona":
        where.append(f"data.root={files}")
    with initialize_config_module("lightning_privacy.conf", version_base="1.3"):
        config = compose(
            "config",
            overrides=[f"experiment={experiment}", "trainer.fast_dev_run=true", *where, *SMALLER[experiment]],
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of delta against few examples, of the logger that is not used, ...
        summary = run(config, tmp_path, Console(file=io.StringIO()))
    assert summary.outcome.steps == 1
    assert summary.outcome.test
    private = experiment in PRIVATE or experiment.endswith("_private")
    assert (summary.guarantee is not None) == private
    if summary.guarantee is not None:
        # One step with the noise of one step: the budget is used, and kept.
        budget = config.callbacks.privacy.epsilon if "privacy" in config.callbacks else 8.0
        assert 0.9 * budget < summary.guarantee.epsilon <= budget
    assert json.loads((tmp_path / "summary.json").read_text())["outcome"]["steps"] == 1


def test_a_run_whose_export_fails_has_its_result_and_its_report(tmp_path, monkeypatch):
    pytest.importorskip("onnx", reason="needs the extra export")
    from lightning_privacy.serving.deployment import Deployment

    def full(*_args, **_kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(Deployment, "deploy", full)
    with initialize_config_module("lightning_privacy.conf", version_base="1.3"):
        config = compose(
            "config",
            overrides=["deploy=default", "trainer.fast_dev_run=true", f"paths.root={tmp_path}",
                       f"paths.output_dir={tmp_path}"],
        )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        told = io.StringIO()
        with pytest.raises(OSError, match="No space left"):
            run(config, tmp_path, Console(file=told))
    assert json.loads((tmp_path / "ledger.json").read_text())["epsilon"] > 0
    assert {"summary.json", "summary.txt", "report.html"} <= {path.name for path in tmp_path.iterdir()}
    assert "test accuracy" in told.getvalue()
    assert "Model to deploy" not in told.getvalue()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("deploy.folder=null", "folder must be a path"),
        ("deploy.formats=[pickle]", "formats"),
        ("deploy.folder={taken}", "taken"),
    ],
)
def test_a_deployment_that_cannot_be_is_refused_before_training(tmp_path, setting, words):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    (tmp_path / "run").mkdir()
    with initialize_config_module("lightning_privacy.conf", version_base="1.3"):
        config = compose(
            "config",
            overrides=["deploy=default", "trainer.fast_dev_run=true", f"paths.output_dir={tmp_path}/run",
                       setting.format(taken=tmp_path / "taken")],
        )  # fmt: skip
    told = io.StringIO()
    with pytest.raises((ConfigurationError, InstantiationException), match=words):
        run(config, tmp_path / "run", Console(file=told))
    assert "Training" not in told.getvalue()
