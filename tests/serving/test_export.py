"""What an export holds, what it must not hold, and that it computes what the module does."""

from __future__ import annotations

import json
import re
import zipfile
from functools import partial
from pathlib import Path

import pytest
import torch
import torchmetrics
from torch import nn

from lightning_privacy import PrivacyLedger
from lightning_privacy._lightning import Trainer
from lightning_privacy.accounting import (
    GaussianRelease,
    LaplaceRelease,
    RandomizedResponseRelease,
    SampledGaussian,
    SelectionRelease,
)
from lightning_privacy.accounting.epsilon_text import epsilon_text
from lightning_privacy.data import DigitsDataModule, PersonaDataModule
from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.fairness import GroupSample
from lightning_privacy.fairness.table import FairnessTable
from lightning_privacy.models import Classifier, PersonaNet
from lightning_privacy.preparation.roles import Roles
from lightning_privacy.security import Key, WrongKeyError
from lightning_privacy.serving import DeclaredData, ExportError, export, load_exported
from lightning_privacy.serving.deployment import Deployment
from lightning_privacy.serving.privacy_statement import PrivacyStatement
from lightning_privacy.serving.quantise import accuracy_of, int8_bytes


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A classifier after a fit, with its trainer, optimizer and data still attached, and its export."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data = DigitsDataModule(batch_size=64)
    classifier = Classifier(PersonaNet(), num_classes=10, optimizer=partial(torch.optim.Adam, lr=1e-3))
    folder = tmp_path_factory.mktemp("trained")
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, num_sanity_val_steps=0, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(classifier, datamodule=data)
    images, labels = (torch.stack([torch.as_tensor(row[i]) for row in data.splits.test]) for i in (0, 1))
    names = ["even" if label % 2 == 0 else "odd" for label in labels.tolist()]
    held_out = DeclaredData(images, labels=labels, groups={"parity": names}, source="held_out")
    training = torch.stack([row[0] for row in data.splits.train])
    manifest = export(
        classifier, folder / "model", example_input=training, quantise="static", calibration=held_out, evaluate=held_out
    )
    return classifier, folder / "model", manifest, held_out, training


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_a_program_computes_what_the_module_does_on_batches_of_any_length(trained, backend):
    classifier, folder, _, held_out, _ = trained
    model = load_exported(folder, backend=backend)
    classifier.eval()
    for length in (1, 2, 7, 100):
        inputs = held_out.inputs[:length]
        with torch.no_grad():
            torch.testing.assert_close(model(inputs), classifier(inputs), rtol=1e-4, atol=1e-5)


def test_weights_are_the_backbones(trained):
    classifier, folder, manifest, _, _ = trained
    weights = load_exported(folder, weights=True).weights
    expected = classifier.backbone.state_dict()
    assert set(weights) == set(expected) == set(manifest.model.tensors)
    for name, value in expected.items():
        assert torch.equal(weights[name], value)


def test_int8_is_small_and_its_accuracy_is_told_before_and_after_by_group(trained):
    classifier, folder, manifest, held_out, _ = trained
    told = manifest.quantised
    assert told["bytes_after"] < 0.3 * told["bytes_before"]
    labels = held_out.labels
    even = labels % 2 == 0
    for place, run in (("before", classifier.eval()), ("after", load_exported(folder, backend="onnx-int8"))):
        with torch.no_grad():
            right = run(held_out.inputs).argmax(1) == labels
        assert told[place]["accuracy"] == pytest.approx(right.double().mean().item())
        assert told[place]["groups"]["parity"]["even"]["accuracy"] == pytest.approx(right[even].double().mean().item())
        assert told[place]["source"] == "held_out"
    assert told["before"]["accuracy"] > 0.8
    assert told["after"]["accuracy"] > told["before"]["accuracy"] - 0.03
    assert told["calibration"] == {"source": "held_out", "examples": len(held_out)}


def test_nothing_else_leaves(trained):
    """No example, no path, no optimizer state, no hyper-parameter, in any file or part of one."""
    _, folder, _, _, training = trained
    parts = {path.name: path.read_bytes() for path in folder.iterdir()}
    with zipfile.ZipFile(folder / "model.pt2") as archive:
        parts |= {f"pt2:{name}": archive.read(name) for name in archive.namelist()}
    assert parts["pt2:archive/data/sample_inputs/model.pt"] == b""
    rows = [row.numpy().tobytes()[600:1400] for row in training[::50]]
    assert all(any(row) for row in rows)
    for name, content in parts.items():
        assert not any(row in content for row in rows), name
        assert not re.search(rb"/home|/work|/tmp|/usr|/root|site-packages|\w{4}\.py\b|stack_trace", content), name
        assert str(Path.cwd()).encode() not in content, name
        assert not re.search(rb"exp_avg|optimizer|learning_rate|batch_size", content), name


def test_the_module_is_left_as_it_was(trained):
    classifier = trained[0]
    assert all(parameter.requires_grad for parameter in classifier.parameters())
    assert classifier._trainer is not None


def test_the_manifest_tells_the_ledgers_guarantee(small_export, ledger):
    told = json.loads((small_export / "manifest.json").read_text())
    assert told["privacy"]["private"] is True
    assert told["privacy"]["epsilon"] == ledger.epsilon(exact=True)
    assert told["privacy"]["replace_one_epsilon"] == ledger.replace_one_epsilon()
    assert (told["privacy"]["delta"], told["privacy"]["unit"]) == (1e-5, "person")
    assert "null record" in told["privacy"]["adjacency"]
    assert told["roles"] == {"label": ["kind"], "groups": ["gender"]}
    assert told["metrics"] == {"source": "held_out", "accuracy": 0.9}


def test_without_a_ledger_it_is_called_not_private(public_export):
    privacy = load_exported(public_export).manifest.privacy
    assert (privacy.private, privacy.epsilon) == (False, None)
    assert "Not private" in privacy.text


@pytest.mark.parametrize(
    "releases",
    [
        [LaplaceRelease(0.5)],
        [RandomizedResponseRelease(1.0, 10), SelectionRelease(0.1)],
        [GaussianRelease(3.0)],
    ],
    ids=["statistic", "labels", "gaussian"],
)
def test_data_releases_alone_make_no_private_model(tmp_path, small_network, releases):
    """The ledger of a data module is not that of a training, which was not private."""
    ledger = PrivacyLedger(delta=1e-5)
    for release in releases:
        ledger.charge(release)
    export(small_network, tmp_path / "model", example_input=torch.zeros(1, 4), ledger=ledger, formats=["torch"])
    statement = load_exported(tmp_path / "model").manifest.privacy
    assert not statement.private
    assert statement.epsilon is None
    assert len(statement.releases) == len(releases)
    assert statement.text.startswith("Not private: trained without differential privacy. Caveat: Only what was learned")
    assert f"costs epsilon {epsilon_text(ledger.epsilon(exact=True))}" in statement.caveats[0]
    # With noisy steps beside them, all count.
    ledger.charge(SampledGaussian(1.0, 0.1), 10, label="training")
    both = PrivacyStatement.of(ledger)
    assert both.private
    assert both.epsilon == ledger.epsilon(exact=True)
    assert both.caveats == ()


def test_a_release_without_protection_makes_it_not_private(tmp_path, small_network):
    ledger = PrivacyLedger(delta=1e-5)
    ledger.mark_not_private("raw counts")
    manifest = export(small_network, tmp_path / "m", example_input=torch.zeros(1, 4), ledger=ledger, formats=["torch"])
    assert (manifest.privacy.private, manifest.privacy.epsilon) == (False, None)


@pytest.mark.parametrize(
    ("argument", "data"),
    [
        ("calibration", {"quantise": "static"}),
        ("evaluate", {}),
    ],
    ids=["calibration", "evaluate"],
)
def test_private_data_do_not_leave_with_a_private_model(tmp_path, small_network, ledger, argument, data):
    private = DeclaredData(torch.rand(9, 4), labels=torch.zeros(9, dtype=torch.int64))
    call = partial(
        export, small_network, tmp_path / "m", example_input=torch.zeros(1, 4), **{argument: private}, **data
    )
    with pytest.raises(UnsupportedError, match="source='public' or 'held_out'"):
        call(ledger=ledger)
    assert not list(tmp_path.iterdir())
    assert "private data" in call(formats=["torch", "onnx"]).privacy.text


def test_buffers_are_a_caveat(tmp_path, ledger):
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    call = partial(export, network, example_input=torch.zeros(1, 4), formats=["torch"])
    assert "1.running_mean" in " ".join(call(tmp_path / "a", ledger=ledger).privacy.caveats)
    assert call(tmp_path / "b").privacy.caveats == ()


def test_p33_states_of_metrics_and_extra_states_are_a_caveat(tmp_path, ledger):
    class Counting(nn.Linear):
        def get_extra_state(self):
            return torch.ones(3)

        def set_extra_state(self, state):
            """There is nothing to set."""

    network = nn.Sequential(Counting(4, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    network[2].weight = network[1].weight  # a parameter, under whichever name
    network.metric = torchmetrics.MeanMetric()
    network.forward = lambda inputs: network[2](network[1](network[0](inputs)))
    call = partial(export, network, example_input=torch.zeros(1, 4), formats=["safetensors"])
    (caveat,) = (each for each in call(tmp_path / "a", ledger=ledger).privacy.caveats if "as they stand" in each)
    assert "states of the network (0._extra_state) are" in caveat
    network.metric.persistent(True)
    (caveat,) = (each for each in call(tmp_path / "b", ledger=ledger).privacy.caveats if "as they stand" in each)
    assert "metric.mean_value" in caveat
    assert "metric.weight" in caveat
    assert "2.weight" not in caveat
    assert call(tmp_path / "c").privacy.caveats == ()


def test_paths_in_texts_are_taken_out(tmp_path, small_network):
    ledger = PrivacyLedger(delta=1e-5)
    ledger.mark_not_private("x")
    ledger.add_caveat(
        "The journal /home/Jane Doe/run 7/charges.jsonl was lost, and C:\\Users\\jane\\x too; 3/4 and/or a."
    )
    manifest = export(small_network, tmp_path / "m", example_input=torch.zeros(1, 4), ledger=ledger, formats=["torch"])
    (caveat,) = manifest.privacy.caveats
    assert "Jane" not in caveat
    assert "jane" not in caveat
    assert "3/4 and/or a" in caveat


def test_tables_and_tensors_are_figures(tmp_path, small_network):
    counts = torch.tensor([[[40, 10], [10, 40]], [[0, 0], [0, 1]]])
    table = FairnessTable.of(GroupSample(counts), attribute="sex", group_names=("f", "m"), min_group_size=9)
    metrics = {"source": "public", "loss": torch.tensor(0.5), "undefined": float("nan"), "sex": table}
    manifest = export(
        small_network, tmp_path / "m", example_input=torch.zeros(1, 4), metrics=metrics, formats=["torch"]
    )
    assert (manifest.metrics["loss"], manifest.metrics["undefined"]) == (0.5, None)
    assert manifest.metrics["sex"]["groups"]["f"]["accuracy"] == pytest.approx(0.8)
    assert manifest.metrics["sex"]["too_small_to_judge"] == "m"


def test_roles_of_a_preparation_are_taken(tmp_path, small_network):
    roles = Roles(identifier="name", groups=("gender",))
    manifest = export(small_network, tmp_path / "m", example_input=torch.zeros(1, 4), roles=roles, formats=["torch"])
    assert manifest.roles == {"identifier": ("name",), "groups": ("gender",)}


def test_tied_weights_are_written(tmp_path):
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network[1].weight = network[0].weight
    export(network, tmp_path / "m", example_input=torch.zeros(1, 4), formats=["safetensors", "torch"])
    weights = load_exported(tmp_path / "m", weights=True).weights
    assert torch.equal(weights["0.weight"], weights["1.weight"])


class _Random(nn.Module):
    def forward(self, inputs):
        return inputs + torch.rand_like(inputs)


class _Branches(nn.Module):
    def forward(self, inputs):
        return inputs if inputs.sum() > 0 else -inputs


class _Stateful(nn.Linear):
    def get_extra_state(self):
        return {"names": ["Alice"]}

    def set_extra_state(self, state):
        pass


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"module": "net"}, ConfigurationError, "module"),
        ({"module": _Random()}, ExportError, "is its forward random"),
        ({"module": _Branches()}, UnsupportedError, "branches that depend on the data"),
        ({"module": _Stateful(4, 3)}, UnsupportedError, "_extra_state"),
        ({"example_input": torch.zeros(4)}, ConfigurationError, "example_input"),
        ({"example_input": torch.zeros(1, 5)}, ConfigurationError, r"shape \[5, 5\]"),
        ({"formats": ["torchscript"]}, ConfigurationError, "formats"),
        ({"formats": []}, ConfigurationError, "formats"),
        ({"formats": ["torch"], "quantise": "dynamic"}, ConfigurationError, "onnx"),
        ({"ledger": PrivacyLedger(delta=1e-5)}, ConfigurationError, "ledger has no releases"),
        ({"ledger": 3.0}, ConfigurationError, "ledger"),
        ({"metrics": {"accuracy": 0.9}}, ConfigurationError, "source"),
        ({"metrics": {"source": "public", "x": object()}}, ConfigurationError, "numbers"),
        ({"roles": {"label": [3]}}, ConfigurationError, "roles"),
        ({"class_names": ["a"]}, ConfigurationError, "class_names"),
        ({"input_range": [1, -1]}, ConfigurationError, "input_range"),
        ({"input_range": 3.0}, ConfigurationError, "input_range"),
        ({"input_range": [0, float("inf")]}, ConfigurationError, "input_range"),
        ({"calibration": DeclaredData(torch.rand(2, 4), source="public")}, ConfigurationError, "calibration"),
    ],
    ids=[
        "no module", "random", "branches", "extra state", "no batch", "wrong shape", "format", "no format",
        "int8 of what", "empty ledger", "no ledger", "unsourced", "object", "roles", "names", "range",
        "one number", "no end", "idle calibration",
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_named_and_nothing_is_written(tmp_path, small_network, arguments, error, named):
    given = {"module": small_network, "example_input": torch.zeros(1, 4), "formats": ["torch"], **arguments}
    with pytest.raises(error, match=named):
        export(given.pop("module"), tmp_path / "m", **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"inputs": torch.zeros(0, 4)}, "at least one"),
        ({"inputs": torch.zeros(2, 4), "labels": torch.zeros(3)}, "labels"),
        ({"inputs": torch.zeros(2, 4), "groups": {"sex": ["f"]}}, "sex"),
        ({"inputs": torch.zeros(2, 4), "source": "mine"}, "source"),
    ],
    ids=["empty", "labels", "groups", "source"],
)
def test_data_that_do_not_fit_are_named(arguments, named):
    with pytest.raises(ConfigurationError, match=named):
        DeclaredData(**arguments)


def test_int8_asks_for_what_it_needs():
    with pytest.raises(ConfigurationError, match="calibration"):
        int8_bytes(b"", method="static")
    with pytest.raises(ConfigurationError, match="calibration"):
        int8_bytes(b"", method="dynamic", calibration=torch.zeros(1, 4))
    with pytest.raises(ConfigurationError, match="labels"):
        accuracy_of(torch.zeros(1, 2).numpy(), DeclaredData(torch.zeros(1, 4)))


def test_a_taken_folder_is_left_alone(tmp_path, small_network):
    target = tmp_path / "m"
    target.mkdir()
    (target / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigurationError, match="is there already"):
        export(small_network, target, example_input=torch.zeros(1, 4))
    assert (target / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("moment", ["os.fsync", "pathlib.Path.rename"])
def test_a_folder_is_there_whole_or_not_at_all(tmp_path, small_network, monkeypatch, moment):
    def fail(*_):
        raise OSError(28, "No space left on device")

    call = partial(export, small_network, tmp_path / "m", example_input=torch.zeros(1, 4), formats=["torch"])
    with monkeypatch.context() as patch:
        patch.setattr(moment, fail)
        with pytest.raises(OSError, match="No space left"):
            call()
    assert not list(tmp_path.iterdir())
    # What a killed export left is in nobody's way.
    (tmp_path / ".m.partial").mkdir()
    (tmp_path / ".m.partial" / "model.pt2").write_bytes(b"half")
    call()
    assert [each.name for each in tmp_path.iterdir()] == ["m"]


def test_a_key_authenticates_the_whole(tmp_path, small_network):
    key = Key.generate(key_id="release")
    export(small_network, tmp_path / "m", example_input=torch.zeros(1, 4), formats=["torch"], key=key)
    assert load_exported(tmp_path / "m", key=key)(torch.zeros(2, 4)).shape == (2, 3)
    with pytest.raises(ExportError, match="'release'"):
        load_exported(tmp_path / "m")
    with pytest.raises(WrongKeyError):
        load_exported(tmp_path / "m", key=bytes(32))


def test_without_protection_of_a_key_a_forged_manifest_is_refused_by_who_has_one(public_export):
    with pytest.raises(ExportError, match="sealed without this key"):
        load_exported(public_export, key=bytes(32))


def test_the_range_of_inputs_is_the_one_that_was_declared(tmp_path, small_network):
    """Never that of the example, whose values are not looked at."""
    example = torch.full((3, 4), 0.7)
    left_out = export(small_network, tmp_path / "a", example_input=example, formats=["torch"])
    assert left_out.model.input_range is None
    assert "input_range" not in (tmp_path / "a" / "manifest.json").read_text()
    export(small_network, tmp_path / "b", example_input=example, input_range=(-1, 1), formats=["torch"])
    assert load_exported(tmp_path / "b").manifest.model.input_range == (-1.0, 1.0)


def test_a_deployment_declares_what_its_data_module_does(tmp_path):
    datamodule = DigitsDataModule()
    assert float(datamodule.splits.test.tensors[0].min()) >= -1
    assert float(datamodule.splits.test.tensors[0].max()) <= 1
    model = Classifier(PersonaNet(), num_classes=10, optimizer=torch.optim.Adam)
    deployment = Deployment(tmp_path / "m", formats=["safetensors"], quantise=None)
    assert deployment.deploy(model, datamodule).model.input_range == (-1.0, 1.0)
    assert PersonaDataModule.input_range == (-1.0, 1.0)
