"""Pages of HTML in one file: a template of this package, filled in, with everything that comes from outside escaped.

A page has no script and fetches nothing, which its content security policy holds a browser to. Templates extend
``base.html.j2``; charts come from :mod:`lightning_privacy.report._svg`.

Example:
    >>> page = render_page("base.html.j2", title="<b>A title</b>")
    >>> "<title>&lt;b&gt;A title&lt;/b&gt;</title>" in page
    True
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lightning_privacy.report._scale import number_text
from lightning_privacy.report._version import package_version
from lightning_privacy.report.sentences import epsilon_text

__all__ = ["render_page"]

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
