"""Pages of HTML in one file: a template of this package, filled in, with everything that comes from outside escaped.

A page has no script and fetches nothing, which its content security policy holds a browser to. Templates extend
``base.html.j2``; charts come from :mod:`lightning_privacy.report._svg`.

Example:
    >>> page = render_page("base.html.j2", title="<b>A title</b>")
    >>> "<title>&lt;b&gt;A title&lt;/b&gt;</title>" in page
    True
"""

from __future__ import annotations

import secrets
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lightning_privacy.report._scale import number_text
from lightning_privacy.report._version import package_version
from lightning_privacy.report.sentences import epsilon_text

__all__ = ["render_page", "write_text"]

_TEMPLATES = Path(__file__).parent / "templates"


def render_page(template: str, *, title: str, **values: Any) -> str:
    """Fill in a template.

    Args:
        template: Its name in this package's ``templates``.
        title: Of the page.
        **values: What it needs; text is escaped unless it is markup of this package.

    Returns:
        The page.
    """
    environment = _environment()
    return environment.get_template(template).render(title=title, version=package_version(), style=_style(), **values)


def write_text(path: Path, text: str) -> None:
    """Write a file that is there in full or not at all.

    Args:
        path: Of the file; its folder must exist.
        text: What can't be encoded, such as half a surrogate pair out of a foreign file, becomes a question mark.

    Raises:
        OSError: It can't be written; the old file, if any, is left.
    """
    # A name of its own, as several processes of a run may write the same file at a time.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.write_bytes(text.encode("utf-8", "replace"))
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["percent"] = _percent
    environment.filters["epsilon"] = _epsilon
    return environment


@cache
def _style() -> Markup:
    return Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8"))  # noqa: S704 - a file of this package


def _number(value: float | None) -> str:
    return "-" if value is None else number_text(value)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _epsilon(value: float | None) -> str:
    return "infinite" if value is None else epsilon_text(value)
