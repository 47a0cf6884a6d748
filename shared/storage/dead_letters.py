"""Table DeadLetters: messages that were refused or given up, and rows that cannot be read, with the reason."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

import orjson

from shared import keys
from shared.contract.faults import Fault
from shared.contract.identity import UNKNOWN, Identity
from shared.storage.entity_writes import Row
from shared.storage.table import COLUMN_BYTES, MAX_PAGE_ROWS, Table
from shared.storage.unreadable import UnreadableRow

VERSION = 1
#: Faults that are stored for one message; fewer if they do not fit into a column.
MAX_FAULTS = 50
#: Longest text that is stored of a fault, in characters.
MAX_FAULT_CHARS = 300

log = logging.getLogger(__name__)


class DeadLetters:
    def __init__(self, table: Table) -> None:
        self._table = table

    async def put(
        self,
        queue: str,
        message_id: str,
        body: bytes,
        reason: str,
        faults: Sequence[Fault],
        at: datetime,
        identity: Identity = UNKNOWN,
    ) -> str:
        """Store the message and return its row key; replace the row if it was stored before on the same day (UTC).

        `message_id` is the id of the queue message, `identity` that of the notification which it is about.
        """
        row = keys.key(f"{queue};{message_id}")
        await self._table.put(
            {
                "PartitionKey": f"{at.astimezone(UTC):%Y-%m-%d}",
                "RowKey": row,
                "v": VERSION,
                "queue": queue,
                "message_id": message_id,
                "source": identity.source or None,
                "id": identity.id or None,
                "reason": reason,
                "faults": _encode_faults(faults),
                "body": body[:COLUMN_BYTES],
                "rest": body[COLUMN_BYTES:] or None,
                "at": at,
            }
        )
        return row

    async def put_row(self, table: str, unreadable: UnreadableRow, at: datetime) -> str:
        """Store a row of a table that cannot be read, with the table's name as its queue; return its row key."""
        reason = "newerVersion" if unreadable.is_newer else "unreadable"
        keys_of_row = f"{unreadable.row['PartitionKey']};{unreadable.row['RowKey']}"
        fault = Fault("", f"a row of table {table}: {unreadable.fault}")
        key = await self.put(table, keys_of_row, unreadable.body, reason, [fault], at)
        log.error("A row of table %s cannot be read (%s): see DeadLetters %s", table, reason, key)
        return key

    async def find(self, queue: str, key: str | None, reason: str | None, limit: int) -> Sequence[Row]:
        """Return up to `limit` dead letters of a queue: the one with this row key, or those with this reason."""
        where, values = ("RowKey eq @key", {"key": key}) if key else ("reason eq @reason", {"reason": reason})
        return await self._table.query(f"queue eq @queue and {where}", values | {"queue": queue}, limit=limit)

    async def list_newest(self, limit: int) -> Sequence[Row]:
        """Return the dead letters that were stored last, the newest first; reads the whole table."""
        newest: list[Row] = []
        async for page in self._table.pages("PartitionKey ge @first", {"first": "0"}, size=MAX_PAGE_ROWS):
            newest = sorted([*newest, *page], key=lambda row: row["at"], reverse=True)[:limit]
        return newest

    @staticmethod
    def body(letter: Row) -> bytes:
        """Return the original message. It has up to 64 KiB, so it may take two columns."""
        return bytes(letter["body"]) + bytes(letter.get("rest") or b"")

    async def delete(self, letter: Row) -> None:
        await self._table.delete(letter["PartitionKey"], letter["RowKey"])


def _encode_faults(faults: Sequence[Fault]) -> str:
    """Return as many of the faults as fit into a column, as JSON."""
    count = MAX_FAULTS
    while True:
        text = orjson.dumps([_shorten(fault) for fault in faults[:count]]).decode()
        if len(text.encode("utf-16-le")) <= COLUMN_BYTES:
            return text
        count //= 2


def _shorten(fault: Fault) -> Fault:
    return Fault(fault.pointer[:MAX_FAULT_CHARS], fault.message[:MAX_FAULT_CHARS])
