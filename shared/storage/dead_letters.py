"""Table DeadLetters: what was refused or given up, with the reason and the original."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import orjson

from shared import keys
from shared.contract.faults import Fault
from shared.storage.entity_writes import Row
from shared.storage.table import COLUMN_BYTES, Table

VERSION = 1
#: Faults that are kept of one message, at most, and fewer where they fill a column.
MAX_FAULTS = 50


class DeadLetters:
    def __init__(self, table: Table) -> None:
        self._table = table

    async def put(
        self, queue: str, message_id: str, body: bytes, reason: str, faults: Sequence[Fault], at: datetime
    ) -> str:
        """Keep the message, and return the row's key; the same message again replaces its row of that day."""
        row = keys.key(f"{queue};{message_id}")
        await self._table.put(
            {
                "PartitionKey": f"{at.astimezone(UTC):%Y-%m-%d}",
                "RowKey": row,
                "v": VERSION,
                "queue": queue,
                "reason": reason,
                "faults": _told(faults),
                "body": body[:COLUMN_BYTES],
                "rest": body[COLUMN_BYTES:] or None,
                "at": at,
            }
        )
        return row

    async def of(self, queue: str, key: str | None, reason: str | None, limit: int) -> Sequence[Row]:
        """The first `limit` dead letters of a queue: the one of this row key, or those of this reason."""
        where, values = ("RowKey eq @key", {"key": key}) if key else ("reason eq @reason", {"reason": reason})
        return await self._table.query(f"queue eq @queue and {where}", values | {"queue": queue}, limit=limit)

    @staticmethod
    def body(letter: Row) -> bytes:
        """The message as it was on its queue: of up to 64 KiB, which takes two columns."""
        return bytes(letter["body"]) + bytes(letter.get("rest") or b"")

    async def delete(self, letter: Row) -> None:
        """Forget one that was put back."""
        await self._table.delete(letter["PartitionKey"], letter["RowKey"])


def _told(faults: Sequence[Fault]) -> str:
    """The first faults as JSON: as many as are kept."""
    count = MAX_FAULTS
    while True:
        text = orjson.dumps([_short(fault) for fault in faults[:count]]).decode()
        if len(text.encode("utf-16-le")) <= COLUMN_BYTES:
            return text
        count //= 2


def _short(fault: Fault) -> Fault:
    return Fault(fault.pointer[:300], fault.message[:300])
