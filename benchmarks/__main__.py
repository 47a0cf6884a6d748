"""Runs benchmarks, shows their tables, and writes their figures: ``python dev.py bench [names] [--json FILE]``."""

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

from benchmarks.against import compare
from benchmarks.report import Options

#: Each is a module of this package, with `run(options)`.
NAMES = ("send", "whole", "broadcast", "paced", "messages", "tick", "digests", "cold")
#: Runs of each kind, of which the median is shown.
RUNS, QUICK_RUNS = 5, 2


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py bench", description="Measures Herald; see benchmarks/README.md.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"which of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, those of each run")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller runs")
    parser.add_argument("--runs", type=int, help=f"runs of each kind (default: {RUNS}, with --quick {QUICK_RUNS})")
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout, which takes turns with this one")
    given = parser.parse_args()
    if unknown := set(given.names) - set(NAMES):
        parser.error(f"there is no {', '.join(sorted(unknown))}, only {', '.join(NAMES)}")
    if given.against and not (given.against / "dev.py").exists():
        parser.error(f"{given.against} is no checkout of Herald")
    options = Options(given.runs or (QUICK_RUNS if given.quick else RUNS), given.quick)
    figures: dict[str, object] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "runs": options.runs,
        "quick": options.quick,
    }
    print(", ".join(f"{name} {value}" for name, value in figures.items()))
    if given.against:
        report = compare(given.names or NAMES, given.against.resolve(), options.runs, quick=options.quick)
        print("\n".join(report.text))
        if given.json:
            _write(given.json, figures | {"against": report.figures})
        return
    for name in given.names or NAMES:
        begun = time.monotonic()
        module = importlib.import_module(f"benchmarks.{name}")
        print(f"\n## {name}\n\n{str(module.__doc__).strip()}\n", flush=True)
        report = asyncio.run(module.run(options))
        print("\n".join(report.text))
        print(f"({time.monotonic() - begun:.0f} s)", flush=True)
        figures[name] = report.figures
        if given.json:  # after each, so that a later one that fails costs nothing
            _write(given.json, figures)


def _write(file: Path, figures: dict[str, object]) -> None:
    file.write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS))


if __name__ == "__main__":
    main()
