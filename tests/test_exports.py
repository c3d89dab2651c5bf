"""What can be imported from ``lightning_privacy``, and from each module, is complete and sorted."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_privacy

ROOT = Path(lightning_privacy.__file__).parent
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages([str(ROOT)], prefix="lightning_privacy.")
    if not module.name.startswith("lightning_privacy.conf")
)


def _sort_key(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, as ruff sorts ``__all__``."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("name", lightning_privacy.__all__)
def test_every_public_name_is_there(name):
    assert getattr(lightning_privacy, name) is not None
    assert name in dir(lightning_privacy)


def test_the_names_a_type_checker_sees_are_those_at_run_time():
    tree = ast.parse((ROOT / "__init__.py").read_text())
    (guard,) = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    seen = {alias.name for node in ast.walk(guard) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(lightning_privacy.__all__) - {"__version__"}
    assert seen == set(lightning_privacy._ROOM_OF)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Privacy'"):
        lightning_privacy.Privacy  # noqa: B018


@pytest.mark.parametrize("name", ["lightning_privacy", *MODULES])
def test_all_is_there_sorted_and_true(name):
    module = importlib.import_module(name)
    exported = module.__all__
    assert list(exported) == sorted(set(exported), key=_sort_key)
    for attribute in exported:
        assert hasattr(module, attribute)


@pytest.mark.parametrize("name", ["lightning_privacy", *(name for name in MODULES if name.count(".") == 1)])
def test_a_room_exports_only_what_is_public(name):
    assert not [
        attribute
        for attribute in importlib.import_module(name).__all__
        if attribute.startswith("_") and attribute != "__version__"
    ]


def test_importing_the_package_does_not_load_lightning_or_torch():
    code = "import sys, lightning_privacy; print({'torch', 'lightning_fabric', 'lightning'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
