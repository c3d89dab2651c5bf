"""The last stage of a run: what was trained, exported with the figures of the people it was tested on.

Example:
    >>> import pathlib, tempfile
    >>> from lightning_privacy.data import DigitsDataModule
    >>> from lightning_privacy.models import Classifier, PersonaNet
    >>> import torch
    >>> model = Classifier(PersonaNet(), num_classes=10, optimizer=torch.optim.Adam)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     deployment = Deployment(pathlib.Path(folder, "deployed"), formats=["safetensors"], quantise=None)
    ...     manifest = deployment.deploy(model, DigitsDataModule())
    >>> sorted(manifest.files), round(manifest.metrics["evaluated"]["examples"])
    (['model.safetensors'], 270)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_privacy._lightning import LightningDataModule, LightningModule
from lightning_privacy._validate import one_of
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.security.key_ring import KeyLike
from lightning_privacy.serving.declared_data import DeclaredData
from lightning_privacy.serving.export import check_free, checked_formats, export
from lightning_privacy.serving.manifest import Manifest

__all__ = ["Deployment"]


class Deployment:
    """Exports the model of a run to a folder, with its accuracy on the data module's test data by group.

    The test data are what the other figures of a run are computed on: people who were not trained on. With them the
    folder tells something of them, exactly, so they must be public or held out; ``test_people=None`` leaves
    figures and static quantisation out.

    Args:
        folder: Where to; must not be there, or be empty.
        formats: Among ``"safetensors"``, ``"torch"`` and ``"onnx"``.
        quantise: ``"dynamic"`` or ``"static"`` for an int8 version; None for none.
        test_people: What the people of the test data are to privacy: ``"public"``, ``"held_out"`` (not trained on, and
            not to be protected), or None when they are to be protected.
        key: Authenticates the manifest.

    Raises:
        ConfigurationError: An argument is unknown, or the folder is taken: before a training has cost anything.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        formats: Sequence[str] = ("safetensors", "torch", "onnx"),
        quantise: str | None = "dynamic",
        test_people: str | None = "held_out",
        key: KeyLike | None = None,
    ) -> None:
        if test_people is not None:
            one_of(("public", "held_out"), test_people=test_people)
        if not isinstance(folder, str | Path):
            raise ConfigurationError(f"folder must be a path to deploy to, got {folder!r}; deploy=none deploys nothing")
        self.folder = Path(folder)
        check_free(self.folder)
        self._formats = checked_formats(formats, quantise)
        self._quantise = quantise
        self._test_people = test_people
        self._key = key

    def deploy(
        self,
        model: LightningModule,
        datamodule: LightningDataModule,
        *,
        ledger: PrivacyLedger | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> Manifest:
        """Write the folder.

        Args:
            model: As it was trained.
            datamodule: With test data whose batches are inputs, labels and, by name, groups; where it has an attribute
                ``input_range``, the smallest and the largest value of inputs by declaration, so has the manifest.
            ledger: Of the training; None when it was not private.
            metrics: Of the test, as a run logged them; left out where the people of the test are to be protected.

        Returns:
            What was written.

        Raises:
            ConfigurationError: The folder is taken, or batches are of another form.
            UnsupportedError: The module can't be traced.
            ExportError: A program does not compute what the module does.
            OSError: The folder can't be written; nothing is there then.
        """
        evaluate = _test_data(datamodule, self._test_people)
        figures: dict[str, Any] | None = None
        if metrics is not None and self._test_people is not None:
            figures = {"source": self._test_people, **{name: float(value) for name, value in metrics.items()}}
        return export(
            model,
            self.folder,
            example_input=torch.zeros_like(evaluate.inputs[:1]),
            ledger=ledger,
            metrics=figures,
            roles=getattr(datamodule, "roles", None),
            input_range=getattr(datamodule, "input_range", None),
            formats=self._formats,
            quantise=self._quantise,
            calibration=evaluate if self._quantise == "static" else None,
            evaluate=None if self._test_people is None else evaluate,
            key=self._key,
        )


def _test_data(datamodule: LightningDataModule, people: str | None) -> DeclaredData:
    """All batches of the test loader as one."""
    batches = list(datamodule.test_dataloader())
    first = batches[0]
    if not isinstance(first, tuple | list) or len(first) < 2 or not all(isinstance(part, Tensor) for part in first):
        raise ConfigurationError(
            "batches of the test data must be a tuple of tensors, inputs and labels first, for a deployment; got "
            f"{type(first).__name__}: call lightning_privacy.serving.export yourself"
        )
    columns = [torch.cat(parts) for parts in zip(*batches, strict=True)]
    names = getattr(first, "_fields", ())[2:]
    groups = dict(zip(names, columns[2:], strict=False))
    return DeclaredData(columns[0], columns[1], groups=groups, source=people or "private")
