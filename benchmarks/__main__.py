"""Run benchmarks, print their tables and write their figures: ``python dev.py bench [names] [--json FILE]``."""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

import orjson

from benchmarks.comparison import compare_checkouts
from benchmarks.report import Options

#: Each is a module of this package with a function `run(options)`.
BENCHMARKS = (
    "send",
    "whole",
    "broadcast",
    "audience",
    "paced",
    "flood",
    "stream",
    "messages",
    "tick",
    "digests",
    "cold",
    "stalls",
)
#: The number of runs of each kind; the tables show their median.
DEFAULT_RUNS, QUICK_RUNS = 5, 2


def main() -> None:
    names = ", ".join(BENCHMARKS)
    parser = argparse.ArgumentParser(prog="dev.py bench", description="Measure Herald; see benchmarks/README.md.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"benchmarks to run, of {names} (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of each run to this file")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller runs")
    parser.add_argument("--runs", type=int, help=f"runs of each kind (default: {DEFAULT_RUNS}, --quick: {QUICK_RUNS})")
    parser.add_argument("--against", type=Path, metavar="DIR", help="compare with another checkout, run alternately")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; choose from {names}")
    if arguments.against and not (arguments.against / "dev.py").exists():
        parser.error(f"{arguments.against} is not a checkout of Herald")
    options = Options(arguments.runs or (QUICK_RUNS if arguments.quick else DEFAULT_RUNS), arguments.quick)
    figures: dict[str, object] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "runs": options.runs,
        "quick": options.quick,
    }
    print(", ".join(f"{name} {value}" for name, value in figures.items()))
    selected = arguments.names or BENCHMARKS
    if arguments.against:
        report = compare_checkouts(selected, arguments.against.resolve(), options.runs, quick=options.quick)
        print("\n".join(report.lines))
        if arguments.json:
            _write_figures(arguments.json, figures | {"against": report.figures})
        return
    for name in selected:
        started = time.monotonic()
        module = importlib.import_module(f"benchmarks.{name}")
        print(f"\n## {name}\n\n{str(module.__doc__).strip()}\n", flush=True)
        report = asyncio.run(module.run(options))
        print("\n".join(report.lines))
        print(f"({time.monotonic() - started:.0f} s)", flush=True)
        figures[name] = report.figures
        if arguments.json:  # after each benchmark, so that a later failure loses nothing
            _write_figures(arguments.json, figures)


def _write_figures(file: Path, figures: dict[str, object]) -> None:
    file.write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS))


if __name__ == "__main__":
    main()
