"""Experiments P24, P26, P30 and P35: what is charged, and what a checkpoint knows of it."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytorch_lightning as pl
import torch
from _pitfall_lightning import Classifier, fit
from _pitfall_tools import (
    EXPECTED,
    Finding,
    change,
    empty_step,
    error_of,
    linear,
    loader,
    private,
    released,
    steps_charged,
)
from opacus import PrivacyEngine
from opacus.lightning import DPLightningDataModule
from torch import Tensor, nn

__all__ = ["EXPERIMENTS"]


def p24() -> Finding:
    def lbfgs() -> None:
        model = linear()
        run = private(model, optimizer=torch.optim.LBFGS(model.parameters()))
        x, y = loader().dataset.tensors

        def closure() -> Tensor:
            run.optimizer.zero_grad()
            loss = run.criterion(run.model(x), y)
            loss.backward()
            return loss

        run.optimizer.step(closure)

    def two_parts() -> SimpleNamespace:
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        first = private(model, optimizer=torch.optim.SGD(model[0].parameters(), lr=0.1), noise_multiplier=1.0)
        _, second, _ = first.engine.make_private(
            module=first.model,
            optimizer=torch.optim.SGD(model[2].parameters(), lr=0.1),
            data_loader=loader(),
            noise_multiplier=1.0,
            max_grad_norm=1.0,
        )
        x, y = loader().dataset.tensors
        first.criterion(first.model(x), y).backward()
        first.optimizer.step()
        second.step()
        return first

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        charged = steps_charged(two_parts().engine)
    refused = error_of(lbfgs)
    return Finding(
        "P24",
        {"two optimizers": "right" if charged == 2 else "silent", "L-BFGS": "refuses" if refused else "silent"},
        f"Two optimizers with a part of the weights each: one iteration is charged {charged} releases. L-BFGS: "
        f"{refused}.",
    )


def p26() -> Finding:
    with tempfile.TemporaryDirectory() as folder:
        first = Classifier()
        trainer = fit(first, max_epochs=2, default_root_dir=folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.save_checkpoint(f"{folder}/two.ckpt")
        again = Classifier()
        failed = error_of(lambda: _resume(again, f"{folder}/two.ckpt"))
        told = steps_charged(again.privacy_engine)
        total = steps_charged(first.privacy_engine) + told

        run = private(linear(), noise_multiplier=1.0)
        path = Path(folder, "plain.pt")
        run.engine.save_checkpoint(path=path, module=run.model)
        empty_step(run)
        run.engine.save_checkpoint(path=Path(folder, "newest.pt"), module=run.model)
        fresh = private(linear(), noise_multiplier=1.0)
        fresh.engine.load_checkpoint(path=Path(folder, "newest.pt"), module=fresh.model)
        run.engine.load_checkpoint(path=path, module=run.model)
        carried, left = steps_charged(fresh.engine), steps_charged(run.engine)
    return Finding(
        "P26",
        {
            "Lightning": "silent" if failed is None and told < total else "refuses",
            "save_checkpoint": "right" if carried == 1 else "silent",
            "an older save_checkpoint": "silent" if left == 0 else "right",
        },
        f"Resumed in Lightning, {told} of {total} steps are charged: epsilon is not in the checkpoint"
        f"{'' if failed is None else f' ({failed})'}. PrivacyEngine.save_checkpoint carries the account "
        f"({carried} of 1 step); loading an older one forgets the steps taken since ({left} of 1 left).",
    )


def _resume(module: Classifier, path: str) -> None:
    class Data(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            return loader(100, 10)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            max_epochs=4, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, accelerator="cpu",
        )  # fmt: skip
        trainer.fit(module, DPLightningDataModule(Data()), ckpt_path=path)


def p30() -> Finding:
    model = linear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = PrivacyEngine(accountant="rdp")
        made, optimizer, batches = engine.make_private_with_epsilon(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            data_loader=loader(100, 10),
            target_epsilon=3.0,
            target_delta=1e-3,
            epochs=1,
            max_grad_norm=1.0,
        )
        epsilons = []
        for _ in range(3):
            for x, y in batches:
                optimizer.zero_grad()
                nn.functional.cross_entropy(made(x), y).backward()
                optimizer.step()
            epsilons.append(engine.get_epsilon(1e-3))
    return Finding(
        "P30",
        {"make_private_with_epsilon": "not covered" if epsilons[-1] > 3.05 else "right"},
        f"There is no budget to run out of: with a target of 3 for one epoch, two epochs more end at epsilon "
        f"{epsilons[-1]:.2f} (after one: {epsilons[0]:.2f}), which is what get_epsilon says.",
    )


def p35() -> Finding:
    x, y = torch.full((EXPECTED, 4), 5.0), torch.zeros(EXPECTED, dtype=torch.long)
    other = y.clone()
    other[-1] = 1
    replaced = change(released(linear, x, y), released(linear, x, other))
    engine = PrivacyEngine(accountant="rdp")
    for poisson in (True, False):
        model = linear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made, optimizer, batches = engine.make_private(
                module=model,
                optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
                data_loader=loader(100, 10),
                noise_multiplier=1.0,
                max_grad_norm=1.0,
                poisson_sampling=poisson,
            )
            for rows, labels in batches:
                optimizer.zero_grad()
                nn.functional.cross_entropy(made(rows), labels).backward()
                optimizer.step()
    entries = len(engine.accountant.history)
    return Finding(
        "P35",
        {
            "Poisson alone": "right",
            "with poisson_sampling=False": "silent" if entries == 1 and replaced > 1.5 else "right",
        },
        f"A fixed-size batch knows only replacement, which moves the sum by {replaced:.2f} C; its steps are added to "
        f"Poisson ones as {entries} entry of {steps_charged(engine)} equal steps, with an influence of 1 C.",
    )


EXPERIMENTS = (p24, p26, p30, p35)
