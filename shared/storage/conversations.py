"""Table Conversations: the conversation references of people, chats, channels and teams.

A *user* row is keyed by Entra object id. A *conversation* row is keyed by the conversation id of a group chat or
channel, or is an alias from a personal chat to its person. A *team* row is keyed by the team's thread id, with an alias
from its Entra group id; its status applies to all of its channels. The *tenant* row has the last serviceUrl of that
tenant, by which people without a stored conversation are reached.

The row of a person, chat or channel also has their preferences and their rate lane, so that a delivery reads one row.
It may have only these, if the person cannot be reached yet.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import fields, replace
from datetime import datetime
from weakref import WeakValueDictionary

from shared import keys
from shared.conversation_ids import channel_of
from shared.preferences import preferences
from shared.preferences.preferences import Preferences
from shared.records import ConversationReference, StoredLane, merge_observed
from shared.states import ReferenceKind, ReferenceStatus
from shared.storage.entity_writes import Row
from shared.storage.table import Conflict, Table

#: Attempts to write a row while other processes change it.
MAX_CONFLICTS = 30
#: Longest delay before the next attempt, as a multiple of the duration of the last one.
JITTER_FACTOR = 3
SHARDS = "0123456789abcdef"
VERSION = 1
_PREFERENCES = "preferences"


_NOT_TEXT = ("tenant", "kind", "id", "preferences", "lane")
_COLUMNS = tuple(f.name for f in fields(ConversationReference) if f.name not in _NOT_TEXT)


class Conversations:
    def __init__(self, table: Table) -> None:
        self._table = table
        #: Changes of a row wait for each other within this process, instead of causing conflicts.
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def get(self, tenant: str, kind: ReferenceKind, identifier: str) -> ConversationReference | None:
        """Return the reference, or None; one point read."""
        found = await self._table.get(_partition(tenant, kind, identifier), keys.key(identifier))
        return _reference(tenant, kind, identifier, *found) if found else None

    async def get_recipient(self, tenant: str, recipient: str) -> ConversationReference:
        """Return the reference of a recipient, a blank one if there is no row.

        `recipient` is `u:` and an Entra object id, or `c:` and a conversation id.
        """
        kind, identifier = _name(recipient)
        found = await self.get(tenant, kind, identifier)
        return found or ConversationReference(tenant=tenant, kind=kind, id=identifier)

    async def put_alias(self, tenant: str, chat: str, person: str) -> None:
        """Store that a personal chat is that of a person. To be called before the chat is in the person's row."""
        await self._table.put(
            {
                "PartitionKey": _partition(tenant, ReferenceKind.CONVERSATION, chat),
                "RowKey": keys.key(chat),
                "v": VERSION,
                "id": chat,
                "user": person,
                "conversation_type": "personal",
                "status": str(ReferenceStatus.ACTIVE),
            }
        )

    async def save_lane(self, tenant: str, recipient: str, lane: StoredLane) -> str:
        """Save the rate lane of a recipient if the row still has the lane's ETag; return the new one.

        Raises `Conflict` if the row has changed, in whatever column.
        """
        kind, identifier = _name(recipient)
        row = {"PartitionKey": _partition(tenant, kind, identifier), "RowKey": keys.key(identifier)}
        row |= {"requests": lane.requests, "turns": lane.turns}
        if lane.etag:
            return await self._table.merge(row, lane.etag)
        return await self._table.insert({**row, "v": VERSION, "id": identifier})

    async def save(
        self,
        tenant: str,
        kind: ReferenceKind,
        identifier: str,
        observed: Mapping[str, str],
        *,
        at: datetime,
        status: ReferenceStatus | None = None,
        create: bool = True,
        before_write: Callable[[ConversationReference | None, Mapping[str, str]], Awaitable[None]] | None = None,
    ) -> ConversationReference | None:
        """Merge what was observed in an event into the row, and write the row only if that changes it.

        Returns the reference as it is stored then, None if there is no row. `observed` maps fields of
        `ConversationReference` to values; empty ones are ignored. Without `create` no row is added. `before_write` is
        called with the row and the columns that will change, for work that must not be lost if the worker dies after
        the write. Raises `Conflict` if other workers changed the row at each attempt.
        """
        blank, result = ConversationReference(tenant=tenant, kind=kind, id=identifier), None

        def changed_columns(old: ConversationReference | None) -> Mapping[str, str]:
            nonlocal result
            result = None
            if old is None and not create:
                return {}
            stored = _columns(old) if old else {}
            result = merge_observed(old or blank, observed, status, at)
            return {name: value for name, value in _columns(result).items() if stored.get(name) != value}

        await self._change(tenant, kind, identifier, changed_columns, before_write)
        return result

    async def change_preferences(
        self, tenant: str, kind: ReferenceKind, identifier: str, change: Callable[[Preferences], Preferences]
    ) -> Preferences:
        """Change the preferences in the row, and return the new ones.

        `change` may be called several times, each time with the current preferences. If it raises, nothing is written.
        Raises `Conflict` if other workers changed the row at each attempt.
        """
        new = Preferences()

        def changed_columns(reference: ConversationReference | None) -> Mapping[str, str]:
            nonlocal new
            old = reference.preferences if reference else Preferences()
            new = change(old)
            if new == old:
                return {}
            new = replace(new, version=old.version + 1)
            return {_PREFERENCES: new.encode()}

        await self._change(tenant, kind, identifier, changed_columns)
        return new

    async def _change(
        self,
        tenant: str,
        kind: ReferenceKind,
        identifier: str,
        changed_columns: Callable[[ConversationReference | None], Mapping[str, str]],
        before_write: Callable[[ConversationReference | None, Mapping[str, str]], Awaitable[None]] | None = None,
    ) -> None:
        """Write the columns that `changed_columns` returns for the current row, if there are any."""
        partition, row_key = _partition(tenant, kind, identifier), keys.key(identifier)
        key_columns = {"PartitionKey": partition, "RowKey": row_key}
        async with self._locks.setdefault((partition, row_key), asyncio.Lock()):
            for _ in range(MAX_CONFLICTS):
                started = time.monotonic()
                found = await self._table.get(partition, row_key)
                current = _reference(tenant, kind, identifier, *found) if found else None
                columns = changed_columns(current)
                if not columns:
                    return
                if before_write:
                    await before_write(current, columns)
                try:
                    if found:
                        await self._table.merge({**key_columns, **columns}, found[1])
                    else:
                        await self._table.insert({**key_columns, **columns, "v": VERSION, "id": identifier})
                    return
                except Conflict:
                    # Without jitter, two processes that write the same row can conflict at every attempt.
                    duration = time.monotonic() - started
                    await asyncio.sleep(random.uniform(0, JITTER_FACTOR) * duration)  # noqa: S311 (jitter)
        raise Conflict

    async def list_people(self, tenant: str, after: str, limit: int, probe_before: datetime) -> tuple[list[str], str]:
        """Return object ids of people with an active personal chat, and the cursor of the next page ("" at the end).

        Also of those who blocked the bot before `probe_before`: they may have unblocked it.
        `after` is "" at the start, then the cursor of the call before. A page may have fewer than `limit` people, or
        none, before the end: one call reads one shard.
        """
        shard, last = json.loads(after) if after else (SHARDS[0], "")
        rows = await self._table.query(
            "PartitionKey eq @partition and RowKey gt @last and conversation_id ne '' and "
            "( status eq 'active' or ( status eq 'blocked' and status_at lt @before ) )",
            {
                "partition": f"{tenant};{ReferenceKind.USER};{shard}",
                "last": last,
                "before": probe_before.isoformat(),
            },
            limit=limit,
            select=["id"],
        )
        ids = [str(row["id"]) for row in rows]
        if len(ids) == limit:
            return ids, json.dumps([shard, keys.key(ids[-1])])
        remaining = SHARDS[SHARDS.index(shard) + 1 :]
        return ids, json.dumps([remaining[0], ""]) if remaining else ""


def _partition(tenant: str, kind: ReferenceKind, identifier: str) -> str:
    return f"{tenant};{kind};{keys.shard(identifier)}"


def _name(recipient: str) -> tuple[ReferenceKind, str]:
    """Return the kind and the id of the reference of a recipient."""
    if recipient.startswith("u:"):
        return ReferenceKind.USER, recipient[2:]
    return ReferenceKind.CONVERSATION, channel_of(recipient[2:])


def _columns(reference: ConversationReference) -> dict[str, str]:
    return {name: str(value) for name in _COLUMNS if (value := getattr(reference, name))}


def _reference(tenant: str, kind: ReferenceKind, identifier: str, row: Row, etag: str) -> ConversationReference:
    values = {name: row[name] for name in _COLUMNS if name in row}
    if "status" in values:
        values["status"] = ReferenceStatus(values["status"])
    decoded = preferences.decode_preferences(row.get(_PREFERENCES, ""))
    lane = StoredLane(row.get("requests", ""), row.get("turns", ""), etag)
    return ConversationReference(tenant=tenant, kind=kind, id=identifier, preferences=decoded, lane=lane, **values)
