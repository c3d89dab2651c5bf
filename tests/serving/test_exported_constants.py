"""What a program holds besides parameters is named in the manifest, wherever the network keeps it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_privacy.serving import export

ROW = torch.tensor([[0.1234567, -7.654321, 3.1415927, 2.7182817]])
PLANTED = ROW.numpy().tobytes()
PLACES = ("buffer", "passing buffer", "attribute", "box", "array", "numbers", "inner", "unused buffer", "unused")


class Remembers(nn.Module):
    """A network that compares its inputs with a person."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)
        self.place = place
        self.inner = nn.Identity()
        if "buffer" in place:
            self.register_buffer("person", ROW.clone(), persistent=place == "buffer")
        elif place == "box":
            self.box = {"of": [ROW.clone()]}
        elif place == "array":
            self.array = ROW.numpy()
        elif place == "numbers":
            self.numbers = ROW.tolist()
        elif place == "inner":
            self.inner.person = ROW.clone()
        else:
            self.person = ROW.clone()

    def _person(self, inputs):
        if self.place == "box":
            return self.box["of"][0]
        if self.place == "array":
            return torch.from_numpy(self.array)
        if self.place == "numbers":
            return torch.tensor(self.numbers)
        if "unused" in self.place:
            return torch.ones_like(inputs[:1])
        return (self.inner if self.place == "inner" else self).person

    def forward(self, inputs):
        near = (self.inner(inputs) * self._person(inputs)).sum(1, keepdim=True)
        return self.layer(torch.cat([inputs, near], dim=1))


def _contents(path: Path) -> list[bytes]:
    found = [path.read_bytes()]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            found += [archive.read(name) for name in archive.namelist()]
    return found


def _holding(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if any(PLANTED in content for content in _contents(path)))


@pytest.mark.parametrize("formats", [["safetensors"], ["torch"], ["onnx"], ["safetensors", "torch", "onnx"]])
@pytest.mark.parametrize("place", PLACES)
def test_p33_a_person_inside_a_file_is_named_by_a_caveat(tmp_path, ledger, place, formats):
    folder = tmp_path / "model"
    manifest = export(Remembers(place), folder, example_input=torch.zeros(1, 4), ledger=ledger, formats=formats)
    held = _holding(folder)
    added = set(manifest.model.tensors) - {"layer.weight", "layer.bias"}
    caveats = [each for each in manifest.privacy.caveats if "as they stand" in each]
    if held:
        (name,) = added
        assert manifest.model.tensors[name] == ((1, 4), "float32")
        assert len(caveats) == 1
        assert f"({name})" in caveats[0]
    elif formats == ["safetensors"] or place == "unused":
        assert (added, caveats) == (set(), [])
    if place == "buffer":
        assert held == sorted(manifest.files)
    elif "unused" not in place:
        assert held == sorted(set(manifest.files) - {"model.safetensors"})


def test_p33_int8_too_and_nothing_without_a_guarantee(tmp_path, ledger):
    call = {"example_input": torch.zeros(1, 4), "quantise": "dynamic"}
    assert "(person)" in " ".join(export(Remembers("attribute"), tmp_path / "a", ledger=ledger, **call).privacy.caveats)
    manifest = export(Remembers("attribute"), tmp_path / "b", **call)
    assert "person" in manifest.model.tensors
    assert manifest.privacy.caveats == ()


def test_a_parameter_under_another_name_is_no_constant(tmp_path, ledger):
    class Twice(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs) + inputs @ self.again[0].T

    network = nn.Sequential(Twice(4, 3))
    network[0].again = [network[0].weight]
    manifest = export(
        network, tmp_path / "a", example_input=torch.zeros(1, 4), ledger=ledger, formats=["torch", "onnx"]
    )
    assert set(manifest.model.tensors) == {"0.weight", "0.bias"}
    assert manifest.privacy.caveats == ()
