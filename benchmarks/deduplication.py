"""Claim: records of one person are found at a precision of 0.95 or more, with no more than the columns' names given.

On splink's 50,000 historical figures with errors (recall at least 0.70, under 3 minutes on 2 cores), on its thousand
invented people (F1 at least 0.8) and on generated personas; beside splink, for which comparisons, blocking rules and
training are written by hand, and beside exact comparison. The whole curve of precision and recall over the threshold is
in the result. Then ten million rows are normalised in batches, with the most memory the process had.

    python benchmarks/deduplication.py                       # all of it; writes benchmarks/results/deduplication.json
    python benchmarks/deduplication.py --tables fake_1000    # part of it; writes nothing unless told where
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _harness import hardware, run_benchmark

_PACKAGES = ("lightning-privacy", "polars", "rapidfuzz", "numpy", "scipy")
_RIVALS = ("splink", "duckdb")  # no dependencies of this package; their versions are given where they are installed
_DATA = Path(os.environ.get("LIGHTNING_PRIVACY_DATA", Path(__file__).parents[2] / "shared" / "data")) / "persona"
_TABLES = ("fake_1000", "historical_figures", "personas")
_THRESHOLDS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 0.9999, 0.99999)
_DEFAULT = 0.7
_PERSONS = 12_000
_ROWS = (1_000_000, 10_000_000)
_LIMITS = {
    "fake_1000": "F1 at least 0.8",
    "historical_figures": "precision at least 0.95 at recall at least 0.70 in under 180 seconds",
    "personas": "none set",
}


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tables", nargs="*", choices=_TABLES, default=list(_TABLES))
    parser.add_argument("--rows", type=int, nargs="*", default=list(_ROWS), help="rows to normalise in batches")
    parser.add_argument("--no-splink", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="small tables: shows that it runs, measures nothing")
    parser.add_argument("--output", type=Path, help="result file; a complete run has a place of its own")
    parser.add_argument("--stream", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.threads < 1:
        parser.error(f"--threads must be >= 1, got {arguments.threads}")
    compared = not arguments.no_splink and arguments.stream is None and set(arguments.tables) != {"personas"}
    missing = [name for name in _RIVALS if compared and find_spec(name) is None]
    if missing:
        parser.error(
            f"{' and '.join(missing)} not installed: pip install splink duckdb, or leave it out with --no-splink"
        )
    whole = set(arguments.tables) == set(_TABLES) and not arguments.no_splink and tuple(arguments.rows) == _ROWS
    if arguments.output is None and whole and not arguments.quick:
        arguments.output = Path(__file__).parent / "results" / "deduplication.json"
    if arguments.quick:
        arguments.rows = [min(rows, 20_000) for rows in arguments.rows[:1]]
    os.environ.setdefault("POLARS_MAX_THREADS", str(arguments.threads))
    return arguments


def _table(name: str, *, quick: bool) -> tuple[Any, list[str], Any]:
    """The records, the columns to compare, and the true person of each record."""
    import polars as pl

    if name == "personas":
        from lightning_privacy.data.persona.columns import CODES_OF_GENDER
        from lightning_privacy.data.persona.generator import PersonaGenerator
        from lightning_privacy.data.persona.places import PLACES
        from lightning_privacy.preparation import Preparation
        from lightning_privacy.preparation.normalise import NormaliseCodes, NormaliseText

        data = PersonaGenerator(num_persons=200 if quick else _PERSONS, seed=0).generate()
        places = NormaliseCodes("location", {place.name: place.codes for place in PLACES}, unknown="null")
        steps = [NormaliseText(), NormaliseCodes("gender", CODES_OF_GENDER, unknown="null"), places]
        table = Preparation(steps).fit_apply(data.records)[0]
        truth = data.truth.persons(table["record"]).to_numpy()
        return table, ["given_name", "surname", "email", "gender", "age", "location"], truth
    if name == "fake_1000":
        table = pl.read_csv(_DATA / "fake_1000.csv")
    else:
        table = pl.read_parquet(_DATA / "historical_figures_with_errors_50k.parquet")
    if quick:
        table = table.head(300)
    columns = [column for column in table.columns if column not in ("unique_id", "cluster")]
    return table, columns, table["cluster"].rank("dense").cast(pl.Int64).to_numpy()


def pairs_found(persons: Any, truth: Any) -> tuple[float, float]:
    """Precision and recall over all pairs of records that are, or are said to be, of one person."""
    import numpy as np

    def pairs(labels: Any) -> float:
        sizes = np.unique(labels, return_counts=True)[1].astype(np.float64)
        return float((sizes * (sizes - 1) / 2).sum())

    both = pairs(np.asarray(persons, np.int64) * (int(np.max(truth)) + 1) + truth)
    said = pairs(persons)
    return (both / said if said else 1.0), (both / pairs(truth) if pairs(truth) else 1.0)


def _curve(persons: Callable[[float], Any], truth: Any, thresholds: Sequence[float]) -> list[dict[str, float]]:
    points = []
    for threshold in thresholds:
        precision, recall = pairs_found(persons(threshold), truth)
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        point = {"threshold": threshold, "precision": precision, "recall": recall, "f1": f1}
        points.append({key: round(value, 5) for key, value in point.items()})
    return points


def _measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    from lightning_privacy.preparation.deduplicate_linkage import equal_records, link_records

    table, columns, truth = _table(name, quick=arguments.quick)
    cells: dict[str, Any] = {}
    start, processor = time.perf_counter(), time.process_time()
    linkage = link_records(table, columns)
    linkage.persons(_DEFAULT)
    cells["ours"] = {
        "description": "link_records(table, columns): nothing else told",
        "seconds": round(time.perf_counter() - start, 2),
        "processor_seconds": round(time.process_time() - processor, 2),
        "pairs_compared": linkage.candidates,
        "columns": dict(linkage.columns),
        "left_out": dict(linkage.left_out),
        "default_threshold": _DEFAULT,
        "curve": _curve(linkage.persons, truth, _THRESHOLDS),
    }
    start = time.perf_counter()
    exact = equal_records(table, columns)
    cells["exact"] = {
        "description": "equal in all columns but for case and outer white space",
        "seconds": round(time.perf_counter() - start, 2),
        "curve": _curve(lambda _: exact, truth, [_DEFAULT]),
    }
    if not arguments.no_splink and name != "personas":
        from _deduplication_splink import splink_linkage

        start, processor = time.perf_counter(), time.process_time()
        persons = splink_linkage(name, table.select(columns))
        persons(_DEFAULT)
        cells["splink"] = {
            "description": "comparisons, blocking rules and training by hand; persons by transitive closure",
            "seconds": round(time.perf_counter() - start, 2),
            "processor_seconds": round(time.process_time() - processor, 2),
            "curve": _curve(persons, truth, [threshold for threshold in _THRESHOLDS if threshold >= 0.01]),
        }
    return {"records": table.height, "persons": len(set(truth.tolist())), "limit": _LIMITS[name], "contenders": cells}


def _write_rows(path: Path, rows: int) -> None:
    """Names, genders and dates of birth, written badly, as Parquet."""
    import polars as pl

    number = pl.int_range(rows, dtype=pl.Int64)
    frame = pl.LazyFrame({"n": [0]}).select(number.alias("n"))
    names = ("  Ada  Byron", "Müller", "josé  garcía ", "MÃ¼ller", "n/a", "O'Brien\t", "Lee", "ŞAHİN")
    dates = ("1815-12-10", "30.04.1777", "1999-02-30", "4/3/1999", "unknown", "19850102", "March 1, 1970")
    codes = ("F", "f", "female", "m", "MALE", "x", "w")
    lookup = {"name": names, "born": dates, "gender": codes}
    frame.select(
        "n",
        *(
            (pl.col("n") % len(values))
            .replace_strict(list(range(len(values))), list(values), return_dtype=pl.String)
            .alias(column)
            for column, values in lookup.items()
        ),
    ).with_columns(pl.col("name") + (pl.col("n") % 9973).cast(pl.String)).sink_parquet(path, row_group_size=100_000)


def _stream(path: Path) -> None:
    """Normalise a file in batches, in a process of its own, and print what it took."""
    import polars as pl

    from lightning_privacy.preparation import Preparation
    from lightning_privacy.preparation.normalise import NormaliseCodes, NormaliseText
    from lightning_privacy.preparation.normalise_dates import NormaliseDates

    codes = NormaliseCodes("gender", {"female": ["f", "w"], "male": ["m"]}, unknown="null")
    steps = Preparation([NormaliseText(["name"], case="lower"), codes, NormaliseDates(["born"])])
    start, rows = time.perf_counter(), 0
    before = steps.report().peak_memory
    for batch in steps.stream(pl.scan_parquet(path)):
        rows += batch.height
    report = steps.report()
    seconds = time.perf_counter() - start
    print(
        json.dumps(
            {
                "rows": rows,
                "seconds": round(seconds, 1),
                "rows_per_second": round(rows / seconds),
                "peak_memory_mib": round(report.peak_memory / 2**20),
                "peak_memory_before_mib": round(before / 2**20),
                "file_mib": round(path.stat().st_size / 2**20),
                "cells_changed": {step.name: step.changed for step in report.steps},
            }
        )
    )


def _streamed(rows: int, threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        _write_rows(path, rows)
        command = [sys.executable, __file__, "--stream", str(path), "--threads", str(threads)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    machine = hardware(
        threads=arguments.threads, packages=_PACKAGES + tuple(name for name in _RIVALS if find_spec(name))
    )
    return {
        "benchmark": "deduplication",
        "quick": arguments.quick,
        "measure": "precision and recall over pairs of records of one person; the threshold is the probability from "
        "which groups are joined",
        "hardware": machine,
        "tables": {name: _measure(name, arguments) for name in arguments.tables},
        "normalised_in_batches": [_streamed(rows, arguments.threads) for rows in arguments.rows],
    }


def _format(result: dict[str, Any]) -> str:
    lines = [f"{'':32}{'seconds':>8}{'threshold':>11}{'precision':>11}{'recall':>8}{'F1':>7}"]
    for name, table in result["tables"].items():
        for contender, cell in table["contenders"].items():
            for point in cell["curve"]:
                if point["threshold"] in (0.5, _DEFAULT, 0.95):
                    lines.append(
                        f"{name:20}{contender:12}{cell['seconds']:8.1f}{point['threshold']:11}"
                        f"{point['precision']:11.4f}{point['recall']:8.4f}{point['f1']:7.3f}"
                    )
    for cell in result["normalised_in_batches"]:
        lines.append(
            f"{cell['rows']:,} rows normalised in {cell['seconds']} s, {cell['rows_per_second']:,} a second, at most "
            f"{cell['peak_memory_mib']:,} MiB resident ({cell['peak_memory_before_mib']:,} before the first)"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    given = _parse(sys.argv[1:])
    if given.stream is None:
        sys.exit(run_benchmark(given, _run, _format))
    _stream(given.stream)
