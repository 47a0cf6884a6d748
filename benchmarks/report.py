"""What a benchmark returns: a table for people, and its figures for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

Run = Mapping[str, float]


@dataclass(frozen=True)
class Options:
    """How much is measured: `runs` of each kind, less of everything with `quick`."""

    runs: int
    quick: bool


@dataclass
class Report:
    """`figures` go into the JSON; `text` is shown."""

    figures: dict[str, Any] = field(default_factory=dict)
    text: list[str] = field(default_factory=list)

    def say(self, line: str = "") -> None:
        self.text.append(line)

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Add a table in Markdown, its columns aligned."""
        cells = [[_shown(cell) for cell in row] for row in (heads, *rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
        lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
        self.text += ["", lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:], ""]


def medians(runs: Sequence[Run]) -> dict[str, float]:
    """The median of each figure over the runs."""
    return {name: median(run[name] for run in runs) for name in runs[0]}


def ratio(runs: Sequence[Run], others: Sequence[Run], name: str) -> float:
    """The median of the ratios of a figure of runs that were made in turns: the first to the first, and so on."""
    return median(run[name] / other[name] for run, other in zip(runs, others, strict=True))


def _shown(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
