"""Measure this checkout and another one alternately, to see what a change costs or saves even on a noisy machine."""

# ruff: noqa: S603, T201

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

import orjson

from benchmarks.report import Report
from local.bootstrap import BENCH_ALONE

ROOT = Path(__file__).resolve().parents[1]

#: The figures of one run by path, such as "whole / one each / cpu_ms".
Figures = Mapping[str, float]


def compare_checkouts(names: Sequence[str], other: Path, runs: int, *, quick: bool) -> Report:
    """Run these benchmarks in both checkouts `runs` times; the checkout that starts alternates from pair to pair.

    Raises `subprocess.CalledProcessError` if a benchmark fails; its output is on standard error.
    """
    pairs: list[dict[Path, Figures]] = []
    for number in range(runs):
        checkouts = (ROOT, other) if number % 2 == 0 else (other, ROOT)
        pairs.append({checkout: _run_benchmarks(checkout, names, quick=quick) for checkout in checkouts})
        print(f"{number + 1} of {runs} pairs", file=sys.stderr, flush=True)
    return report_pairs([(pair[ROOT], pair[other]) for pair in pairs])


def report_pairs(pairs: Sequence[tuple[Figures, Figures]]) -> Report:
    """Report the figures that all runs have: the median of each checkout, and the median of the pairs' ratios."""
    report = Report({"pairs": pairs})
    common = [path for path in pairs[0][0] if all(path in run for pair in pairs for run in pair)]
    rows: list[Sequence[object]] = []
    for path in common:
        ours, theirs = [pair[0][path] for pair in pairs], [pair[1][path] for pair in pairs]
        ratios = sorted(own / other for own, other in zip(ours, theirs, strict=True) if other)
        if ratios:
            rows.append([path, median(ours), median(theirs), median(ratios), f"{ratios[0]:.2f} to {ratios[-1]:.2f}"])
    report.add_table(("figure", "this checkout", "the other", "median ratio", "ratios"), rows)
    return report


def flatten_figures(value: object, path: Sequence[str] = ()) -> Iterator[tuple[str, float]]:
    """Yield each number of a JSON report with its path; for a list of runs, the median of each number."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from flatten_figures(part, [*path, str(name)])
    elif isinstance(value, list):
        runs = [dict(flatten_figures(run, path)) for run in value]
        for name in runs[0] if runs else ():
            yield name, median(run[name] for run in runs if name in run)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield " / ".join(part for part in path if part != "runs"), float(value)


def _run_benchmarks(checkout: Path, names: Sequence[str], *, quick: bool) -> Figures:
    """Run each benchmark once, by the checkout's own `dev.py` and environment, and return the figures."""
    with tempfile.TemporaryDirectory() as folder:
        report_file = Path(folder, "figures.json")
        command = [sys.executable, str(checkout / "dev.py"), "bench", *names, "--runs", "1", "--json", str(report_file)]
        subprocess.run(
            [*command, *(["--quick"] if quick else [])],
            cwd=checkout,
            env={name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"} | {BENCH_ALONE: "1"},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        figures = orjson.loads(report_file.read_bytes())
    return dict(flatten_figures({name: figures[name] for name in names}))
