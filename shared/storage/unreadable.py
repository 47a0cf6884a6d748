"""Rows that cannot be read: malformed ones, and those of a newer version of the app."""

from __future__ import annotations

import json

from shared.storage.entity_writes import Row
from shared.storage.table import COLUMN_BYTES

#: The tables of which dead letters store rows, with the table as their queue.
TIMERS = "Timers"
SCHEDULES = "Schedules"


class UnreadableRow(Exception):
    """A row is malformed, or (`is_newer`) of a newer version: only a newer instance may touch it then.

    The text is one line that says what is wrong.
    """

    def __init__(self, fault: str, row: Row, *, is_newer: bool = False) -> None:
        super().__init__(fault)
        self.fault, self.row, self.is_newer = fault, row, is_newer

    @property
    def body(self) -> bytes:
        """Return the row as JSON, for a dead letter; shortened to the size of a column."""
        return json.dumps(dict(self.row), default=str).encode()[:COLUMN_BYTES]


def check_version(row: Row, version: int) -> None:
    """Raise `UnreadableRow` if the column `v` is not a version up to `version`; a row without it is of version 1."""
    found = row.get("v", 1)
    if not isinstance(found, int) or isinstance(found, bool):
        raise UnreadableRow(f"has {str(found)[:40]!r} as its version: a number is expected", row)
    if found > version:
        raise UnreadableRow(
            f"is of version {found}, and this instance reads up to version {version}: it stays for a newer instance",
            row,
            is_newer=True,
        )


def read_text(row: Row, column: str) -> str:
    """Return a column with text; raises `UnreadableRow` if it is missing, empty or of another type."""
    text = row.get(column)
    if not isinstance(text, str) or not text:
        raise UnreadableRow(f"has no text in the column {column}", row)
    return text
