"""A run that was interrupted and goes on: the same weights with a seed, and nothing spent is forgotten."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_privacy._lightning import Callback, ModelCheckpoint
from lightning_privacy.accounting import GaussianRelease, PrivacyLedger, SampledGaussian
from lightning_privacy.callbacks import DifferentialPrivacy
from lightning_privacy.errors import CheckpointError, PrivacyBudgetExceeded

pytestmark = pytest.mark.filterwarnings("ignore:delta=0.01 is not below")

STEP = SampledGaussian(1.0, 8 / 40)


def private(tiny: Any, **options: Any) -> DifferentialPrivacy:
    return DifferentialPrivacy(**({"delta": 0.01, "noise_multiplier": 1.0, "noise": tiny.noise()} | options))


def fit(tiny: Any, folder: Path, *, ckpt_path: Path | None = None, **options: Any) -> Any:
    """Train the tiny module; returns it, its trainer and the callback."""
    saver = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, **options.pop("save", {"every_n_train_steps": 1}))
    privacy = options.pop("privacy", None) or private(tiny)
    validate = options.pop("validate", False)
    module = options.pop("module", None) or tiny.Module("adam", one_cycle=options.pop("one_cycle", False))
    trainer = tiny.trainer(
        enable_checkpointing=True,
        default_root_dir=folder,
        accumulate_grad_batches=2,
        callbacks=[*options.pop("callbacks", []), privacy, saver],
        **({"max_epochs": 3} | options),
    )
    loaders = (tiny.loader(40, 4),) + ((tiny.loader(4, shuffle=False),) if validate else ())
    trainer.fit(module, *loaders, ckpt_path=ckpt_path)
    return module, trainer, privacy


CASES: list[dict[str, Any]] = [
    {},
    {"one_cycle": True},
    {"validate": True},
    {"validate": True, "val_check_interval": 4},
    {"max_epochs": -1, "max_steps": 12},
    {"max_epochs": -1, "max_steps": 12, "validate": True, "val_check_interval": 3, "check_val_every_n_epoch": None},
    {"save": {"every_n_epochs": 1, "save_on_train_epoch_end": True}},
    {"save": {"every_n_epochs": 1, "save_on_train_epoch_end": True}, "max_epochs": -1, "max_steps": 12},
    {"save": {"every_n_epochs": 1, "save_on_train_epoch_end": False}, "validate": True, "val_check_interval": 4},
    {"limit_train_batches": 7},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_p26_a_run_resumed_from_any_checkpoint_equals_the_uninterrupted_one(
    tiny: Any, tmp_path: Path, case: dict[str, Any]
) -> None:
    module, trainer, privacy = fit(tiny, tmp_path / "whole", **dict(case))
    total = trainer.global_step
    checkpoints = sorted((tmp_path / "whole").glob("*.ckpt"), key=lambda path: torch.load(path)["global_step"])
    assert len(checkpoints) >= 2
    if len(checkpoints) > 3:  # the second step, and the end of the second epoch
        checkpoints = [checkpoints[1], checkpoints[2 * len(checkpoints) // 3 - 1]]
    for checkpoint in checkpoints:
        done = torch.load(checkpoint)["global_step"]
        shutil.copytree(tmp_path / "whole" / "privacy_ledger", tmp_path / "journal", dirs_exist_ok=True)
        resumed, again, ledger = fit(tiny, tmp_path / "resumed", ckpt_path=checkpoint, **dict(case))
        assert again.global_step == total
        torch.testing.assert_close(resumed.weights(), module.weights(), rtol=0, atol=0)
        draws = [sorted(ids) for ids in resumed.seen]
        assert draws == [sorted(ids) for ids in module.seen][len(module.seen) - len(draws) :]
        assert ledger.ledger.history == [
            (STEP, done + total - done, "training"),
            *([(STEP, total - done, "lost and re-done")] if done < total else []),
        ]
        if case.get("validate"):
            # A validation that had begun when the checkpoint was taken is not repeated.
            assert resumed.validated_at == [step for step in module.validated_at if step > done]
        shutil.rmtree(tmp_path / "resumed", ignore_errors=True)
        shutil.rmtree(tmp_path / "whole" / "privacy_ledger")  # what this resumption spent
        shutil.copytree(tmp_path / "journal", tmp_path / "whole" / "privacy_ledger")
    assert privacy.ledger.history == [(STEP, total, "training")]


def test_p26_a_checkpoint_taken_inside_a_step_redoes_that_step(tiny: Any, tmp_path: Path) -> None:
    class Save(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            name = tmp_path / f"{trainer.current_epoch}-{batch_idx}.ckpt"
            trainer.save_checkpoint(name)

    module, trainer, _ = fit(tiny, tmp_path / "whole", callbacks=[Save()])
    inside = [
        path
        for path in tmp_path.glob("*.ckpt")
        if not torch.load(path)["callbacks"]["DifferentialPrivacy"]["progress"]["at_step_boundary"]
    ]
    assert inside
    for checkpoint in inside[:3]:
        resumed, again, _ = fit(tiny, tmp_path / "resumed", ckpt_path=checkpoint)
        assert again.global_step == trainer.global_step
        torch.testing.assert_close(resumed.weights(), module.weights(), rtol=0, atol=0)


def test_p25_an_unseeded_checkpoint_holds_no_seed_and_no_random_state(tiny: Any, tmp_path: Path) -> None:
    fit(tiny, tmp_path, privacy=DifferentialPrivacy(delta=0.01, noise_multiplier=1.0), max_epochs=1)
    checkpoint = torch.load(tmp_path / "step=5.ckpt", weights_only=True)
    state = checkpoint["callbacks"]["DifferentialPrivacy"]
    assert state["progress"]["noise_seed"] is None
    assert state["progress"]["sampler_seed"] is None

    def leaves(value: Any) -> list[Any]:
        if isinstance(value, dict):
            return [leaf for item in value.values() for leaf in leaves(item)]
        if isinstance(value, list | tuple):
            return [leaf for item in value for leaf in leaves(item)]
        return [value]

    assert not any(isinstance(leaf, torch.Tensor | bytes) for leaf in leaves(state))


def test_p25_a_resumed_unseeded_run_does_not_repeat_draws_or_noise(tiny: Any, tmp_path: Path) -> None:
    runs = []
    fit(tiny, tmp_path, privacy=DifferentialPrivacy(delta=0.01, noise_multiplier=1.0), max_epochs=1)
    for _ in range(2):
        privacy = DifferentialPrivacy(delta=0.01, noise_multiplier=1.0)
        module, _, _ = fit(tiny, tmp_path / "b", privacy=privacy, max_epochs=2, ckpt_path=tmp_path / "step=5.ckpt")
        runs.append((module.seen, module.weights()))
    assert runs[0][0] != runs[1][0]
    assert not torch.allclose(runs[0][1], runs[1][1])


SCRIPT = """
import os, signal, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, {tests!r})
from pathlib import Path
import conftest, test_resume
from lightning_privacy._lightning import Callback

class Kill(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 9:
            os.kill(os.getpid(), signal.SIGKILL)

test_resume.fit(conftest.Tiny, Path({folder!r}), callbacks=[Kill()], save=dict(every_n_train_steps=4))
"""


def test_p26_a_killed_run_resumes_with_equal_weights_and_everything_charged(
    tiny: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "killed"))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, timeout=120, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    whole, trainer, reference = fit(tiny, tmp_path / "whole")
    assert trainer.global_step == 15
    resumed, again, privacy = fit(tiny, tmp_path / "killed", ckpt_path=tmp_path / "killed" / "step=8.ckpt")
    assert again.global_step == 15
    torch.testing.assert_close(resumed.weights(), whole.weights(), rtol=0, atol=0)
    assert privacy.ledger.history == [(STEP, 15, "training"), (STEP, 1, "lost and re-done")]
    assert "made after the checkpoint are charged too, as 'lost and re-done': 1" in caplog.text
    assert "16 steps, 1 of them lost and re-done" in caplog.text
    expected = PrivacyLedger(delta=0.01)
    expected.charge(STEP, 16)
    assert privacy.ledger.epsilon(exact=True) == expected.epsilon(exact=True)
    assert reference.ledger.epsilon(exact=True) < expected.epsilon(exact=True)


def test_p26_an_older_checkpoint_does_not_make_the_ledger_forget(tiny: Any, tmp_path: Path) -> None:
    """In the process that trained the run: by resuming, and by testing with an older checkpoint."""
    privacy = private(tiny)
    module, trainer, _ = fit(tiny, tmp_path, privacy=privacy)
    trainer.test(module, tiny.loader(4, shuffle=False), ckpt_path=tmp_path / "step=5.ckpt", verbose=False)
    assert privacy.ledger.count(STEP) == 15
    fit(tiny, tmp_path / "again", privacy=privacy, ckpt_path=tmp_path / "step=5.ckpt")
    assert privacy.ledger.count(STEP) == 25


def test_p26_testing_with_a_checkpoint_of_another_run_changes_nothing(tiny: Any, tmp_path: Path) -> None:
    fit(tiny, tmp_path, max_epochs=1)
    privacy = private(tiny)
    module = tiny.Module("adam")
    trainer = tiny.trainer(max_epochs=2, callbacks=[privacy])
    trainer.fit(module, tiny.loader(40, 8))
    before = privacy.state_dict()
    trainer.test(module, tiny.loader(4, shuffle=False), ckpt_path=tmp_path / "step=5.ckpt", verbose=False)
    assert privacy.state_dict() == before


def test_p26_what_was_released_before_resuming_counts_too(tiny: Any, tmp_path: Path) -> None:
    fit(tiny, tmp_path, max_epochs=1)
    ledger = PrivacyLedger(delta=0.01)
    ledger.charge(GaussianRelease(4.0), label="class counts")
    privacy = private(tiny, ledger=ledger)
    fit(tiny, tmp_path / "b", privacy=privacy, max_epochs=2, ckpt_path=tmp_path / "step=5.ckpt")
    assert ledger.count(GaussianRelease(4.0)) == 1
    assert ledger.count(STEP) == 10


def test_p26_a_missing_journal_is_a_warning_and_a_caveat(tiny: Any, tmp_path: Path) -> None:
    fit(tiny, tmp_path, max_epochs=1)
    shutil.rmtree(tmp_path / "privacy_ledger")
    privacy = private(tiny)
    with pytest.warns(UserWarning, match=r"privacy_ledger.*\.jsonl is not there"):
        fit(tiny, tmp_path / "b", privacy=privacy, max_epochs=2, ckpt_path=tmp_path / "step=5.ckpt")
    assert any("without its journal" in caveat for caveat in privacy.ledger.caveats)
    assert list((tmp_path / "b" / "privacy_ledger").iterdir())


def test_a_run_without_checkpoints_writes_no_journal(tiny: Any, tmp_path: Path) -> None:
    trainer = tiny.trainer(max_epochs=1, callbacks=[private(tiny)])
    trainer.fit(tiny.Module(), tiny.loader(40, 8))
    assert list(tmp_path.iterdir()) == []
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = tiny.trainer(max_epochs=2, callbacks=[private(tiny)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*(workers|validation_step|not below|eval mode|LeafSpec).*")
        again.fit(tiny.Module(), tiny.loader(40, 8), ckpt_path=tmp_path / "last.ckpt")
    assert again.global_step == 10


def test_lost_steps_that_pass_the_budget_are_refused(tiny: Any, tmp_path: Path) -> None:
    ledger = PrivacyLedger(delta=0.01)
    ledger.charge(STEP, 15)
    epsilon = ledger.epsilon(exact=True) * 1.0001
    fit(tiny, tmp_path, privacy=private(tiny, epsilon=epsilon))
    with pytest.raises(PrivacyBudgetExceeded, match="no step can be taken"):
        fit(tiny, tmp_path / "b", privacy=private(tiny, epsilon=epsilon), ckpt_path=tmp_path / "step=5.ckpt")


def test_a_resumed_run_may_have_a_larger_budget(tiny: Any, tmp_path: Path) -> None:
    first = DifferentialPrivacy(delta=0.01, epsilon=2.0)
    fit(tiny, tmp_path, privacy=first, max_epochs=1)
    second = DifferentialPrivacy(delta=0.01, epsilon=4.0)
    _, trainer, _ = fit(tiny, tmp_path / "b", privacy=second, max_epochs=100, ckpt_path=tmp_path / "step=5.ckpt")
    assert second.noise_multiplier == first.noise_multiplier
    assert trainer.global_step > 5
    assert 3.0 < second.ledger.epsilon(exact=True) <= 4.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_grad_norm": 2.0}, "'max_grad_norm': 1.0}, this one .*2.0"),
        ({"noise_multiplier": 2.0}, "noise_multiplier=1.0, this one 2.0"),
        ({"delta": 0.02}, "delta 0.01.*0.02"),
    ],
)
def test_p26_changed_settings_are_refused(tiny: Any, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    fit(tiny, tmp_path, max_epochs=1)
    with pytest.raises(CheckpointError, match=words):
        fit(tiny, tmp_path / "b", privacy=private(tiny, **options), ckpt_path=tmp_path / "step=5.ckpt")


@pytest.mark.parametrize(
    ("size", "batch_size", "words"),
    [(41, 8, "num_examples=40, this one 41"), (40, 4, "expected_batch_size=8, this one 4")],
)
def test_p26_changed_data_is_refused(tiny: Any, tmp_path: Path, size: int, batch_size: int, words: str) -> None:
    fit(tiny, tmp_path, max_epochs=1)
    module = tiny.Module("adam")
    trainer = tiny.trainer(max_epochs=2, callbacks=[private(tiny)])
    with pytest.raises(CheckpointError, match=words):
        trainer.fit(module, tiny.loader(size, batch_size), ckpt_path=tmp_path / "step=5.ckpt")
    assert module.seen == []


@pytest.mark.parametrize("weights_only", [False, True])
def test_p26_a_checkpoint_of_a_run_without_privacy_is_refused(tiny: Any, tmp_path: Path, weights_only: bool) -> None:
    trainer = tiny.trainer(max_epochs=1)
    trainer.fit(tiny.Module(), tiny.loader(40, 8))
    trainer.save_checkpoint(tmp_path / "plain.ckpt", weights_only=weights_only)
    module = tiny.Module()
    with pytest.raises(CheckpointError, match=r"plain.ckpt has 5 training steps and no state.*load_from_checkpoint"):
        tiny.trainer(max_epochs=2, callbacks=[private(tiny)]).fit(
            module, tiny.loader(40, 8), ckpt_path=tmp_path / "plain.ckpt"
        )
    assert module.seen == []


def test_p26_a_checkpoint_saved_beside_the_callback_but_not_by_a_private_fit_is_refused(
    tiny: Any, tmp_path: Path
) -> None:
    trainer = tiny.trainer(max_epochs=1)
    trainer.fit(tiny.Module(), tiny.loader(40, 8))
    trainer.callbacks.append(private(tiny))
    trainer.save_checkpoint(tmp_path / "beside.ckpt")
    with pytest.raises(CheckpointError, match="5 training steps and no state"):
        tiny.trainer(max_epochs=2, callbacks=[private(tiny)]).fit(
            tiny.Module(), tiny.loader(40, 8), ckpt_path=tmp_path / "beside.ckpt"
        )


@pytest.mark.parametrize("kind", ["cut short", "text", "foreign", "empty"])
def test_a_damaged_or_foreign_checkpoint_is_refused_by_name(tiny: Any, tmp_path: Path, kind: str) -> None:
    fit(tiny, tmp_path, max_epochs=1)
    path = tmp_path / "bad.ckpt"
    content = (tmp_path / "step=5.ckpt").read_bytes()
    if kind == "foreign":
        torch.save({"model": torch.zeros(3)}, path)
    else:
        path.write_bytes({"cut short": content[: len(content) // 2], "text": b"not a checkpoint", "empty": b""}[kind])
    module = tiny.Module("adam")
    trainer = tiny.trainer(max_epochs=2, callbacks=[private(tiny)])
    with pytest.raises(CheckpointError, match=rf"{path}.*without ckpt_path"):
        trainer.fit(module, tiny.loader(40, 8), ckpt_path=path)
    assert module.seen == []


def test_a_run_folder_that_cannot_be_written_ends_with_its_path(tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "privacy_ledger").write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"privacy_ledger.*default_root_dir"):
        fit(tiny, tmp_path, max_epochs=1)
    assert not list(tmp_path.glob("*.ckpt"))
