"""People's images for training: generated or read, stored encrypted, prepared within a budget, divided by person.

Example:
    >>> from lightning_privacy.data import PersonaDataModule
    >>> datamodule = PersonaDataModule(num_persons=300, batch_size=64)
    >>> datamodule.setup("fit")
    >>> batch = next(iter(datamodule.train_dataloader()))
    >>> batch.images.shape, batch.gender.shape
    (torch.Size([64, 1, 28, 28]), torch.Size([64]))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_privacy._validate import non_negative_int, one_of, positive_int
from lightning_privacy.accounting import PrivacyLedger, Release
from lightning_privacy.data.in_memory import InMemoryDataModule, Splits
from lightning_privacy.data.persona.batch import PersonaBatch, PersonaDataset, collate_persona
from lightning_privacy.data.persona.charging import Charging
from lightning_privacy.data.persona.damage import Damage
from lightning_privacy.data.persona.population import Population
from lightning_privacy.errors import CheckpointError, ConfigurationError
from lightning_privacy.mechanisms import NoiseSource
from lightning_privacy.sampling import BalancedSampler
from lightning_privacy.security import Key, KeyLike, as_key_ring

if TYPE_CHECKING:
    from lightning_privacy.data.persona.plan import Source
    from lightning_privacy.data.persona.stage import Stage
    from lightning_privacy.data.persona.store import PersonaStore
    from lightning_privacy.data.persona.truth import PersonaTruth
    from lightning_privacy.preparation import GroupGuarantee, Preparation, PreparationReport, Roles, Step

__all__ = ["PersonaDataModule"]

_DEFAULT = Population()


class PersonaDataModule(InMemoryDataModule):
    """A table of people with an image each, through all stages from the raw table to batches.

    1. People are generated, or read from a source, and stored encrypted.
    2. ``preparation`` runs on all records; it finds out who is who. Records of one identifier are of one person too,
       whatever it finds, and so on: people are what all columns that say who a record is about join.
    3. At most ``max_records_per_person`` records of each person are kept, chosen by what they hold.
    4. People are divided: those whose records are public are held out, for validation and test; the others are trained
       on. Nobody is on both sides, and neither is a base image of generated images.
    5. ``train_preparation`` runs on the records to train on; what it learned there is applied to the people held out.
    6. What is left becomes tensors, by public lists and constants.

    With a ``ledger`` the preparation is private: whatever is learned from records is charged to it first. Set it before
    the data are prepared, in the constructor or as the attribute ``ledger``, so that one ledger has all releases of a
    run. The people held out are taken for public. The counts in :attr:`preparation_report` and :attr:`counts` are exact
    and for whoever holds the table.

    With a store and a key, a preparation is made once: other processes and later runs with the same settings read it,
    and charge the releases it took to their ledger. A resumed private run needs that, since it is refused on data that
    were prepared anew with noise. Processes with one store wait for each other; files of two preparations are refused.

    Args:
        num_persons: How many people are generated.
        images: What their images are made of: ``"digits"`` or ``"fashion-mnist"``; None for the second where there is a
            root, and the first otherwise.
        root: Folder of Fashion-MNIST's files.
        damage: What goes wrong with the table: rates by name, or a :class:`Damage`; None for nothing.
        source: Where people come from in place of the generator: an object with ``generate()``, such as a
            :class:`PersonaGenerator` with settings of its own, or a :class:`PersonaTable` for a table that is real.
        preparation: Steps for all records, as a Preparation, a list or a mapping of names to steps; None for those of
            :func:`default_preparation`, an empty list for none.
        train_preparation: Steps that learn from the records to train on alone; None for those of
            :func:`default_train_preparation` where ``preparation`` is None too, and otherwise for none.
        roles: What the table's columns are for, as Roles or a mapping; None for those of generated tables. Any column
            may be the label; groups and features are what batches hold, see :func:`check_carried`.
        store: Folder of the encrypted store; None to keep all in memory.
        key: 32 bytes, a key or a ring of keys, for the store and for pseudonyms. None makes a key that is lost with the
            process.
        max_records_per_person: With 1, a guarantee for one record is one for a person; otherwise :meth:`guarantee`
            says what it is for one.
        held_out: Share of people held out, in tables without a column ``public``.
        val_share: Share of the people held out who are for validation; with 0 there is no validation.
        batch_size: Records of a training batch.
        eval_batch_size: Records of a validation or test batch.
        balance: What batches are balanced by: ``"class"``, ``"group"`` or ``"class*group"``; None for nothing. In
            private training the callback decides what balance costs, see :class:`PrivateBalance`.
        balance_groups: Which groups: ``"gender"``, ``"age_band"`` or ``"location"``.
        seed: Of generated people and of the division.
        ledger: What is learned from records is charged to; None for no privacy, or until it is set.
        noise: What noise is drawn from; None for the operating system's randomness.

    Attributes:
        artefacts: Files in the store by what they hold.

    Raises:
        ConfigurationError: An argument is out of range, or an extra is not installed.

    Example:
        >>> datamodule = PersonaDataModule(num_persons=200, damage={"wrong_labels": 0.1}, balance="class")
        >>> train = datamodule.splits.train
        >>> len(set(train.person)) == len(train)
        True
    """

    collate = staticmethod(collate_persona)
    fields = PersonaBatch._fields
    input_range = (-1.0, 1.0)

    def __init__(
        self,
        num_persons: int = _DEFAULT.num_persons,
        images: str | None = None,
        root: str | Path | None = None,
        damage: Damage | Mapping[str, float] | None = _DEFAULT.damage,
        *,
        source: Source | None = None,
        preparation: Preparation | Mapping[str, Step] | Sequence[Step] | None = None,
        train_preparation: Preparation | Mapping[str, Step] | Sequence[Step] | None = None,
        roles: Roles | Mapping[str, Any] | None = None,
        store: str | Path | None = None,
        key: KeyLike | None = None,
        max_records_per_person: int = 1,
        held_out: float = 0.2,
        val_share: float = 0.25,
        batch_size: int = 1024,
        eval_batch_size: int = 2000,
        balance: str | None = None,
        balance_groups: str = "gender",
        seed: int = 0,
        ledger: PrivacyLedger | None = None,
        noise: NoiseSource | None = None,
    ) -> None:
        super().__init__(batch_size, eval_batch_size)
        if find_spec("polars") is None:
            raise ConfigurationError("persona data needs polars: pip install 'lightning-privacy[persona]'")
        self.num_persons = positive_int(num_persons=num_persons)
        self.seed = non_negative_int(seed=seed)
        self.max_records_per_person = positive_int(max_records_per_person=max_records_per_person)
        population = Population(num_persons, images, root, damage)
        self.balance, self.balance_groups = balance, balance_groups
        one_of((None, "class", "group", "class*group"), balance=balance)
        if balance_groups not in self.fields[2:]:
            raise ConfigurationError(
                f"balance_groups must be one of {', '.join(self.fields[2:])}, got {balance_groups!r}"
            )
        for name, share in (("held_out", held_out), ("val_share", val_share)):
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
                raise ConfigurationError(f"{name} must be a number from 0 to 1, got {share!r}")
        if key is not None:
            as_key_ring(key)
        self.store = None if store is None else Path(store)
        self._key_given = key is not None
        self._key: KeyLike = Key.generate() if key is None else key
        self._noise = noise
        self._stage: Stage | None = None
        self._wanted: dict[tuple[Release, str | None], int] | None = None
        if source is not None:
            population.refuse_beside_source()
        from lightning_privacy.data.persona.plan import make_plan

        self._plan = make_plan(
            source,
            population.arguments() | {"seed": seed},
            roles,
            (preparation, train_preparation),
            max_records=max_records_per_person,
            held_out=float(held_out),
            val_share=float(val_share),
            seed=seed,
        )
        # Now: what a step says of itself may depend on the ledger that it was run with.
        steps = (*self._plan.preparation.steps, *self._plan.train_preparation.steps)
        self._charging = Charging(learns=any(step.private != "rowwise" for step in steps), ledger=ledger)

    @property
    def ledger(self) -> PrivacyLedger | None:
        """What is learned from records is charged to.

        Raises:
            ConfigurationError: On setting: the data were prepared without one.
        """
        return self._charging.ledger

    @ledger.setter
    def ledger(self, ledger: PrivacyLedger | None) -> None:
        if ledger is not None and not isinstance(ledger, PrivacyLedger):
            raise ConfigurationError(f"ledger must be a PrivacyLedger or None, got {ledger!r}")
        if self._stage is not None and ledger is not self._charging.ledger:
            self._stage.hand_over(self._charging.ledger, ledger)
        self._charging.ledger = ledger

    @property
    def learns_from_records(self) -> bool:
        """Whether the preparation does more than change each record by itself; then it needs the ledger of training."""
        return self._charging.learns

    @property
    def preparation_caveats(self) -> tuple[str, ...]:
        """What limits the guarantee of whoever trains on the records, as caveats of their ledger; when it is set up."""
        return self._charging.limits

    def guarantee(self, ledger: PrivacyLedger) -> GroupGuarantee | None:
        """What all that was charged means for a person, who is in up to :attr:`most_records_charged` records of it.

        Args:
            ledger: Of the training.

        Returns:
            The guarantee; None where nobody knows how many records a person has.
        """
        from lightning_privacy.preparation.group_privacy import group_privacy

        self._prepared()
        records = self.most_records_charged
        return None if records is None else group_privacy(ledger, records=records)

    @property
    def most_records_charged(self) -> int | None:
        """The most records of a person in what is trained on, and in what the preparation released something of.

        None where nobody knows, as when the table says too late who a record is about; as set, until that is prepared.
        """
        trained = self.max_records_per_person
        return trained if self._stage is None else self._stage.most_of_a_person(trained)

    @property
    def roles(self) -> Roles:
        """What the table's columns are for."""
        return self._plan.roles

    @property
    def preparation_report(self) -> PreparationReport:
        """What each step of the preparation did."""
        return self._prepared().report

    @property
    def counts(self) -> dict[str, int]:
        """Records after each stage: exact, and for whoever holds the table."""
        return dict(self._prepared().counts)

    @property
    def artefacts(self) -> dict[str, Path]:
        """Files of the store by what they hold; empty without one."""
        store = self._opened()
        return {} if store is None else store.paths

    def truth(self) -> PersonaTruth:
        """What is true about generated people, for tests; training never asks.

        Raises:
            ConfigurationError: It is not known, as of a table that is real.
        """
        return self._prepared().known_truth(self._opened())

    @override
    def prepare_data(self) -> None:
        self._check_processes()
        self._prepared()

    @override
    def setup(self, stage: str) -> None:
        self._check_processes()
        super().setup(stage)

    @override
    def load(self) -> Splits:
        from lightning_privacy.data.persona.encoding import encode

        stage, client = self._prepared(), self._plan.roles.client

        def part(side: str) -> PersonaDataset:
            rows = stage.table.filter(side=side)
            held = client if client in rows.columns else None
            dataset = encode(rows, stage.images, person=stage.person, client=held, label=self._plan.label)
            dataset.charging = self._charging  # whoever trains on it, with this data module or without
            dataset.max_records_per_person = None if stage.person is None else self.max_records_per_person
            return dataset

        val = part("val") if stage.counts.get("val") else None
        return Splits(train=part("train"), val=val, test=part("test"))

    @override
    def train_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        self._settle()
        if self.balance is None:
            return super().train_dataloader()
        train = self.splits.train
        groups = train.tensors[self.fields.index(self.balance_groups)]
        sampler = BalancedSampler(
            train.tensors[1], groups=None if self.balance == "class" else groups, balance=self.balance, seed=self.seed
        )
        return DataLoader(train, batch_size=self.batch_size, sampler=sampler, collate_fn=self.collate)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {} if self._stage is None else {"stamp": self._stage.stamp}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the preparation that the checkpoint's ledger knows of, and with no other.

        Its releases are in that ledger, which is about to be restored, and in this one: they count once.

        Raises:
            CheckpointError: The data of this process were prepared anew with noise.
        """
        stamp, fitting = state_dict.get("stamp"), self.trainer is not None and self.trainer.state.fn == "fit"
        if stamp is None or not fitting or self._stage is None or not self._stage.releases:
            return
        if stamp != self._stage.stamp:
            raise CheckpointError(
                "the data of this process were prepared anew, with other noise than the run of the checkpoint: go on "
                "with the store and the key of that run (data.store=... data.key=...)"
            )
        if self._charging.ledger is not None:
            self._wanted = self._stage.discharge(self._charging.ledger)

    @override
    def on_exception(self, exception: BaseException) -> None:
        # A checkpoint that was refused has not brought back what was taken out of the ledger for it.
        if self._wanted is not None:
            self._settle()

    def _settle(self) -> None:
        """Charge what a restored ledger should have had, and has not: some other ledger was restored, or none."""
        if self._stage is not None and self._charging.ledger is not None:
            self._stage.settle(self._charging.ledger, self._wanted)
        self._wanted = None

    def _prepared(self) -> Stage:
        if self._stage is None:
            from lightning_privacy.data.persona.pipeline import run

            self._stage = run(self._plan, store=self._opened(), ledger=self.ledger, noise=self._noise, key=self._key)
            self._charging.limits = self._stage.limits
        return self._stage

    def _opened(self) -> PersonaStore | None:
        if self.store is None:
            return None
        from lightning_privacy.data.persona.store import PersonaStore

        return PersonaStore(self.store, self._key)

    def _check_processes(self) -> None:
        """Several processes must train on one preparation, which only a store gives them."""
        processes = 1 if self.trainer is None else self.trainer.world_size
        if processes > 1 and (self.store is None or not self._key_given):
            raise ConfigurationError(
                f"store and key must be given when {processes} processes train, which all read what one of them "
                "prepared: data.store=/path/to/folder, and a key such as Key.from_file(path)"
            )
