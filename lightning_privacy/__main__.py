"""Makes ``python -m lightning_privacy`` the same as the command ``lightning-privacy``."""

from __future__ import annotations

from lightning_privacy.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
