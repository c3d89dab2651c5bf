"""What Opacus does in each pitfall of private training: one small experiment a row, run here and not quoted.

Each experiment uses Opacus as its documentation says and measures: by how many C (the clipping norm) one example
changes the released sum without noise, how often examples are drawn, what is charged, what is raised. Rows on
Lightning use Opacus' own Lightning example. Where modes differ, each has an outcome.

    python benchmarks/pitfalls.py               # all rows; writes benchmarks/results/pitfalls.json
    python benchmarks/pitfalls.py --rows P02 P17
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from _harness import hardware, pin_threads, write_result

_RESULT = Path(__file__).parent / "results" / "pitfalls.json"
_PACKAGES = ("opacus", "torch", "pytorch-lightning")
_ELSEWHERE = (16, 32, 33, 34)  # pitfalls of data preparation and of sweeps, before and around training
ROWS = tuple(f"P{number:02d}" for number in range(1, 36) if number not in _ELSEWHERE)


def _experiments() -> dict[str, Any]:
    """The experiment of each row; imported late, after the number of threads is fixed."""
    import _pitfall_accounts
    import _pitfall_lightning
    import _pitfall_losses
    import _pitfall_noise
    import _pitfall_sampling
    import _pitfall_steps

    parts = (_pitfall_losses, _pitfall_steps, _pitfall_sampling, _pitfall_lightning, _pitfall_noise, _pitfall_accounts)
    found = {each.__name__.upper(): each for part in parts for each in part.EXPERIMENTS}
    return {row: found[row] for row in ROWS}


def run(rows: tuple[str, ...] = ROWS) -> list[dict[str, Any]]:
    """Run the experiments of some rows and print each as it ends.

    Args:
        rows: ids, among :data:`ROWS`.
    """
    results = []
    experiments = _experiments()
    for row in rows:
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            finding = experiments[row]()
        results.append(finding.to_dict())
        print(f"| {row} | {finding.table_cell} | {finding.evidence} |", flush=True)
        print(f"{row}: {time.perf_counter() - start:.1f} s", file=sys.stderr)
    return results


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="P01")
    parser.add_argument("--out", type=Path, help=f"result file; all rows together go to {_RESULT.name} by default")
    arguments = parser.parse_args(argv)
    if arguments.out is None and tuple(arguments.rows) == ROWS:
        arguments.out = _RESULT
    return arguments


def main(argv: list[str]) -> int:
    """Run what was asked for and write the result file."""
    arguments = _parse(argv)
    pin_threads(1)
    from _pitfall_tools import OUTCOMES

    rows = run(tuple(arguments.rows))
    about = hardware(threads=1, packages=_PACKAGES)
    result = {
        "about": "Opacus in each pitfall; outcome and mode are those of the default or documented use.",
        "outcomes": OUTCOMES,
        "rows": rows,
        "python": about["python"],
        "versions": about["versions"],
        "date": about["date"],
    }
    if arguments.out is not None:
        write_result(arguments.out, result)
        print(arguments.out, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
