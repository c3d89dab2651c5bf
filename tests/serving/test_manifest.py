"""Every bit of an exported folder counts, and whatever is in its files, the errors are ours."""

from __future__ import annotations

import hashlib
import json
import random
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_privacy.errors import ConfigurationError, LightningPrivacyError
from lightning_privacy.security import TamperedError
from lightning_privacy.serving import ExportError, Manifest, RequestError, load_exported
from lightning_privacy.serving.exported_model import checked_inputs
from lightning_privacy.serving.manifest import FILES, ModelCard


@pytest.fixture
def folder(small_export, tmp_path):
    return shutil.copytree(small_export, tmp_path / "copy")


def _sealed(values):
    """A manifest with other content and a digest that fits it."""
    values = {name: each for name, each in values.items() if name != "seal"}
    written = (json.dumps(values, indent=1, sort_keys=True) + "\n").encode()
    seal = {"key_id": None, "value": hashlib.sha256(written).hexdigest()}
    return (json.dumps(values | {"seal": seal}, indent=1, sort_keys=True) + "\n").encode()


def test_each_of_1000_flipped_bits_is_found(folder):
    """Half of them in the manifest, the others anywhere in the files it names."""
    source = random.Random(0)
    manifest = folder / "manifest.json"
    files = [manifest, *(folder / name for name in FILES if (folder / name).exists())]
    assert len(files) == 4
    found = 0
    for number in range(1000):
        path = manifest if number % 2 else source.choice(files)
        whole = path.read_bytes()
        bit = source.randrange(8 * len(whole))
        altered = bytearray(whole)
        altered[bit // 8] ^= 1 << bit % 8
        path.write_bytes(altered)
        with pytest.raises(ExportError):
            load_exported(folder)
        path.write_bytes(whole)
        found += 1
    assert found == 1000
    assert load_exported(folder)(torch.zeros(1, 4)).shape == (1, 3)


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_a_missing_or_cut_file_is_named(folder, name):
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-1])
    with pytest.raises(ExportError, match=name.partition(".")[0]):
        load_exported(folder)
    (folder / name).unlink()
    with pytest.raises(ExportError, match=name):
        load_exported(folder)


def test_a_right_hash_of_a_file_that_is_no_model(folder):
    values = json.loads((folder / "manifest.json").read_text())
    (folder / "model.onnx").write_bytes(b"no model")
    values["files"]["model.onnx"] = {"bytes": 8, "sha256": hashlib.sha256(b"no model").hexdigest()}
    (folder / "manifest.json").write_bytes(_sealed(values))
    with pytest.raises(ExportError, match="onnx file can't be loaded"):
        load_exported(folder)


def _changed(*path, value):
    def change(values):
        for name in path[:-1]:
            values = values[name]
        if value is KeyError:
            del values[path[-1]]
        else:
            values[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_changed("schema", value=2), "schema 2 is not known .* update the package"),
        (_changed("schema", value=0), "schema 0 is not known .* export the model anew"),
        (_changed("kind", value="zoo"), "kind"),
        (_changed("privacy", "epsilon", value=KeyError), "epsilon is missing"),
        (_changed("privacy", "epsilon", value=-1.0), "epsilon"),
        (_changed("privacy", "epsilon", value=None), "private"),
        (_changed("privacy", "private", value=False), "private"),
        (_changed("privacy", "more", value=1), "unknown more"),
        (_changed("files", "../../etc/passwd", value={"bytes": 1, "sha256": "0" * 64}), "files must be among"),
        (_changed("files", "model.onnx", "sha256", value="x"), "sha256"),
        (_changed("files", "model.onnx", "bytes", value=-1), "bytes"),
        (_changed("model", "input_dtype", value="object"), "input_dtype"),
        (_changed("model", "class_names", value=["a"]), "class_names"),
        (_changed("model", "tensors", "0.bias", value=[]), "0.bias"),
        (_changed("model", "input_range", value=[1.0, -1.0]), "input_range"),
        (_changed("model", "input_range", value=[0, 10**400]), "input_range"),
        (_changed("model", "input_range", value=None), "input_range"),
        (_changed("roles", "label", value="kind"), "label"),
        (_changed("metrics", value={"a": {"b": {"c": {"d": {"e": {"f": {}}}}}}}), "nested"),
        (_changed("metrics", value={"a": [1]}), "metrics"),
    ],
    ids=[
        "newer", "older", "kind", "no epsilon", "negative", "null", "contradiction", "superfluous", "path", "hash",
        "size", "dtype", "names", "tensor", "range", "huge", "null range", "roles", "deep", "list",
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_named_even_with_a_digest_that_fits(folder, change, named):
    values = json.loads((folder / "manifest.json").read_text())
    change(values)
    with pytest.raises(ExportError, match=named):
        Manifest.from_bytes(_sealed(values))


def test_another_spelling_is_refused(folder):
    content = (folder / "manifest.json").read_bytes()
    values = json.loads(content)
    for other in (json.dumps(values).encode(), content + b"\n", content.replace(b"0.9", b"9e-1")):
        with pytest.raises(ExportError):
            Manifest.from_bytes(other)
    assert Manifest.from_bytes(content).to_bytes() == content


@pytest.mark.parametrize(
    "value", ["1e999", "NaN", "9" * 5000, "[" * 900 + "]" * 900], ids=["inf", "nan", "long", "deep"]
)
def test_values_that_can_be_read_and_not_written_are_refused(folder, value):
    content = (folder / "manifest.json").read_text().replace('"accuracy": 0.9', f'"accuracy": {value}')
    with pytest.raises(ExportError, match=r"not JSON as this package writes it|digest"):
        Manifest.from_bytes(content.encode())


@given(content=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
@settings(deadline=None)
def test_any_bytes_as_a_manifest(content):
    with pytest.raises(ExportError):
        Manifest.from_bytes(content)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(data=st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_anywhere_in_a_manifest(folder, data):
    """A value somewhere is replaced by any other, and the digest made to fit: it is read, or refused by name."""
    values = json.loads((folder / "manifest.json").read_text())
    place = values
    while True:
        name = data.draw(st.sampled_from(sorted(place)))
        if isinstance(place[name], dict) and place[name] and data.draw(st.booleans()):
            place = place[name]
            continue
        place[name] = data.draw(_JSON)
        break
    content = _sealed(values)
    try:
        manifest = Manifest.from_bytes(content)
    except ExportError:
        return
    assert manifest.to_bytes() == content


@given(name=st.sampled_from(["manifest.json", *FILES]), content=st.binary(max_size=64), cut=st.integers(0, 10**6))
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_put_into_a_file_of_the_folder(folder, name, content, cut):
    path = folder / name
    whole = path.read_bytes() if path.exists() else None
    if whole is not None:
        cut %= len(whole)
        path.write_bytes(whole[:cut] + content + whole[cut + len(content) :])
    try:
        if whole is not None and path.read_bytes() != whole:
            with pytest.raises(ExportError):
                load_exported(folder)
    finally:
        if whole is not None:
            path.write_bytes(whole)


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        (torch.zeros(4), r"got \[4\]"),
        (torch.zeros(2, 5), r"\[N, 4\]"),
        (torch.zeros(0, 4), "at least one"),
        (torch.full((1, 4), torch.nan), "finite"),
        (torch.full((1, 4), 1e300, dtype=torch.float64), "finite"),
    ],
    ids=["no batch", "shape", "empty", "nan", "overflow"],
)
def test_inputs_that_do_not_fit_are_named(small_export, inputs, named):
    with pytest.raises(RequestError, match=named):
        load_exported(small_export)(inputs)


@pytest.mark.parametrize(
    ("shape", "said"),
    [((3,), r"\[N, 3\], one example of 3 numbers after"), ((1, 28, 28), "one example of 1x28x28 numbers"),
     ((1,), r"\[N, 1\], one example of 1 number after"), ((), r"\[N\], one example of 1 number after")],
)  # fmt: skip
def test_the_shape_of_an_example_is_told_in_words(shape, said):
    with pytest.raises(RequestError, match=said):
        checked_inputs(torch.zeros(2, 7, 7, 7, 7), ModelCard("Net", shape, "float32", (4,), None, {}))


@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_inputs_on_another_scale_than_the_declared_one_are_refused(dtype):
    """Pixels up to 255 where the training had -1 to 1; a little outside is somebody's own affair."""
    card = ModelCard("Net", (2,), dtype, (4,), None, {}, input_range=(-1.0, 1.0))
    for inside in (-3, -1, 0, 1, 3):
        assert len(checked_inputs(torch.tensor([[0, inside]]), card)) == 1
    for outside in (-4, 4, 255):
        with pytest.raises(RequestError, match=rf"-1 to 1, got {outside}: scale them"):
            checked_inputs(torch.tensor([[0, outside]]), card)
    undeclared = ModelCard("Net", (2,), dtype, (4,), None, {})
    assert len(checked_inputs(torch.tensor([[0, 255]]), undeclared)) == 1


def test_a_backend_that_is_not_there_is_named(small_export, public_export):
    with pytest.raises(ConfigurationError, match="onnx-int8"):
        load_exported(small_export, backend="onnx-int8")
    with pytest.raises(ConfigurationError, match="backend"):
        load_exported(small_export, backend="tensorrt")
    with pytest.raises(ConfigurationError, match="weights"):
        load_exported(public_export, weights=True)
    assert load_exported(public_export).backend == "torch"


def test_errors_are_of_the_package():
    assert issubclass(ExportError, LightningPrivacyError)
    assert issubclass(TamperedError, LightningPrivacyError)
