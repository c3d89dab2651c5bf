"""A DataModule that stands in front of another one: hooks, attributes and state are those of the other.

Lightning finds out which hooks a DataModule has by comparing methods with those of the base class. Attributes are
looked up in the other DataModule, so the answer is the same as for that one, whatever it defines later.

Example:
    >>> from lightning_privacy.data.digits import DigitsDataModule
    >>> digits = DigitsDataModule(batch_size=8)
    >>> proxy = DataModuleProxy(digits)
    >>> proxy.batch_size = 16
    >>> digits.batch_size, isinstance(proxy, DigitsDataModule), isinstance(proxy, DataModuleProxy)
    (16, True, True)
"""

from __future__ import annotations

from typing import Any, ClassVar

from typing_extensions import override

from lightning_privacy._lightning import LightningDataModule
from lightning_privacy.errors import ConfigurationError

__all__ = ["DataModuleProxy", "LoaderDataModule"]

_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader")
_get = object.__getattribute__


class DataModuleProxy(LightningDataModule):
    """Stands in front of a DataModule; a checkpoint has the other's state under the other's name.

    Sub-classes name what they do themselves in ``own``; private names of theirs start with ``_proxy``.

    Args:
        datamodule: the other one.

    Raises:
        ConfigurationError: It is no LightningDataModule.
    """

    own: ClassVar[frozenset[str]] = frozenset({"own", "datamodule"})

    def __init__(self, datamodule: LightningDataModule) -> None:
        # The base class's attributes are the other's.
        if not isinstance(datamodule, LightningDataModule):
            raise ConfigurationError(
                f"datamodule must be a LightningDataModule, got {type(datamodule).__name__}; loaders are given as "
                "train_dataloader=..., val_dataloader=..."
            )
        object.__setattr__(self, "_proxy_target", datamodule)

    @property
    def datamodule(self) -> LightningDataModule:
        """The DataModule that stands behind."""
        return _get(self, "_proxy_target")  # type: ignore[no-any-return]

    @override
    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            state = _get(self, "__dict__")
            return type(state["_proxy_target"]) if "_proxy_target" in state else type(self)
        if name.startswith(("__", "_proxy")) or name in type(self).own:
            return _get(self, name)
        target = _get(self, "__dict__").get("_proxy_target")
        return _get(self, name) if target is None else getattr(target, name)

    @override
    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith(("__", "_proxy")) or name in type(self).own:
            object.__setattr__(self, name, value)
        else:
            setattr(self.datamodule, name, value)

    @override
    def __delattr__(self, name: str) -> None:
        if name.startswith(("__", "_proxy")) or name in type(self).own:
            object.__delattr__(self, name)
        else:
            delattr(self.datamodule, name)

    @override
    def __dir__(self) -> list[str]:
        return sorted({*dir(self.datamodule), *type(self).own})

    @override
    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _empty, (type(self),), dict(_get(self, "__dict__"))

    def __setstate__(self, state: dict[str, Any]) -> None:
        _get(self, "__dict__").update(state)

    @override
    def __str__(self) -> str:
        return str(self.datamodule)

    @override
    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.datamodule!r})"


def _empty(kind: type[DataModuleProxy]) -> DataModuleProxy:
    return kind.__new__(kind)


class LoaderDataModule(LightningDataModule):
    """A DataModule of loaders that exist already.

    Args:
        **loaders: ``train_dataloader``, ``val_dataloader``, ``test_dataloader`` and ``predict_dataloader``: loaders, or
            collections of them.

    Raises:
        ConfigurationError: Another name.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> len(LoaderDataModule(train_dataloader=DataLoader([1, 2, 3])).train_dataloader())
        3
    """

    def __init__(self, **loaders: Any) -> None:
        super().__init__()
        for name, loader in loaders.items():
            if name not in _LOADERS:
                raise ConfigurationError(f"{name} is not the name of a loader; those are {', '.join(_LOADERS)}")
            if loader is not None:
                setattr(self, name, _Given(loader).give)


class _Given:
    """Gives a loader when it is asked to; unlike a lambda it can be pickled."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def give(self) -> Any:
        return self.loader
