"""The result of a benchmark: tables for people, and figures for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

#: The figures of one run, by name.
Run = Mapping[str, float]


@dataclass(frozen=True)
class Options:
    """`runs` is the number of runs of each kind; `quick` makes each of them smaller."""

    runs: int
    quick: bool


@dataclass
class Report:
    """`figures` go into the JSON report, `lines` are printed."""

    figures: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def add_line(self, line: str = "") -> None:
        self.lines.append(line)

    def add_table(self, headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Add a Markdown table with aligned columns."""
        cells = [[_format_cell(cell) for cell in row] for row in (headings, *rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
        lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
        self.lines += ["", lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:], ""]


def medians(runs: Sequence[Run]) -> dict[str, float]:
    """Return the median of each figure over the runs."""
    return {name: median(run[name] for run in runs) for name in runs[0]}


def median_ratio(runs: Sequence[Run], others: Sequence[Run], name: str) -> float:
    """Return the median of a figure's ratios, each between two runs made one after the other."""
    return median(run[name] / other[name] for run, other in zip(runs, others, strict=True))


def _format_cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
