"""Table Responses: which actions of a notification's card a person has used, each once."""

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
#: Most actions of one person on one card that are read.
MAX_ACTIONS = 100


@dataclass(frozen=True, slots=True)
class Response:
    """One row: `told` says that upstream was told of it."""

    action: str
    at: datetime
    told: bool
    etag: str = ""


class Responses:
    def __init__(self, table: Table) -> None:
        self._table = table
        self._writing: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    def lock(self, notification: str, person: str) -> asyncio.Lock:
        """What whoever records something of this person holds meanwhile, so that in this process none does at once."""
        return self._writing.setdefault((notification, person), asyncio.Lock())

    async def record(self, notification: str, person: str, action: str, conversation: str, at: datetime) -> Response:
        """Write down that a person (Entra object id) did this, unless they have before; returns what counts."""
        partition, row = _where(notification, person, action)
        where = {"PartitionKey": partition, "RowKey": row}
        new = {"person": person, "action": action, "conversation": conversation, "at": at, "told": False, "v": VERSION}
        try:
            return Response(action, at, told=False, etag=await self._table.insert(where | new))
        except Conflict:
            found = await self._table.get(partition, row)
            if found is None:
                raise
            return _response(*found)

    async def told(self, notification: str, person: str, response: Response) -> None:
        """Write down that upstream was told, unless another has."""
        partition, row = _where(notification, person, response.action)
        try:
            await self._table.merge({"PartitionKey": partition, "RowKey": row, "told": True}, response.etag)
        except Conflict:
            return

    async def of(self, notification: str, person: str) -> Sequence[Response]:
        """What a person did with a notification."""
        first = f"{keys.key(person)};"
        rows = await self._table.query(
            "PartitionKey eq @partition and RowKey gt @first and RowKey lt @last",
            {"partition": notification, "first": first, "last": first + "~"},
            limit=MAX_ACTIONS,
        )
        return [_response(row, etag_of(row)) for row in rows]


def _where(notification: str, person: str, action: str) -> tuple[str, str]:
    return notification, f"{keys.key(person)};{keys.digest(action)[:32]}"


def _response(row: Row, etag: str) -> Response:
    return Response(row["action"], row["at"], row["told"], etag)
