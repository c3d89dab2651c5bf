"""What all processes of a private training must have in common, compared once before the first step.

Each process works out draws, schedules and charges by itself. Where one of them has another data set, another model or
another setting, what is reported describes none of them: a person whom two processes have at different places of
their data sets could be in one step twice.

Example:
    >>> import torch
    >>> from torch.utils.data import Subset, TensorDataset
    >>> data = TensorDataset(torch.arange(10.0))
    >>> fingerprint(Subset(data, [1, 2])) == fingerprint(Subset(data, [2, 1]))
    False
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sized
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset, Subset

from lightning_privacy._lightning import Trainer, rank_zero_info
from lightning_privacy.accounting import PrivacyLedger
from lightning_privacy.callbacks._balance import WantedBalance
from lightning_privacy.callbacks._planning import Target
from lightning_privacy.callbacks._processes import Processes
from lightning_privacy.callbacks._run_state import RunProgress
from lightning_privacy.callbacks._train_loader import LoaderFacts
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.mechanisms.noise import NoiseSource

__all__ = ["agree", "check_agreement", "common_facts", "fingerprint"]

_ROWS = 64
_PLAIN = (bool, int, float, str, type(None))

_WHOLE_DATA = (
    "give every process the whole train data set in the same order (split and shuffle with a fixed seed): each random "
    "batch is shared out among the processes"
)
_SAME_SETTINGS = "start every process with the same settings"
_SAME_MODEL = "build and freeze the same layers in every process"
_SAME_PAST = (
    "resume every process from the same checkpoint, with the run folder on a file system that all of them see, and "
    "charge what was released before on all of them"
)


def agree(
    processes: Processes,
    trainer: Trainer,
    module: nn.Module,
    *,
    facts: LoaderFacts,
    dataset: Dataset[Any],
    target: Target,
    ledger: PrivacyLedger,
    noise: NoiseSource,
    progress: RunProgress | None,
    wanted: WantedBalance | None = None,
) -> None:
    """Check that all processes train the same, and say what a batch is then; does nothing where there is one.

    Args:
        processes: Those that share each step; each must call this.
        trainer: The trainer, in ``on_fit_start``.
        module: Its module.
        facts: Numbers of the train loader.
        dataset: Its data set.
        target: What the user asked for.
        ledger: What was spent before.
        noise: Where noise comes from.
        progress: Of earlier fits, or of the checkpoint that is resumed.
        wanted: The balance that the loader's sampler asks for.

    Raises:
        ConfigurationError: On all of them, naming the first thing that differs.
    """
    if not processes.several:
        return
    common = common_facts(
        trainer,
        module,
        facts=facts,
        dataset=dataset,
        target=target,
        ledger=ledger,
        noise=noise,
        next_step=max(trainer.global_step, 0 if progress is None else progress.next_number),
        wanted=wanted,
    )
    check_agreement(processes, common)
    rank_zero_info(
        f"DifferentialPrivacy: batch_size={facts.batch_size} is the batch of a whole step"
        + (f", times accumulate_grad_batches={trainer.accumulate_grad_batches}" if facts.accumulates else "")
        + f", shared by {processes.count} processes"
    )


def common_facts(
    trainer: Trainer,
    module: nn.Module,
    *,
    facts: LoaderFacts,
    dataset: Dataset[Any],
    target: Target,
    ledger: PrivacyLedger,
    noise: NoiseSource,
    next_step: int,
    wanted: WantedBalance | None = None,
) -> dict[str, tuple[str, str]]:
    """What must be equal, as texts, each with what to do where it is not.

    Args:
        trainer: The trainer, in ``on_fit_start``.
        module: Its module.
        facts: Numbers of the train loader.
        dataset: Its data set.
        target: What the user asked for.
        ledger: What was spent.
        noise: Where noise comes from.
        next_step: Number of the step that comes next.
        wanted: What the loader's sampler balances.
    """
    common = {
        "the number of train examples": (str(facts.num_examples), _WHOLE_DATA),
        "the order or choice of the train examples": (fingerprint(dataset), _WHOLE_DATA),
        "batch_size": (str(facts.batch_size), _SAME_SETTINGS),
        "the batches of an epoch": (str(facts.loader_batches), _SAME_SETTINGS),
        "the seed of the noise": (str(noise.seed), _SAME_SETTINGS),
        "the parameters of the model": (_parameters(module, trainable=False), _SAME_MODEL),
        "the trainable parameters": (_parameters(module, trainable=True), _SAME_MODEL),
        "the number of the next step": (str(next_step), _SAME_PAST),
        "what the ledger holds": (str(sorted((repr(release), count) for release, count in ledger.groups)), _SAME_PAST),
    }
    if wanted is not None:
        cells = hashlib.sha256(repr(wanted.names).encode() + wanted.cells.tobytes()).hexdigest()
        common["the classes of the train examples"] = (f"classes with digest {cells[:12]}", _WHOLE_DATA)
    for name in ("accumulate_grad_batches", "max_epochs", "max_steps", "limit_train_batches"):
        common[f"the trainer's {name}"] = (str(getattr(trainer, name)), _SAME_SETTINGS)
    for field in fields(target):
        common[field.name] = (_settled(getattr(target, field.name)), _SAME_SETTINGS)
    return common


def check_agreement(processes: Processes, common: Mapping[str, tuple[str, str]]) -> None:
    """Compare with the other processes; every one of them must call this.

    Raises:
        ConfigurationError: On all of them, naming the first thing that differs, two of its values and the way out.
    """
    if not processes.several:
        return
    everyone = processes.gather({name: text for name, (text, _) in common.items()})
    for name, (_, remedy) in common.items():
        texts = [each.get(name) for each in everyone]
        other = next((rank for rank, text in enumerate(texts) if text != texts[0]), None)
        if other is not None:
            raise ConfigurationError(
                f"the {processes.count} processes do not agree on {name}: {texts[0]} in process 0, {texts[other]} in "
                f"process {other}. To train privately together, {remedy}"
            )


def fingerprint(dataset: Dataset[Any]) -> str:
    """Text that differs where two processes hold other examples, or the same in another order, as far as can be told.

    Looks at the indices of subsets and at some rows of the arrays and tensors a data set holds, one for each example.
    No example is fetched, as that may be slow or random.
    """
    digest = hashlib.sha256()
    _describe(dataset, digest)
    return f"data with digest {digest.hexdigest()[:12]}"


def _describe(dataset: Any, digest: Any) -> None:
    length = len(dataset) if isinstance(dataset, Sized) else -1
    digest.update(f"{type(dataset).__qualname__} {length} ".encode())
    if isinstance(dataset, Subset):
        digest.update(np.asarray(dataset.indices, dtype=np.int64).tobytes())
        _describe(dataset.dataset, digest)
        return
    if isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            _describe(part, digest)
        return
    for name, value in sorted(getattr(dataset, "__dict__", {}).items()):
        for array in value if isinstance(value, list | tuple) else (value,):
            if isinstance(array, Tensor | np.ndarray) and array.ndim > 0 and len(array) == length:
                digest.update(f"{name} {array.dtype} {tuple(array.shape)} ".encode())
                digest.update(_some_rows(array))


def _some_rows(array: Any) -> bytes:
    rows = np.linspace(0, len(array) - 1, num=min(len(array), _ROWS)).astype(np.int64)
    if isinstance(array, Tensor):
        return (
            array.detach()[torch.from_numpy(rows).to(array.device)]
            .cpu()
            .contiguous()
            .view(-1)
            .view(torch.uint8)
            .numpy()
            .tobytes()
        )
    return repr(array[rows].tolist()).encode()


def _parameters(module: nn.Module, *, trainable: bool) -> str:
    chosen = [(name, p) for name, p in module.named_parameters() if p.requires_grad or not trainable]
    text = "".join(f"{name} {tuple(p.shape)} {p.dtype};" for name, p in chosen)
    return f"{len(chosen)} tensors with digest {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _settled(value: object, *, deep: bool = True) -> str:
    """A text for a setting that does not depend on where an object lies in memory."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, Mapping):
        return str(sorted((str(key), _settled(item, deep=deep)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return str([_settled(item, deep=deep) for item in value])
    name = type(value).__qualname__
    return f"{name} with {_settled(vars(value), deep=False)}" if deep and hasattr(value, "__dict__") else name
