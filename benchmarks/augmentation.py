"""Claim: batches augmented on the device take no longer than with kornia, and the DataModule adds under 3% to it.

All contenders turn the same images of a data set in memory into augmented batches, in one process, in turn: rotation
by up to 15 degrees, translation by up to a tenth, and crops after padding by 4, with parameters of its own for each
image. torchvision does it for one image at a time, as loaders' workers do. The table shows images a second of one core,
and the time as a multiple of kornia's.

    python benchmarks/augmentation.py            # all of it; writes benchmarks/results/augmentation.json
    python benchmarks/augmentation.py --quick    # shows that it runs, measures nothing
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from _harness import hardware, interleave, machine_line, parsed, parser_of, run_benchmark

_PACKAGES = ("lightning-privacy", "torch", "torchvision", "kornia")
_SHAPES = {"28x28": (1, 28), "32x32": (3, 32), "96x96": (3, 96)}
_IMAGES = {"28x28": 4096, "32x32": 4096, "96x96": 1024}
_BATCH = 256
_ROUNDS = 15
_ENOUGH_SECONDS = 75.0
_BASE = "kornia"
_DESCRIPTIONS = {
    "kornia": "a plain loader and kornia's RandomRotation, RandomAffine and RandomCrop, called with each batch",
    "transforms": "a plain loader and this package's transforms, called with each batch",
    "device": "AugmentationDataModule(where='device'): the same with numbered examples and Lightning's hooks",
    "workers": "AugmentationDataModule(where='workers') without worker processes: torchvision, one image at a time",
    "torchvision": "a data set that calls torchvision's transforms, one image at a time, not reproducible by example",
    "loader": "the plain loader alone: what all of them have in common",
}


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = parser_of(__doc__, rounds=_ROUNDS, threads=1, quick="a few images")
    parser.add_argument("--shape", choices=sorted(_SHAPES), action="append", help="may be given several times")
    arguments = parsed(
        parser,
        argv,
        result="augmentation.json",
        complete=lambda given: not given.shape and given.threads == 1 and given.rounds >= _ROUNDS,
    )
    arguments.shape = arguments.shape or list(_SHAPES)
    return arguments


def _fitting() -> Any:
    """What the DataModule asks a Trainer that is fitting."""
    state = SimpleNamespace(fn="fit", status="running")
    return SimpleNamespace(
        state=state, training=True, callbacks=[], current_epoch=0, global_step=0, lightning_module=None
    )


def _contenders(shape: str, images: int) -> dict[str, Callable[[], object]]:
    # Not at the top: the libraries read the number of threads from the environment when they are imported.
    import kornia.augmentation as kornia
    import torch
    from torch.utils.data import DataLoader, Dataset, TensorDataset
    from torchvision.transforms import v2

    from lightning_privacy.data.augmentation import AugmentationDataModule
    from lightning_privacy.data.augmentation.pipeline import Augmentation, Pipeline

    channels, size = _SHAPES[shape]
    data = TensorDataset(torch.rand(images, channels, size, size), torch.zeros(images, dtype=torch.int64))
    listed = [v2.RandomRotation(15), v2.RandomAffine(0, translate=(0.1, 0.1)), v2.RandomCrop(size, 4)]
    single = v2.Compose(listed)

    class Transformed(Dataset[Any]):
        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, index: int) -> Any:
            image, label = data[index]
            return single(image), label

    def loader(dataset: Any = data) -> Any:
        return DataLoader(dataset, batch_size=_BATCH)

    sequence = kornia.ImageSequential(
        kornia.RandomRotation(15.0, resample="nearest", p=1.0),
        kornia.RandomAffine(0.0, translate=(0.1, 0.1), resample="nearest", p=1.0),
        kornia.RandomCrop((size, size), padding=4),
    )
    pipeline = Pipeline(Augmentation(listed))
    numbers = torch.arange(images)
    modules = {
        where: AugmentationDataModule(train_dataloader=loader(), transforms=listed, where=where)
        for where in ("device", "workers")
    }
    modules["device"].datamodule.trainer = _fitting()

    def with_kornia() -> None:
        for batch in loader():
            sequence(batch[0])

    def with_transforms() -> None:
        for number, batch in enumerate(loader()):
            rows = len(batch[0])
            pipeline(batch, numbers[number * _BATCH : number * _BATCH + rows], epoch=0)

    def with_datamodule() -> None:
        module = modules["device"]
        for batch in module.train_dataloader():
            module.on_after_batch_transfer(module.on_before_batch_transfer(batch, 0), 0)

    def exhaust(made: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            for _ in made():
                pass

        return run

    return {
        "kornia": with_kornia,
        "transforms": with_transforms,
        "device": with_datamodule,
        "workers": exhaust(modules["workers"].train_dataloader),
        "torchvision": exhaust(lambda: loader(Transformed())),
        "loader": exhaust(loader),
    }


def _measure(arguments: argparse.Namespace, shape: str) -> dict[str, Any]:
    images = _BATCH if arguments.quick else _IMAGES[shape]
    timings = interleave(
        _contenders(shape, images),
        rounds=arguments.rounds,
        turn_seconds=0.01 if arguments.quick else 0.2,
        enough_seconds=_ENOUGH_SECONDS,
    )
    cells = {}
    for name, timing in timings.items():
        cells[name] = {
            "description": _DESCRIPTIONS[name],
            "images_per_second": round(images / timing.seconds),
            "best_images_per_second": round(images / timing.best_seconds),
            "time_multiple": round(timing.multiple_of(timings[_BASE]), 3),
            "best_time_multiple": round(timing.best_seconds / timings[_BASE].best_seconds, 3),
            "processor_time_multiple": round(timing.processor_multiple_of(timings[_BASE]), 3),
        }
    device, alone = timings["device"], timings["transforms"]
    workers, torchvision = timings["workers"], timings["torchvision"]
    return {
        "shape": [*_SHAPES[shape], _SHAPES[shape][1]],
        "images": images,
        "batch_size": _BATCH,
        "rounds": len(timings[_BASE].rounds),
        "contenders": cells,
        "datamodule_adds": {
            "device": round(device.processor_multiple_of(alone) - 1, 4),
            "device_best": round(device.best_seconds / alone.best_seconds - 1, 4),
            "workers": round(workers.processor_multiple_of(torchvision) - 1, 4),
            "workers_best": round(workers.best_seconds / torchvision.best_seconds - 1, 4),
        },
    }


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(arguments.threads)
    machine = hardware(threads=arguments.threads, packages=_PACKAGES)
    cells = {shape: _measure(arguments, shape) for shape in arguments.shape}
    return {
        "benchmark": "augmentation",
        "quick": arguments.quick,
        "rounds": arguments.rounds,
        "dtype": "float32",
        "time_method": "turns of a fifth of a second for each contender, round by round, the starter changing; a "
        "step is an epoch; images per second of the median over rounds of the median epoch, multiples the median over "
        "rounds of the ratio in the same round; best: the fastest epoch of all; what the DataModule adds: processor "
        "time over that of the same transforms without it",
        "hardware": machine | {"load_average_at_end": round(os.getloadavg()[0], 2)},
        "shapes": cells,
    }


def _format(result: dict[str, Any]) -> str:
    lines = []
    for shape, cell in result["shapes"].items():
        lines.append(
            f"{shape + ' x ' + str(cell['shape'][0]):14}{'images/s':>10}{'best':>10}{'x kornia':>10}{'best x':>8}"
        )
        for name, one in cell["contenders"].items():
            lines.append(
                f"{name:14}{one['images_per_second']:10,}{one['best_images_per_second']:10,}"
                f"{one['time_multiple']:10.2f}{one['best_time_multiple']:8.2f}"
            )
        adds = cell["datamodule_adds"]
        lines.append(
            f"the DataModule adds {adds['device']:.1%} on the device (fastest epochs: {adds['device_best']:.1%}), "
            f"{adds['workers']:.1%} in workers ({adds['workers_best']:.1%})"
        )
    return "\n".join([*lines, machine_line(result["hardware"])])


if __name__ == "__main__":
    sys.exit(run_benchmark(_parse(sys.argv[1:]), _run, _format))
