"""Rooms import only from rooms above them; the plain ones never import Lightning."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lightning_privacy

ROOT = Path(lightning_privacy.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# Top to bottom; rooms in one row may import each other.
ROWS = [
    ["errors"],
    ["_validate"],
    ["_text_file", "_secret_names", "_written_config"],
    ["accounting"],
    ["mechanisms"],
    ["gradients"],
    ["sampling"],
    ["federated"],
    ["fairness"],
    ["audit"],
    ["preparation"],
    ["security"],
    ["_lightning"],
    ["models"],
    ["data"],
    ["callbacks", "strategies", "plugins"],
    ["serving"],
    ["sweeps"],
    ["report"],
    ["cli"],
    ["__main__"],
]
ROW_OF = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
PLAIN = {room for room, row in ROW_OF.items() if row < ROW_OF["_lightning"]}
LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric", "lightning_utilities"}
# What a trainer's public interface does not have, and only callbacks/_trainer.py and its other parts may touch.
INTERNALS = {
    "_callback_connector",
    "_checkpoint_connector",
    "_combined_loader",
    "_data_connector",
    "_data_source",
    "_logger_connector",
    "epoch_loop",
    "fit_loop",
    "setup_data",
}


def _room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _imports(tree: ast.AST) -> list[str]:
    """Every module an ``import`` anywhere in the tree names, those inside functions included."""
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module is not None
            found.append(node.module)
            # `from lightning_privacy import callbacks` names the room in what is imported.
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def _violations(source: str, room: str) -> list[str]:
    """What the file of a room imports and must not."""
    imports = _imports(ast.parse(source))
    found = []
    for name in imports:
        parts = name.split(".")
        if parts[0] in LIGHTNING and room != "_lightning":
            found.append(name)
        if parts[0] == "lightning_privacy" and len(parts) > 1 and parts[1] in ROW_OF and room in ROW_OF:
            other = parts[1]
            if other != room and ROW_OF[other] > ROW_OF[room]:
                found.append(name)
            if other == "_lightning" and room in PLAIN:
                found.append(name)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_from_rooms_above(path):
    assert _violations(path.read_text(encoding="utf-8"), _room(path)) == []


def test_every_room_has_its_place():
    rooms = {_room(path) for path in FILES} - {"__init__"}
    assert rooms <= set(ROW_OF)


@pytest.mark.parametrize(
    ("source", "room"),
    [
        ("import pytorch_lightning as pl", "callbacks"),
        ("from lightning.pytorch import Trainer", "sampling"),
        ("from lightning_privacy._lightning import Trainer", "gradients"),
        ("from lightning_privacy.callbacks import DifferentialPrivacy", "accounting"),
        ("def inside():\n    from lightning_privacy import gradients", "accounting"),
    ],
)
def test_the_check_sees_a_violation(source, room):
    assert _violations(source, room)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_one_file_touches_internals_of_lightning(path):
    if path.parent == ROOT / "callbacks" and path.name in ("_trainer.py", "_trainer_loader.py", "_trainer_rounds.py"):
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    touched = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & INTERNALS
    assert touched == set()
