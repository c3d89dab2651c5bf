"""Lists the packages: the rooms as they are found, and conf/ as ``lightning_privacy.conf``.

Everything else about the project stands in pyproject.toml.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["lightning_privacy", "lightning_privacy.*"]), "lightning_privacy.conf"],
    package_dir={"lightning_privacy.conf": "conf"},
)
