"""Trainings in several processes, started by test_ddp.py in a process of their own.

``python ddp_scenarios.py FOLDER NAME...`` imports everything once and forks the processes of each scenario; what a
process saw is in ``FOLDER/NAME/RANK.pt``, how it ended in ``FOLDER/NAME/ends.json``, what it said in ``RANK.log``.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
import torch.distributed
from conftest import Tiny
from torch.utils.data import DataLoader, DistributedSampler, Subset, random_split

from lightning_privacy._lightning import Callback, DDPStrategy, ModelCheckpoint
from lightning_privacy.accounting import GaussianRelease, PrivacyLedger
from lightning_privacy.callbacks import DifferentialPrivacy
from lightning_privacy.callbacks.private_balance import PrivateBalance
from lightning_privacy.errors import ConfigurationError, UnsupportedError
from lightning_privacy.sampling import BalancedSampler

SIZE, BATCH, STEPS = 37, 5, 8
DEADLINE = 120.0  # seconds after which a process counts as hanging

torch.set_num_threads(1)
warnings.simplefilter("ignore")


class Watch(Callback):
    """Keeps what is released, and counts the sums over processes while training."""

    def __init__(self) -> None:
        self.gradients: list[torch.Tensor] = []
        self.sums: list[int] = []
        self.wrapped: bool | None = None
        self._sum: Callable[..., Any] | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.wrapped = trainer.model is not pl_module
        self._sum = original = torch.distributed.all_reduce

        def counted(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self.sums.append(tensor.numel())
            return original(tensor, *args, **kwargs)

        torch.distributed.all_reduce = counted

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.gradients.append(torch.cat([p.grad.flatten().clone() for p in pl_module.net.parameters()]))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        torch.distributed.all_reduce = self._sum


class Late(Tiny.Module):
    """Does not ask for the number of steps before training."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=50 * STEPS)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Buffered(Late):
    """Has a buffer that a wrapper would send around at each forward, which looks like one that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(1, dtype=torch.float64))

    def loss(self, batch: Any) -> Any:
        return super().loss(batch) + self.shift


class Gan(Tiny.Module):
    """A critic that sees data and a generator that does not, by hand; ``skips`` tells when there is no step."""

    def __init__(self, skips: Callable[[int], bool] = lambda batch_idx: False) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = torch.nn.Linear(2, 3).double()
        self.skips = skips

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.steps_at_batch.append(batch_idx)
        self.seen.append(batch[2].tolist())
        critic, generator = self.optimizers()
        if self.skips(batch_idx):
            return
        critic.zero_grad()
        self.manual_backward(self.loss(batch))
        critic.step()
        generator.zero_grad()
        noise = torch.full((4, 2), 1.0 + self.global_rank, dtype=torch.float64)
        self.manual_backward(self.generator(noise).square().mean())
        generator.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(each.parameters(), lr=0.05) for each in (self.net, self.generator)]


def private(**options: Any) -> DifferentialPrivacy:
    return DifferentialPrivacy(**({"delta": 0.01, "noise_multiplier": 1.0, "noise": Tiny.noise()} | options))


def fit(
    world: int,
    *,
    privacy: DifferentialPrivacy | None = None,
    module: Any = None,
    loader: Any = None,
    callbacks: Any = (),
    ckpt_path: Any = None,
    strategy: Any = "ddp",
    **options: Any,
) -> dict[str, Any]:
    privacy = privacy or private()
    module = module or Tiny.Module(one_cycle=True)
    watch = Watch()
    loader = Tiny.loader(SIZE, BATCH) if loader is None else loader
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = Tiny.trainer(
        **({"max_epochs": 3, "enable_checkpointing": saves} | options),
        **({"devices": world, "strategy": strategy} if world > 1 else {}),
        callbacks=[privacy, watch, *callbacks],
    )
    trainer.fit(module, loader, Tiny.loader(6, 3, shuffle=False), ckpt_path=ckpt_path)
    return {
        "weights": module.weights(),
        "epsilon": privacy.ledger.epsilon(exact=True),
        "history": [(repr(release), count) for release, count, _ in privacy.ledger.history],
        "caveats": list(privacy.ledger.caveats),
        "steps": trainer.global_step,
        "total_steps": module.total_steps,
        "seen": list(zip(module.steps_at_batch, module.seen, strict=True)),
        "learning_rates": module.learning_rates,
        "validated_at": module.validated_at,
        "gradients": watch.gradients,
        "sums": watch.sums,
        "wrapped": watch.wrapped,
        "forward": "forward" in vars(module),
        "distributed": trainer._accelerator_connector.use_distributed_sampler,
    }


def saver(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(dirpath=folder, every_n_train_steps=4, save_top_k=-1, filename="{step}")


def whole(world: int, rank: int, folder: Path) -> Any:
    return fit(world)


def same(world: int, rank: int, folder: Path) -> Any:
    """Trainings that must be the same in one process and in several."""
    return {
        "plain": fit(world),
        "accumulated": fit(world, accumulate_grad_batches=2),
        "late": fit(world, module=Late()),
        "budget": fit(world, privacy=private(epsilon=2.5), module=Late(), max_epochs=50),
        "limited": fit(world, max_epochs=-1, max_steps=11, limit_train_batches=4),
    }


def ways(world: int, rank: int, folder: Path) -> Any:
    """Other ways to say the same as ``whole`` in several processes, and then training without privacy."""
    data = Tiny.dataset(SIZE)
    shuffled = DataLoader(data, BATCH, sampler=DistributedSampler(data, world, rank))
    bare = Tiny.Module()
    results = {
        "own distributed sampler": fit(world, loader=shuffled),
        "no distributed sampler": fit(world, use_distributed_sampler=False),
        "unused parameters": fit(world, strategy="ddp_find_unused_parameters_true"),
        "buffer": fit(world, module=Buffered()),
        "static graph": fit(world, strategy=DDPStrategy(static_graph=True)),
    }
    Tiny.trainer(devices=world, strategy="ddp", max_epochs=1).fit(bare, Tiny.loader(SIZE, BATCH))
    return {"ways": results, "bare": bare.seen, "bare_weights": bare.weights()}


def manual(world: int, rank: int, folder: Path) -> Any:
    gan = Gan()
    result = fit(world, module=gan, privacy=private(public=["generator"]))
    result["generator"] = torch.cat([p.detach().flatten() for p in gan.generator.parameters()])
    try:
        fit(world, module=Gan(lambda batch_idx: rank == 1 and batch_idx == 3), privacy=private(public=["generator"]))
    except Exception as error:  # noqa: BLE001
        result["alone"] = str(error)
    return result


def line_search(world: int, rank: int, folder: Path) -> Any:
    module = Tiny.Module()
    module.configure_optimizers = lambda: torch.optim.LBFGS(module.parameters())
    try:
        fit(world, module=module, loader=Tiny.loader(SIZE, SIZE))
    except UnsupportedError as error:
        return str(error)
    return None


def unseeded(world: int, rank: int, folder: Path) -> Any:
    return fit(world, privacy=DifferentialPrivacy(delta=0.01, noise_multiplier=1.0))


def resumed(world: int, rank: int, folder: Path) -> Any:
    options: dict[str, Any] = {"default_root_dir": folder, "max_epochs": 3}
    first = fit(world, callbacks=[saver(folder)], **options)
    second = fit(world, callbacks=[saver(folder / "b")], ckpt_path=folder / "step=8.ckpt", **options)
    return {"first": first, "second": second}


def disagreeing(world: int, rank: int, folder: Path) -> Any:
    spent = PrivacyLedger(delta=0.01)
    if rank == 1:
        spent.charge(GaussianRelease(4.0))
    data, half = Tiny.dataset(SIZE), list(range(rank, 20, 2))
    parts = random_split(data, [20, 17], generator=torch.Generator().manual_seed(rank))
    cases: dict[str, dict[str, Any]] = {
        "size": {"loader": Tiny.loader(SIZE + rank, BATCH)},
        "split": {"loader": DataLoader(parts[0], BATCH, shuffle=True)},
        "part": {"loader": DataLoader(Subset(data, half), BATCH, shuffle=True)},
        "noise": {"privacy": private(noise_multiplier=1.0 + rank)},
        "bound": {"privacy": private(max_grad_norm=1.0 + rank)},
        "seed": {"privacy": private(noise=Tiny.noise(rank))},
        "batch": {"loader": Tiny.loader(SIZE, BATCH + rank)},
        "ledger": {"privacy": private(ledger=spent)},
    }
    said: dict[str, str] = {}
    for name, options in cases.items():
        try:
            fit(world, **options)
        except ConfigurationError as error:
            said[name] = str(error)
    return said


def balanced(world: int, rank: int, folder: Path) -> Any:
    """Class-balanced trainings: by sampling with public and with noisy counts, by weights, and ones that disagree."""
    labels = [int(number % 6 == 0) for number in range(SIZE)]
    cases = {
        "public": PrivateBalance(public_counts=True),
        "noisy": PrivateBalance(count_epsilon=0.5),
        "weights": PrivateBalance(loss_weighting="inverse"),
    }
    results: dict[str, Any] = {}
    for name, balance in cases.items():
        privacy = private(balance=balance, probe=False)
        loader = Tiny.loader(SIZE, BATCH, shuffle=False, sampler=BalancedSampler(labels))
        results[name] = fit(world, privacy=privacy, loader=loader)
        results[name]["balance"] = privacy.state_dict()["settings"]["balance"]
    system = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0, probe=False)  # each would draw other noisy counts
    results["unseeded"] = fit(
        world, privacy=system, loader=Tiny.loader(SIZE, BATCH, shuffle=False, sampler=BalancedSampler(labels))
    )
    results["unseeded"]["balance"] = system.state_dict()["settings"]["balance"]
    mixed = BalancedSampler([*labels[rank:], *labels[:rank]])
    try:
        fit(world, loader=Tiny.loader(SIZE, BATCH, shuffle=False, sampler=mixed))
    except ConfigurationError as error:
        results["disagreement"] = str(error)
    return results


class AtStepFive(Callback):
    def __init__(self, act: Callable[[Any], None]) -> None:
        self.act = act

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 5:
            self.act(trainer)


def killed(world: int, rank: int, folder: Path) -> Any:
    return fit(world, callbacks=[AtStepFive(lambda _: os.kill(os.getpid(), signal.SIGKILL))] if rank else [])


class Failing(Tiny.Module):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step == 5:
            raise RuntimeError("a fault of the module's own")
        return super().training_step(batch, batch_idx)


def failing(world: int, rank: int, folder: Path) -> Any:
    return fit(world, module=Failing() if rank else None, callbacks=[saver(folder)])


def failing_early(world: int, rank: int, folder: Path) -> Any:
    return fit(world, loader=Tiny.loader(0 if rank else SIZE, BATCH, shuffle=False))


def stopping(world: int, rank: int, folder: Path) -> Any:
    """One process wants to stop, the other does not."""

    def stop(trainer: Any) -> None:
        trainer.should_stop = True

    return fit(world, callbacks=[AtStepFive(stop)] if rank else [])


def launched(world: int, rank: int, folder: Path, strategy: str) -> Any:
    """Lightning starts the processes."""
    privacy, module = private(), Tiny.Module(one_cycle=True)
    trainer = Tiny.trainer(max_epochs=3, devices=2, strategy=strategy, callbacks=[privacy])
    trainer.fit(module, Tiny.loader(SIZE, BATCH), Tiny.loader(6, 3, shuffle=False))
    progress = privacy.state_dict()["progress"]
    return {
        "weights": module.weights(),
        "epsilon": privacy.ledger.epsilon(exact=True),
        "caveats": list(privacy.ledger.caveats),
        "noise_multiplier": privacy.noise_multiplier,
        "next_number": progress["next_number"],
    }


def forked(world: int, rank: int, folder: Path) -> Any:
    return launched(world, rank, folder, "ddp_fork")


def spawned(world: int, rank: int, folder: Path) -> Any:
    return launched(world, rank, folder, "ddp_spawn")


def forked_failing(world: int, rank: int, folder: Path) -> Any:
    privacy = private()
    trainer = Tiny.trainer(max_epochs=3, devices=2, strategy="ddp_fork", callbacks=[privacy])
    try:
        trainer.fit(Failing(), Tiny.loader(SIZE, BATCH))
    except Exception as error:  # noqa: BLE001
        return {"error": str(error), "caveats": list(privacy.ledger.caveats)}
    return {}


ALONE = {"forked", "spawned", "forked_failing"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_rank(name: str, world: int, rank: int, folder: Path) -> None:
    result = globals()[name](world, rank, folder)
    torch.save(result, folder / f"{rank}.pt")


def start(name: str, world: int, rank: int, folder: Path, port: int) -> int:
    """Fork one process of a scenario and return its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        log = os.open(folder / f"{rank}.log", os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        if name not in ALONE and world > 1:
            os.environ |= {"WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
        run_rank(name, world, rank, folder)
        status = 0
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run(name: str, world: int, folder: Path) -> None:
    """Run all processes of a scenario; those that hang are ended and have None in place of their status."""
    folder.mkdir(parents=True)
    port = free_port()
    running = {start(name, world, rank, folder, port): rank for rank in range(1 if name in ALONE else world)}
    ends: dict[int, int | None] = {}
    deadline = time.monotonic() + DEADLINE
    while running and time.monotonic() < deadline:
        for child in list(running):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                ends[running.pop(child)] = os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    for child, rank in running.items():
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        ends[rank] = None
    (folder / "ends.json").write_text(json.dumps({str(rank): status for rank, status in ends.items()}))


def main(folder: Path, names: list[str]) -> None:
    for name in names:
        scenario, _, world = name.partition(":")
        run(scenario, int(world or 2), folder / name.replace(":", "-"))


if __name__ == "__main__":
    if "TORCHELASTIC_RUN_ID" in os.environ:
        target = Path(sys.argv[1])
        run_rank("whole", 2, int(os.environ["RANK"]), target)
    else:
        main(Path(sys.argv[1]), sys.argv[2:])
