"""Docstrings as mkdocstrings reads them: Sphinx roles become links, tables and code of reStructuredText Markdown."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

__all__ = ["DocstringRoles", "to_markdown"]

_ROLE = re.compile(r":(?:class|func|meth|attr|mod|data|exc|obj):`(?P<short>~?)(?P<target>[\w.]+)`")
_RULE = re.compile(r"^ *=+(?: +=+)+ *$")
_PACKAGE = "lightning_privacy"


def to_markdown(text: str, *, owner: str) -> str:
    """Turn what is reStructuredText in a docstring into Markdown.

    Args:
        text: The docstring.
        owner: Full name of what it describes: a name without dots is looked for there.
    """
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)  # the name under which doctests are code
    return _tables(_literal_blocks(_ROLE.sub(lambda role: _link(role, owner), text))).replace("``", "`")


def _link(role: re.Match[str], owner: str) -> str:
    target = role["target"]
    shown = target.rpartition(".")[2] if role["short"] else target
    if not target.startswith(_PACKAGE):
        # A method of this class, or a neighbour in its module.
        target = f"{owner}.{target}"
    # Optional: what is not on any page stays a name.
    return f'<autoref identifier="{target}" optional><code>{shown}</code></autoref>'


def _literal_blocks(text: str) -> str:
    """``::`` at the end of a line announces an indented block, which Markdown takes for code by itself."""
    return re.sub(r"::[ ]*\n\n(?=[ ]{4,}\S)", ":\n\n", text)


def _tables(text: str) -> str:
    """Simple tables, whose columns are where the rules of ``=`` are."""
    lines, table, columns = [], [], []
    rules = 0
    for line in text.split("\n"):
        if _RULE.match(line):
            rules += 1
            columns = [match.span() for match in re.finditer("=+", line)]
            if rules == 3:
                lines += ["", *_rows(table, columns), ""]
                table, rules = [], 0
        elif rules:
            table.append(line)
        else:
            lines.append(line)
    return "\n".join(lines)


def _rows(table: list[str], columns: list[tuple[int, int]]) -> list[str]:
    ends = [start for start, _ in columns[1:]] + [None]
    cells = [[line[start:end].strip() for (start, _), end in zip(columns, ends, strict=True)] for line in table]
    rows = ["| " + " | ".join(row) + " |" for row in cells]
    return [rows[0], "|" + "---|" * len(columns), *rows[1:]]


class DocstringRoles(Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite one docstring, once."""
        if obj.docstring is not None:
            owner = obj.path if obj.is_class or obj.is_module else obj.parent.path  # type: ignore[union-attr]
            obj.docstring.value = to_markdown(obj.docstring.value, owner=owner)
