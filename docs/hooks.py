"""What mkdocs does to a page before it is rendered: a line ``{{ figures NAME }}`` becomes a table of measured figures.

The figures are read from ``benchmarks/results`` when the pages are built, so that no table says what was not measured.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from figures import TABLES

__all__ = ["on_page_markdown"]

_LINE = re.compile(r"^\{\{ figures (\w+) \}\}$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the tables in."""
    return _LINE.sub(lambda found: TABLES[found[1]](), markdown)
