"""This checkout and another one, measured in turns: what a change costs or saves, also on a noisy machine."""

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

ROOT = Path(__file__).resolve().parents[1]

#: The figures of one run, each by its path: "whole / one each / cpu_ms".
Figures = Mapping[str, float]


def compare(names: Sequence[str], other: Path, runs: int, *, quick: bool) -> Report:
    """Run these benchmarks in both checkouts, one after the other, `runs` times; who begins changes from pair to pair.

    Raises `subprocess.CalledProcessError` where one of them fails; what it said is on our standard error.
    """
    pairs: list[dict[Path, Figures]] = []
    for turn in range(runs):
        both = (ROOT, other) if turn % 2 == 0 else (other, ROOT)
        pairs.append({checkout: _measure(checkout, names, quick=quick) for checkout in both})
        print(f"{turn + 1} of {runs} pairs", file=sys.stderr, flush=True)
    return compared([(pair[ROOT], pair[other]) for pair in pairs])


def compared(pairs: Sequence[tuple[Figures, Figures]]) -> Report:
    """The figures that all runs have, ours and theirs, and the median of the ratios of each pair."""
    report = Report({"pairs": pairs})
    shared = [path for path in pairs[0][0] if all(path in run for pair in pairs for run in pair)]
    rows: list[Sequence[object]] = []
    for path in shared:
        ours, theirs = [pair[0][path] for pair in pairs], [pair[1][path] for pair in pairs]
        ratios = sorted(one / another for one, another in zip(ours, theirs, strict=True) if another)
        if ratios:
            rows.append([path, median(ours), median(theirs), median(ratios), f"{ratios[0]:.2f} to {ratios[-1]:.2f}"])
    report.table(("figure", "this", "the other", "median of the ratios", "ratios"), rows)
    return report


def figures(told: object, path: Sequence[str] = ()) -> Iterator[tuple[str, float]]:
    """Each number in what a benchmark wrote, by its path; of a list of runs the median."""
    if isinstance(told, Mapping):
        for name, part in told.items():
            yield from figures(part, [*path, str(name)])
    elif isinstance(told, list):
        runs = [dict(figures(each, path)) for each in told]
        for name in runs[0] if runs else ():
            yield name, median(run[name] for run in runs if name in run)
    elif isinstance(told, (int, float)) and not isinstance(told, bool):
        yield " / ".join(part for part in path if part != "runs"), float(told)


def _measure(checkout: Path, names: Sequence[str], *, quick: bool) -> Figures:
    """What one run of each benchmark says in a checkout, by its own `dev.py` and environment."""
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "figures.json")
        command = [sys.executable, str(checkout / "dev.py"), "bench", *names, "--runs", "1", "--json", str(written)]
        subprocess.run(
            [*command, *(["--quick"] if quick else [])],
            cwd=checkout,
            env={name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        told = orjson.loads(written.read_bytes())
    return dict(figures({name: told[name] for name in names}))
