"""Label privacy: a data set whose labels are randomised once, before anything is trained on them.

Where the inputs may be known and only the labels are secret (did this person respond, buy, fall ill), randomised
response protects the labels themselves, and whatever is trained on them afterwards needs no noise. Ghazi et al., "Deep
Learning with Label Differential Privacy", 2021.

**Once.** Labels that were randomised again in each epoch, in each worker or in a resumed run would average out to the
true ones. So they are drawn when the data set is made, in this process, and kept; :meth:`PrivateLabels.state_dict`
holds them (they are what was released, so they may be saved), and a resumed run loads them. If a ledger was restored
from a checkpoint and the labels were not, the data set says so and gives out nothing. Of several processes the first
one draws, and the others get the labels from it. :class:`~lightning_privacy.data.PrivateLabelsDataModule` does all
this around a LightningDataModule.

**What is covered.** Labels only: the inputs stand beside them unprotected, unless training itself is private, and the
ledger has a caveat that says so. The epsilon given is for replacing a label by any other; the ledger's own relation,
"zero-out", replaces it by an answer that says nothing and counts less. The ledger's summary states both.

Example:
    >>> import torch
    >>> from torch.utils.data import TensorDataset
    >>> from lightning_privacy.accounting import PrivacyLedger
    >>> ledger = PrivacyLedger(delta=1e-6)
    >>> dataset = TensorDataset(torch.zeros(1000, 4), torch.arange(1000) % 10)
    >>> private = PrivateLabels(dataset, num_classes=10, epsilon=2.0, ledger=ledger)
    >>> private[3][1] == private[3][1], 0 < (private.labels == torch.arange(1000) % 10).sum() < 1000
    (tensor(True), tensor(True))
    >>> round(ledger.replace_one_epsilon(), 3)
    2.0
"""

from __future__ import annotations

import copy
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from lightning_privacy.accounting import PrivacyLedger, RandomizedResponseRelease
from lightning_privacy.data.in_memory import GatheredBatch
from lightning_privacy.data.nested import is_resampled
from lightning_privacy.data.origins import repeated
from lightning_privacy.errors import CheckpointError, ConfigurationError, PrivacyViolation, UnsupportedError
from lightning_privacy.mechanisms import ForwardCorrection, NoiseSource, randomized_response

__all__ = ["PrivateLabels"]

_CAVEAT = (
    "Randomised labels: their epsilon covers the labels and not the inputs beside them, unless the training on both is "
    "private itself."
)


class PrivateLabels(Dataset[Any]):
    """A data set with randomised labels in place of its own.

    Args:
        dataset: examples that are tuples, lists, named tuples or mappings. Without a tensor of all labels in it
            (``TensorDataset``, ``InMemoryDataset``) or in ``labels``, each example is read once.
        num_classes: number of classes: all there can be, known without looking at the data.
        epsilon: what the labels cost when one is replaced by any other, > 0.
        ledger: charged before anything is drawn, once.
        noise: None for the operating system's randomness; a seeded source makes the labels reproducible and NOT
            PRIVATE.
        label: where in an example its label is: a position, or a name.
        labels: the true labels, shape (N,), if they need not be read from the data set.
        state: what :meth:`state_dict` of an earlier run gave: its labels are taken over, no others are drawn, and they
            are charged if the ledger does not have them.

    Raises:
        ConfigurationError: an argument is out of range, the data set is empty, or there are no such labels in it;
            nothing is charged.
        CheckpointError: the state is of other data, another epsilon or other classes; nothing is charged.
        PrivacyBudgetExceeded: the ledger can't pay for it; nothing is charged or released.
        UnsupportedError: examples repeat; or this is one of several processes that are not connected yet, each of
            which would draw labels of its own. Nothing is charged.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        num_classes: int,
        epsilon: float,
        ledger: PrivacyLedger | None = None,
        *,
        noise: NoiseSource | None = None,
        label: int | str = 1,
        labels: Any = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self._release = RandomizedResponseRelease(epsilon, num_classes)
        if isinstance(label, bool) or not isinstance(label, int | str):
            raise ConfigurationError(f"label must be a position or a name in an example, got {label!r}")
        if ledger is not None and not isinstance(ledger, PrivacyLedger):
            raise ConfigurationError(f"ledger must be a PrivacyLedger or None, got {ledger!r}")
        self._dataset, self._place, self._ledger = dataset, label, ledger
        size = len(dataset)  # type: ignore[arg-type]
        if size == 0:
            raise ConfigurationError("dataset must not be empty: there are no labels to randomise")
        _refuse_repeats(dataset, label)
        if state is None:
            true = self._read(size) if labels is None else labels
            if not hasattr(true, "__len__") or len(true) != size:
                raise ConfigurationError(f"labels must be one for each of the {size} examples")
            self._labels, self._receipt = self._draw(true, noise)
        else:
            self._labels, self._receipt = self._read_state(state, size)
            if ledger is not None and not self._paid({self._receipt}):
                ledger.charge(self._release, label=self._receipt)
        if ledger is not None:
            ledger.add_caveat(_CAVEAT)
        # Names in the ledger's history that pay for these labels.
        self._receipts = {self._receipt}
        self._used = False

    def _draw(self, true: Any, noise: NoiseSource | None) -> tuple[Tensor, str]:
        """Charge and draw labels: the same in all processes, which would otherwise give several answers for one."""
        connected = _connected()
        # In every process, so that each has paid and all stop at the same place if one can't.
        (token,) = _of_first([_token(noise)]) if connected else (_token(noise),)
        receipt = f"labels {token}"
        drawn = randomized_response(
            true,
            num_classes=self._release.num_classes,
            epsilon=self._release.epsilon,
            ledger=self._ledger,
            noise=noise,
            purpose=receipt,
        )
        labels = torch.as_tensor(drawn).cpu().to(torch.int64)
        return (_of_first([labels])[0] if connected else labels), receipt

    def _read(self, size: int) -> Any:
        """All true labels."""
        tensors = getattr(self._dataset, "tensors", None)
        if isinstance(tensors, tuple) and isinstance(self._place, int) and -len(tensors) <= self._place < len(tensors):
            return tensors[self._place]
        return np.array([_get(self._dataset[index], self._place) for index in range(size)])

    @property
    def labels(self) -> Tensor:
        """The randomised labels, int64 of shape (N,): for samplers and whatever else, as they are public."""
        self._check_paid()
        return self._labels

    def __len__(self) -> int:
        # Asked for by every sampler, in this process; what is given out after that is given out by workers, perhaps.
        self._used = True
        return len(self._labels)

    @override
    def __getitem__(self, index: int) -> Any:
        self._check_paid()
        return _replaced(self._dataset[index], self._place, self._labels[index])

    @property
    def size(self) -> int:
        """Number of examples; to ask for it is not to use the labels."""
        return len(self._labels)

    def around(self, dataset: Dataset[Any]) -> PrivateLabels:
        """Return the same labels around another object with the same data, such as one loaded anew.

        Args:
            dataset: the same examples in the same order.

        Raises:
            ConfigurationError: it has another number of examples.
            UnsupportedError: examples repeat.
        """
        if len(dataset) != self.size:  # type: ignore[arg-type]
            raise ConfigurationError(f"dataset must have {self.size} examples, got {len(dataset)}")  # type: ignore[arg-type]
        if dataset is self._dataset:
            return self
        _refuse_repeats(dataset, self._place)
        other = copy.copy(self)
        other._dataset = dataset
        self._used = other._used = True
        return other

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """The examples of a batch, gathered together where the data set does so."""
        self._check_paid()
        together = getattr(self._dataset, "__getitems__", None)
        examples = [self._dataset[index] for index in indices] if together is None else together(indices)
        labels = self._labels[torch.as_tensor(indices, dtype=torch.int64)]
        if isinstance(examples, GatheredBatch):
            return GatheredBatch(_replaced(examples.tensors, self._place, labels))
        return [_replaced(example, self._place, label) for example, label in zip(examples, labels, strict=True)]

    def _paid(self, receipts: set[str]) -> bool:
        return self._ledger is None or any(label in receipts for *_, label in self._ledger.history)

    def _check_paid(self) -> None:
        if not self._paid(self._receipts):
            raise PrivacyViolation(
                "the labels were randomised anew, and the ledger, restored from a checkpoint, does not have them: save "
                "PrivateLabels.state_dict() with the checkpoint, in the state_dict of the LightningDataModule, say, "
                "and load it before training goes on"
            )
        self._used = True

    def correction(self) -> ForwardCorrection:
        """The forward correction of the loss for these labels; see :class:`~lightning_privacy.ForwardCorrection`."""
        return ForwardCorrection(self._release.num_classes, self._release.epsilon)

    def state_dict(self) -> dict[str, Any]:
        """The randomised labels, which are public, and how they were drawn; loads with ``weights_only=True``."""
        return {
            "labels": self.labels,
            "num_classes": self._release.num_classes,
            "epsilon": self._release.epsilon,
            "receipt": self._receipt,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the labels of an earlier run, in place of those drawn here.

        Load it before anything else is done with the data set: what was charged for the labels drawn here, and known
        to nobody, then pays for those of the state. Later, when a loader has been made or labels were read, both sets
        count as released and both are charged.

        Args:
            state: what :meth:`state_dict` gave.

        Raises:
            CheckpointError: the state is of other data, another epsilon or other classes; nothing changes.
            PrivacyBudgetExceeded: the ledger can't pay for a second set of labels; nothing changes.
        """
        labels, receipt = self._read_state(state, len(self._labels))
        if receipt == self._receipt:
            return
        if self._ledger is not None and self._used and not self._paid({receipt}):
            self._ledger.charge(self._release, label=receipt)
        self._receipts = {receipt} if self._used else {receipt, *self._receipts}
        self._receipt, self._labels = receipt, labels

    def _read_state(self, state: Mapping[str, Any], size: int) -> tuple[Tensor, str]:
        labels, receipt = state.get("labels"), state.get("receipt")
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != (size,):
            raise CheckpointError(f"the state must hold int64 labels of {size} examples, got {labels!r}")
        if not isinstance(receipt, str):
            raise CheckpointError(f"the state must hold what the ledger calls the labels, got {receipt!r}")
        drawn = (state.get("num_classes"), state.get("epsilon"))
        if drawn != (self._release.num_classes, self._release.epsilon):
            raise CheckpointError(
                f"the state's labels were drawn with (num_classes, epsilon) = {drawn}, these with "
                f"{(self._release.num_classes, self._release.epsilon)}: make the data set with the same"
            )
        if int(labels.min()) < 0 or int(labels.max()) >= self._release.num_classes:
            raise CheckpointError(f"the state's labels must be in [0, {self._release.num_classes}), and some are not")
        return labels.cpu().clone(), receipt


def _refuse_repeats(dataset: Dataset[Any], label: int | str) -> None:
    """Refuse data in which one example may be several: each would be a further answer about its label.

    Raises:
        UnsupportedError: it is resampled, or an example comes twice, in whatever data sets are inside it.
    """
    again = repeated(dataset, label=label)
    if again or is_resampled(dataset):
        raise UnsupportedError(
            f"dataset is a {type(dataset).__name__} in which examples repeat, and each copy would be a further answer "
            f"about one label ({again} are there again): put PrivateLabels around the examples, and resample after "
            "that, by PrivateLabels.labels"
        )


def _connected() -> bool:
    """Whether this is one of several processes that can talk to each other.

    Raises:
        UnsupportedError: there are several, and they can't yet.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size() > 1
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or int(os.environ.get("LOCAL_RANK", "0")) > 0:
        raise UnsupportedError(
            "this is one of several processes that are not connected yet, and each would draw labels of its own: "
            "several answers for one label tell it. Make PrivateLabels in train_dataloader() or setup() of a "
            "LightningDataModule, use PrivateLabelsDataModule, or draw the labels in a run of one process and pass "
            "state=..."
        )
    return False


def _of_first(values: list[Any]) -> list[Any]:
    """The values of the first process."""
    torch.distributed.broadcast_object_list(values, src=0)
    return values


def _token(noise: NoiseSource | None) -> str:
    """A name no other labels have; with a seed, the same in each run."""
    if isinstance(noise, NoiseSource) and noise.seeded:
        return f"{noise.bernoulli_seed(f'labels {noise.next_value()}') >> 80:012x}"
    return secrets.token_hex(6)


def _get(example: Any, place: int | str) -> int:
    """The label of an example as a whole number."""
    try:
        value = example[place] if isinstance(place, int) or isinstance(example, Mapping) else getattr(example, place)
    except (LookupError, AttributeError, TypeError) as error:
        raise ConfigurationError(
            f"label must be a position or a name in an example, got {place!r} and a {type(example).__name__}"
        ) from error
    if isinstance(value, Tensor | np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool | np.bool_) or not isinstance(value, int):
        raise ConfigurationError(f"the label of an example must be one whole number, got {type(value).__name__}")
    return value


def _replaced(example: Any, place: int | str, labels: Tensor) -> Any:
    """A copy of an example, or of the tensors of a batch, with other labels of the same type."""
    if isinstance(example, Mapping):
        return type(example)({**example, place: _like(example[place], labels)})  # type: ignore[call-arg]
    if hasattr(example, "_fields"):
        name = place if isinstance(place, str) else example._fields[place]
        return example._replace(**{name: _like(getattr(example, name), labels)})
    items = list(example)
    if isinstance(place, int):
        items[place] = _like(items[place], labels)
    return type(example)(items)


def _like(old: Any, labels: Tensor) -> Any:
    if isinstance(old, Tensor):
        return labels.to(old.device, old.dtype)
    if isinstance(old, np.ndarray | np.generic):
        return labels.numpy().astype(old.dtype)[()]
    return int(labels)
