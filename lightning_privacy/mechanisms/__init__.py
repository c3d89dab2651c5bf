"""Randomness for private releases: the noise source.

Example:
    >>> from lightning_privacy.mechanisms import NoiseSource
    >>> NoiseSource().caveat is None
    True
"""

from __future__ import annotations

from lightning_privacy.mechanisms.noise import NoiseSource, SeededNoiseWarning

__all__ = ["NoiseSource", "SeededNoiseWarning"]
