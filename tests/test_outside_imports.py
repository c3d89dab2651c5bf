"""What stands outside of the package, some of it run by hand only, asks the package for names that it has."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("benchmarks", "docs", "examples", "tests") for path in (ROOT / folder).rglob("*.py"))


def _missing(text: str) -> list[str]:
    """Names that are imported from the package, in functions too, and are not there."""
    missing = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "lightning_privacy":
            module = importlib.import_module(node.module)
            missing += [f"{node.module}.{alias.name}" for alias in node.names if not hasattr(module, alias.name)]
    return missing


def test_files_are_found_in_each_folder():
    assert {path.relative_to(ROOT).parts[0] for path in FILES} >= {"benchmarks", "examples", "tests"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_that_are_imported_from_the_package_exist(path):
    assert _missing(path.read_text()) == []


def test_a_name_that_is_gone_is_found_in_a_function_too():
    text = "def run():\n    from lightning_privacy.report.sweep_command import write_nothing\n"
    assert _missing(text) == ["lightning_privacy.report.sweep_command.write_nothing"]
