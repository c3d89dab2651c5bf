"""The one place Lightning is imported: under the name the application uses.

Lightning is installed under two names, ``pytorch_lightning`` and ``lightning.pytorch``: the same code,
whose classes do not know each other. A callback of one is not a callback of the other, so the
package takes ``lightning.pytorch`` when the application has imported it before this package and
``pytorch_lightning`` otherwise. :func:`check_trainer` names the cause when a trainer is of the other kind.

Example:
    >>> from lightning_privacy import _lightning
    >>> _lightning.LIGHTNING_NAME in ("pytorch_lightning", "lightning.pytorch")
    True
    >>> _lightning.Trainer.__name__
    'Trainer'
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

from lightning_privacy.errors import ConfigurationError

__all__ = [
    "LIGHTNING_NAME",
    "LIGHTNING_VERSION",
    "CSVLogger",
    "Callback",
    "CheckpointIO",
    "CombinedLoader",
    "DDPStrategy",
    "DummyLogger",
    "GradientAccumulationScheduler",
    "LRSchedulerConfig",
    "LightningDataModule",
    "LightningModule",
    "Logger",
    "ModelCheckpoint",
    "Precision",
    "SingleDeviceStrategy",
    "Strategy",
    "StrategyRegistry",
    "TorchCheckpointIO",
    "Trainer",
    "check_trainer",
    "pl",
    "rank_zero_info",
    "rank_zero_warn",
    "seed_everything",
]


def _choose_name() -> str:
    """The import name of Lightning the application uses."""
    if "lightning.pytorch" in sys.modules or find_spec("pytorch_lightning") is None:
        return "lightning.pytorch"
    return "pytorch_lightning"


LIGHTNING_NAME: str = _choose_name()
"""``"pytorch_lightning"`` or ``"lightning.pytorch"``, whichever this package builds on in this process."""


def _part(name: str) -> ModuleType:
    return importlib.import_module(LIGHTNING_NAME + name)


LIGHTNING_VERSION: str = _part("").__version__
"""The version of Lightning, such as ``"2.6.6"``."""

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
    from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
    from pytorch_lightning.callbacks import GradientAccumulationScheduler, ModelCheckpoint
    from pytorch_lightning.loggers import CSVLogger, Logger
    from pytorch_lightning.loggers.logger import DummyLogger
    from pytorch_lightning.plugins import CheckpointIO, TorchCheckpointIO
    from pytorch_lightning.plugins.precision import Precision
    from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy, Strategy, StrategyRegistry
    from pytorch_lightning.utilities import CombinedLoader
    from pytorch_lightning.utilities.types import LRSchedulerConfig
else:
    pl = _part("")
    CheckpointIO = _part(".plugins").CheckpointIO
    TorchCheckpointIO = _part(".plugins").TorchCheckpointIO
    Callback = _part("").Callback
    LightningDataModule = _part("").LightningDataModule
    LightningModule = _part("").LightningModule
    Trainer = _part("").Trainer
    seed_everything = _part("").seed_everything
    GradientAccumulationScheduler = _part(".callbacks").GradientAccumulationScheduler
    ModelCheckpoint = _part(".callbacks").ModelCheckpoint
    CSVLogger = _part(".loggers").CSVLogger
    Logger = _part(".loggers").Logger
    DummyLogger = _part(".loggers.logger").DummyLogger
    Precision = _part(".plugins.precision").Precision
    DDPStrategy = _part(".strategies").DDPStrategy
    SingleDeviceStrategy = _part(".strategies").SingleDeviceStrategy
    Strategy = _part(".strategies").Strategy
    StrategyRegistry = _part(".strategies").StrategyRegistry
    CombinedLoader = _part(".utilities").CombinedLoader
    LRSchedulerConfig = _part(".utilities.types").LRSchedulerConfig
    rank_zero_info = _part(".utilities.rank_zero").rank_zero_info
    rank_zero_warn = _part(".utilities.rank_zero").rank_zero_warn


def check_trainer(trainer: object) -> None:
    """Refuse a trainer that comes from the other name of Lightning.

    Args:
        trainer: The trainer a callback, strategy or plugin of this package was given to.

    Raises:
        ConfigurationError: The trainer's class is not one of ``LIGHTNING_NAME``; the message says how to
            make both agree.
    """
    if isinstance(trainer, Trainer):
        return
    module = type(trainer).__module__
    other = "lightning.pytorch" if LIGHTNING_NAME == "pytorch_lightning" else "pytorch_lightning"
    if not module.startswith(other):
        raise ConfigurationError(
            f"trainer must be a {LIGHTNING_NAME} Trainer, got {module}.{type(trainer).__qualname__}"
        )
    advice = (
        "put `import lightning` before the first import of lightning_privacy"
        if other == "lightning.pytorch"
        else "import pytorch_lightning only, and not `lightning`, in this program (or the reverse)"
    )
    raise ConfigurationError(
        f"trainer is a {other} Trainer, but lightning_privacy was loaded with {LIGHTNING_NAME}; the two names "
        f"of Lightning do not work together in one run: {advice}"
    )
