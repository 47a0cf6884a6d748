"""Table Responses: which actions of a notification's card a person has used. Each action counts once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from weakref import WeakValueDictionary

from shared import keys
from shared.storage.entity_writes import Row
from shared.storage.table import Conflict, Table, etag_of

VERSION = 1
#: Actions of one person on one card that are read.
MAX_ACTIONS = 100


@dataclass(frozen=True, slots=True)
class Response:
    """One row. `reported` means that the message for the upstream system was put on the queue `responses`."""

    action: str
    at: datetime
    reported: bool
    etag: str = ""


class Responses:
    def __init__(self, table: Table) -> None:
        self._table = table
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    def lock(self, notification: str, person: str) -> asyncio.Lock:
        """Return the lock for a person's responses to a notification, within this process."""
        return self._locks.setdefault((notification, person), asyncio.Lock())

    async def record(self, notification: str, person: str, action: str, conversation: str, at: datetime) -> Response:
        """Record an action of a person (Entra object id) unless it was recorded before; return the recorded one."""
        partition, row = _key(notification, person, action)
        columns = {"person": person, "action": action, "conversation": conversation, "at": at, "reported": False}
        new = {"PartitionKey": partition, "RowKey": row, "v": VERSION, **columns}
        try:
            return Response(action, at, reported=False, etag=await self._table.insert(new))
        except Conflict:
            found = await self._table.get(partition, row)
            if found is None:
                raise
            return _response(*found)

    async def mark_reported(self, notification: str, person: str, response: Response) -> None:
        """Record that the response was reported to the upstream system."""
        partition, row = _key(notification, person, response.action)
        try:
            await self._table.merge({"PartitionKey": partition, "RowKey": row, "reported": True}, response.etag)
        except Conflict:  # another worker has recorded it
            return

    async def list(self, notification: str, person: str) -> Sequence[Response]:
        """Return a person's responses to a notification."""
        first = f"{keys.key(person)};"
        rows = await self._table.query(
            "PartitionKey eq @partition and RowKey gt @first and RowKey lt @last",
            {"partition": notification, "first": first, "last": first + "~"},
            limit=MAX_ACTIONS,
        )
        return [_response(row, etag_of(row)) for row in rows]


def _key(notification: str, person: str, action: str) -> tuple[str, str]:
    return notification, f"{keys.key(person)};{keys.hash_of(action)[:32]}"


def _response(row: Row, etag: str) -> Response:
    return Response(row["action"], row["at"], row["reported"], etag)
