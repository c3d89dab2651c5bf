"""Makes the sweepers of this package known to Hydra.

Hydra looks for plugins in packages called ``hydra_plugins`` and takes no others by name. The command calls
:func:`register_sweepers`; a program of one's own with ``hydra.main`` calls it before that.

Example:
    >>> from hydra.core.plugins import Plugins
    >>> register_sweepers()
    >>> Plugins.instance().class_name_to_class["hydra_plugins.lightning_privacy.OptunaSweeper"].__name__
    'OptunaSweeper'
"""

from __future__ import annotations

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from lightning_privacy.sweeps.optuna_search import OptunaSweeper
from lightning_privacy.sweeps.random_runs import RandomRunsSweeper

__all__ = ["register_sweepers"]

_SWEEPERS: tuple[type[Sweeper], ...] = (OptunaSweeper, RandomRunsSweeper)


def register_sweepers() -> None:
    """Let configs name ``hydra_plugins.lightning_privacy.OptunaSweeper`` and ``...RandomRunsSweeper``."""
    plugins = Plugins.instance()
    for sweeper in _SWEEPERS:
        plugins.register(sweeper)
        plugins.class_name_to_class[f"hydra_plugins.lightning_privacy.{sweeper.__name__}"] = sweeper
