"""Every block of the documentation and of the README does what the text around it says.

Python blocks run, page by page, in one namespace; a ``text`` block with the title "output" is what the block before it
prints (``...`` stands for anything). Commands are checked for what they name: configs compose, options, extras, files
and targets exist. What a page says in words is somebody's to read.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import importlib.util
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import types
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from hydra import compose, initialize_config_module
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted((DOCS / "pages").rglob("*.md"))
README = ROOT / "README.md"
_FENCE = re.compile(r"^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]*)\")?$")
_EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
_TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """What is between two fences, and the line it begins at."""

    language: str
    title: str | None
    text: str
    line: int


def _blocks(page: Path) -> list[Block]:
    blocks, opened, start = [], None, 0
    lines = page.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines):
        if opened is None and line.startswith("```"):
            opened, start = _FENCE.match(line), number
            assert opened is not None, f"{page}:{number + 1}: {line}"
        elif opened is not None and line == "```":
            text = "\n".join(lines[start + 1 : number])
            blocks.append(Block(opened["language"], opened["title"], text, start + 2))
            opened = None
    assert opened is None, f"{page}: a block is not closed"
    return blocks


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT)) if page == README else str(page.relative_to(DOCS / "pages"))


def _with(*languages: str) -> list[pytest.param]:
    return [
        pytest.param(page, id=_name(page))
        for page in (README, *PAGES)
        if any(block.language in languages for block in _blocks(page))
    ]


def _prose(page: Path) -> str:
    """The page without its blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


# Python


def _needs(page: Path) -> None:
    """Skip a page that says which extra it needs, where that is not installed."""
    for module in re.findall(r"<!-- needs (\w+) -->", page.read_text(encoding="utf-8")):
        pytest.importorskip(module)


def _own_configs(page: Path, folder: Path) -> None:
    """Write the configs that a page shows with their paths."""
    for block in _blocks(page):
        if block.language == "yaml" and block.title:
            path = folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")


@pytest.mark.filterwarnings("default")  # some are part of what is shown; the package's own tests have them as errors
@pytest.mark.parametrize("page", _with("python"))
def test_python_blocks_run_and_print_what_is_written(page, tmp_path, monkeypatch):
    _needs(page)
    monkeypatch.chdir(tmp_path)
    _own_configs(page, tmp_path)
    for argument in ("ENABLE_PROGRESS_BAR", "ENABLE_MODEL_SUMMARY"):
        monkeypatch.setenv(f"PL_TRAINER_{argument}", "0")  # the pages leave out what a trainer prints
    module = types.ModuleType("documented")
    monkeypatch.setitem(sys.modules, "documented", module)
    printed = ""
    for block in _blocks(page):
        if block.language == "python":
            # Line numbers of the page, for tracebacks.
            code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(code, module.__dict__)
            printed = output.getvalue()
        elif block.title == "output":
            checker, options = doctest.OutputChecker(), doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            wanted = f"{block.text}\n"
            assert checker.check_output(wanted, printed, options), f"{page}:{block.line} printed:\n{printed}"


# Commands


def _composes(overrides: list[str], *, sweep: bool) -> None:
    with initialize_config_module("lightning_privacy.conf", version_base="1.3"):
        if sweep:
            parsed = OverridesParser.create().parse_overrides(overrides)
            overrides = list(BasicSweeper.split_arguments(parsed, max_batch_size=None)[0][0])
        assert compose("config", overrides=overrides).model is not None


def _check_command(line: str, folder: Path = ROOT) -> None:
    words = shlex.split(line.replace("…", "some"), comments=True)  # the folder of a run
    program, *arguments = words
    if program == "lightning-privacy" and arguments and not arguments[0].startswith("-") and "=" not in arguments[0]:
        from lightning_privacy import cli

        module, _, function = cli._COMMANDS[arguments[0]].partition(":")
        source = Path(importlib.import_module(module).__file__).read_text()
        assert function in source
        for option in arguments[1:]:
            assert not option.startswith("--") or f'"{option.partition("=")[0]}"' in source, option
    elif program == "lightning-privacy" or words[:3] == ["python", "-m", "lightning_privacy"]:
        overrides = [word for word in words if "=" in word or word.startswith("~")]
        if "--config-dir" in words:
            place = words.index("--config-dir")
            overrides.append(f"hydra.searchpath=[file://{folder / words[place + 1]}]")
            del words[place : place + 2]
        own = set(words) - set(overrides) - {"lightning-privacy", "python", "lightning_privacy"}
        assert own <= {"-m", "--multirun", "--cfg", "job", "--help"}, own
        _composes(overrides, sweep=bool(own & {"-m", "--multirun"}) and program == "lightning-privacy")
    elif words[:2] == ["pip", "install"]:
        for package in arguments[1:]:
            name, _, extras = package.rstrip("]").partition("[")
            if name in ("lightning-privacy", "."):
                assert set(filter(None, extras.split(","))) <= set(_EXTRAS), package
    elif program == "make":
        assert arguments[0] in _TARGETS, line
    elif program == "python" and arguments[0].endswith(".py"):
        source = (ROOT / arguments[0]).read_text()
        for option in arguments[1:]:
            assert not option.startswith("--") or option in source, option
    elif program == "cp":
        assert (ROOT / arguments[-2]).exists(), line
    elif program == "curl":
        routes = (ROOT / "lightning_privacy" / "serving" / "service.py").read_text()
        assert f'"{urlsplit(arguments[0]).path}"' in routes, line
        assert list(json.loads(arguments[arguments.index("-d") + 1])) == ["inputs"], line
    elif program not in ("cd", "git"):
        pytest.fail(f"nobody checks this command: {line}")


@pytest.mark.parametrize("page", _with("console"))
def test_commands_name_what_is_there(page, tmp_path):
    _own_configs(page, tmp_path)
    for block in _blocks(page):
        if block.language == "console":
            for line in block.text.replace("\\\n", " ").split("\n"):
                if line.strip():
                    _check_command(line, tmp_path)


def test_shell_blocks_of_the_readme_are_run_by_the_test_of_the_federation_of_processes():
    assert [_name(page) for page in (README, *PAGES) if any(b.language == "bash" for b in _blocks(page))] == [
        "README.md"
    ]
    assert "README.md" in (ROOT / "tests" / "strategies" / "test_flower_processes.py").read_text()


# Everything else


def test_every_block_is_of_a_kind_that_is_checked():
    for page in (README, *PAGES):
        for block in _blocks(page):
            assert block.language in ("python", "console", "bash", "yaml", "text"), f"{page}:{block.line}"


@pytest.mark.parametrize("page", _with("yaml"))
def test_yaml_blocks_name_what_is_there(page):
    for block in _blocks(page):
        if block.language != "yaml":
            continue
        content = yaml.safe_load(block.text)
        assert content is not None
        for target in re.findall(r"(?:_target_|class_path): ([\w.]+)", block.text):
            module, _, name = target.rpartition(".")
            assert hasattr(importlib.import_module(module), name), f"{page}:{block.line}: {target}"


@pytest.mark.parametrize("page", [pytest.param(page, id=_name(page)) for page in PAGES])
def test_files_and_names_in_the_text_are_there(page):
    text = _prose(page)
    for path in re.findall(r"`((?:benchmarks|conf|docs|examples|tests|lightning_privacy)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), f"{page}: {path}"
    for command in re.findall(r"`((?:lightning-privacy|make|python) [^`]+)`", text):
        _check_command(command)
    for name in re.findall(r"`(lightning_privacy(?:\.\w+)+)(?:\([^`]*)?`", text):
        assert _is_there(name), f"{page}: {name}"
    for extra in re.findall(r"lightning-privacy\[([\w,-]+)\]", text):
        assert set(extra.split(",")) <= set(_EXTRAS), f"{page}: {extra}"


def _is_there(name: str) -> bool:
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            found = importlib.import_module(".".join(parts[:cut]))
            for attribute in parts[cut:]:
                if not hasattr(found, attribute):
                    return False
                found = getattr(found, attribute)
            return True
    return False


def test_every_public_name_is_in_the_reference():
    rooms = {path.stem for path in (DOCS / "pages" / "api").glob("*.md")} - {"index"}
    import lightning_privacy

    assert set(lightning_privacy._ROOMS) <= rooms
    for room in rooms:
        assert f"::: lightning_privacy.{room}" in (DOCS / "pages" / "api" / f"{room}.md").read_text()


def _docs_module(name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_hold_what_was_measured():
    tables = _docs_module("figures").TABLES
    asked = {name for page in PAGES for name in re.findall(r"\{\{ figures (\w+) \}\}", page.read_text())}
    assert asked == set(tables)
    for name, table in tables.items():
        head, *rows = table().split("\n")
        measured = (ROOT / "benchmarks" / "results" / f"{name}.json").exists()
        assert head.startswith("|") or not measured
        assert all(row.count("|") == head.count("|") for row in rows if row.startswith("|"))


def test_docstrings_become_markdown():
    pytest.importorskip("griffe")
    to_markdown = _docs_module("docstring_roles").to_markdown
    assert to_markdown("See :class:`~lightning_privacy.Key`.", owner="a.b") == (
        'See <autoref identifier="lightning_privacy.Key" optional><code>Key</code></autoref>.'
    )
    assert 'identifier="a.B.charge"' in to_markdown(":meth:`charge` ``x``", owner="a.B")
    assert to_markdown("Example:\n    >>> 1", owner="a") == "Examples:\n    >>> 1"
    table = "==  =====\na   b\n==  =====\n1   two\n==  ====="
    assert to_markdown(table, owner="a").split() == ["|", "a", "|", "b", "|", "|---|---|", "|", "1", "|", "two", "|"]


def test_the_pages_build_without_a_warning(tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'lightning-privacy[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(DOCS / "mkdocs.yml"), "-d", str(tmp_path)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # of the theme: about another program that is to follow it
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path.parent, env=quiet)
    assert run.returncode == 0, run.stderr
    assert "WARNING" not in run.stderr, run.stderr
    home = (tmp_path / "index.html").read_text()
    assert "https://fonts." not in home, "pages must be readable without a network"
