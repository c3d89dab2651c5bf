"""The version of the package.

Example:
    >>> package_version().count(".") >= 1
    True
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["package_version"]


def package_version() -> str:
    """As it is installed; ``"0.0"`` where it is used without having been."""
    try:
        return version("lightning-privacy")
    except PackageNotFoundError:
        return "0.0"
