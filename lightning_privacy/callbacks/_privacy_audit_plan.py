"""Which canaries an audited run has: chosen once, from a seed and coins that are kept, so that a resumed run has them.

Example:
    >>> plan = CanaryPlan.draw(4)
    >>> CanaryPlan.from_dict(plan.to_dict()) == plan, len(plan.coins)
    (True, 4)
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_privacy._lightning import rank_zero_warn
from lightning_privacy.audit.canaries import CanaryMaker
from lightning_privacy.audit.coins import draw_coins, read_coins, write_coins
from lightning_privacy.audit.gradient_canaries import GradientCanaries
from lightning_privacy.audit.slots import CanarySlots
from lightning_privacy.data.augmentation.batches import KeyedExample
from lightning_privacy.errors import CheckpointError, ConfigurationError

__all__ = ["CanaryPlan", "PlantedClients", "gradients_of", "plant_clients", "plant_examples"]

_SEED_BITS = 128


@dataclass(frozen=True)
class CanaryPlan:
    """The random part of an audit.

    Args:
        seed: Of the choice of canaries; no secret.
        coins: Which of them are in.
    """

    seed: int
    coins: tuple[bool, ...]

    @classmethod
    def draw(cls, num_canaries: int) -> CanaryPlan:
        """Take seed and coins from the operating system."""
        return cls(secrets.randbits(_SEED_BITS), tuple(draw_coins(num_canaries).tolist()))

    @property
    def count(self) -> int:
        """How many canaries there are."""
        return len(self.coins)

    def generator(self) -> np.random.Generator:
        """Starts anew at every call, so that everything is chosen again as it was."""
        return np.random.default_rng(self.seed)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values."""
        return {"seed": self.seed, "count": self.count, "coins": write_coins(self.coins)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CanaryPlan:
        """What :meth:`to_dict` gave.

        Raises:
            CheckpointError: It is damaged.
        """
        try:
            return cls(int(values["seed"]), tuple(read_coins(values["coins"], count=values["count"]).tolist()))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint's canaries can't be read: {error!r}") from error


def plant_examples(
    plan: CanaryPlan, maker: CanaryMaker, dataset: Any, *, private: bool = False
) -> tuple[CanarySlots, list[Any]]:
    """Put canaries into a training set.

    Args:
        plan: Which.
        maker: Makes them.
        dataset: The training set.
        private: Whether no example may have an influence on more than one example of the training: every canary is
            made of its own example, with a generator of its own, and takes its place.

    Returns:
        The training set with its slots, and the canaries in the order of the coins.

    Raises:
        ConfigurationError: More canaries than examples to make them of, or none can be made of these.
    """
    size, generator = len(dataset), plan.generator()
    # The first example stands in for an empty batch and must be there.
    in_place = private or maker.in_place
    room = size - 1 if in_place else size
    if plan.count > room:
        what = "take the place of training examples, but for the first" if in_place else "are made of examples"
        raise ConfigurationError(
            f"num_canaries must be at most {room} with a train data set of {size} examples, as canaries of this kind "
            f"{what}; got {plan.count}"
        )
    sources = generator.choice(room, plan.count, replace=False) + (size - room)
    examples = [dataset[int(source)] for source in sources]
    if private:
        own = generator.spawn(plan.count)
        canaries = [_made_of([example], maker, draws)[0] for example, draws in zip(examples, own, strict=True)]
    else:
        canaries = _made_of(examples, maker, generator)
    slots = sources if in_place else size + np.arange(plan.count)
    absent = [int(slot) for slot, coin in zip(slots, plan.coins, strict=True) if not coin]
    planted = {int(slot): canary for slot, canary in zip(slots, canaries, strict=True)}
    return CanarySlots(dataset, planted, absent=absent), canaries


def gradients_of(plan: CanaryPlan, num_examples: int, seen: Mapping[str, Any] | None = None) -> GradientCanaries:
    """Canaries that are gradients, in slots after those of the examples.

    Args:
        plan: Which.
        num_examples: Size of the training set.
        seen: What was seen of them before a checkpoint that is resumed.

    Warns:
        UserWarning: More canaries than examples.

    Raises:
        CheckpointError: That is damaged, or of other canaries.
    """
    if plan.count > num_examples:
        rank_zero_warn(
            f"num_canaries={plan.count} is more than the {num_examples} training examples, which are drawn that much "
            "more seldom: the audit says much about the mechanism, and the model will be of little use"
        )
    canaries = GradientCanaries(plan.coins, first_slot=num_examples, seed=plan.seed)
    if seen is not None:
        canaries.load_state_dict(seen)
    return canaries


@dataclass(frozen=True)
class PlantedClients:
    """Canaries that are clients.

    Args:
        canaries: By example of the training set.
        absent: Clients that are out.
        holdings: Canaries that each client has, at most as many as ``most``, in the order of the coins; none for a
            client that holds nothing.
        examples: How many examples were made into canaries.
        clients: How many clients there are.
    """

    canaries: dict[int, Any]
    absent: frozenset[int]
    holdings: list[list[Any]]
    examples: int
    clients: int


def plant_clients(
    plan: CanaryPlan,
    maker: CanaryMaker,
    dataset: Any,
    parts: Sequence[NDArray[np.int64]],
    *,
    most: int,
    private: bool = False,
) -> PlantedClients:
    """Make all that some clients hold into canaries.

    Args:
        plan: Which.
        maker: Makes them.
        dataset: The training set of all clients.
        parts: The examples of each client.
        most: Examples of a client over which its loss will be taken.
        private: Whether no client may have an influence on another: what a client holds is made into canaries by
            itself, with a generator of its own, and who is chosen does not depend on who holds something.

    Raises:
        ConfigurationError: More canaries than clients, or than clients that hold something where that may be looked
            at, or none can be made of these.
    """
    generator = plan.generator()
    # With privacy a client with nothing is chosen like any other, and its coin is wasted: were its place given to the
    # next, that one would change because of it.
    candidates = [int(client) for client in generator.permutation(len(parts)) if private or len(parts[client])]
    if plan.count > len(candidates):
        which = "clients" if private else "clients that hold examples"
        raise ConfigurationError(
            f"num_canaries must be at most the number of {which}, {len(candidates)}, as whole "
            f"clients are the canaries of a federated run, got {plan.count}"
        )
    chosen = candidates[: plan.count]
    owned = [parts[client] for client in chosen]
    indices = np.concatenate(owned)
    examples = [dataset[int(index)] for index in indices]
    if private:
        own, held = generator.spawn(len(parts)), iter(examples)
        made = [
            canary
            for client, part in zip(chosen, owned, strict=True)
            if len(part)
            for canary in _made_of(list(islice(held, len(part))), maker, own[client])
        ]
    else:
        made = _made_of(examples, maker, generator)
    canaries = {int(index): canary for index, canary in zip(indices, made, strict=True)}
    absent = frozenset(client for client, coin in zip(chosen, plan.coins, strict=True) if not coin)
    holdings = [[canaries[int(index)] for index in part[:most]] for part in owned]
    return PlantedClients(canaries, absent, holdings, len(indices), len(parts))


def _made_of(examples: Sequence[Any], maker: CanaryMaker, generator: np.random.Generator) -> list[Any]:
    """Canaries of examples, which may come with their numbers."""
    plain = [example.example if isinstance(example, KeyedExample) else example for example in examples]
    made = maker.make(plain, generator)
    return [
        example._replace(example=canary) if isinstance(example, KeyedExample) else canary
        for example, canary in zip(examples, made, strict=True)
    ]
