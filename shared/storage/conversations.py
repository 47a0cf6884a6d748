"""Table Conversations: where and how a person, a chat, a channel or a team is reached.

A *user* row is keyed by Entra object id. A *conversation* row is keyed by the conversation id of a group chat
or channel, or is the alias that leads from a personal chat to its person. A *team* row is keyed by the team's
thread id, with an alias from its Entra group id; its status counts for all of its channels. The *tenant* row
keeps the serviceUrl seen last in that tenant, by which people without a stored conversation are reached.

The row of a person, chat or channel also keeps what they want to be told, so that a delivery reads one row. It may hold
that alone, of somebody who is not reached yet.
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
from shared.records import ConversationReference, merge_observed
from shared.states import ReferenceKind, ReferenceStatus
from shared.storage.entity_writes import Row
from shared.storage.table import Conflict, Table

#: How often a write is tried again when other processes change the same row at the same moment.
MAX_CONFLICTS = 30
#: How long one waits before it is tried again, at most: so many times as long as the try took.
JITTER_FACTOR = 3
SHARDS = "0123456789abcdef"
VERSION = 1
_PREFERENCES = "preferences"


_COLUMNS = tuple(f.name for f in fields(ConversationReference) if f.name not in ("tenant", "kind", "id", "preferences"))


class Conversations:
    def __init__(self, table: Table) -> None:
        self._table = table
        #: Who changes a row in this process waits for the one before, instead of losing to it again and again.
        self._writing: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def get(self, tenant: str, kind: ReferenceKind, identifier: str) -> ConversationReference | None:
        """The reference, or None; one point read."""
        found = await self._table.get(_partition(tenant, kind, identifier), keys.key(identifier))
        return _reference(tenant, kind, identifier, found[0]) if found else None

    async def of(self, tenant: str, recipient: str) -> ConversationReference:
        """The row of a recipient, `u:` and an Entra object id or `c:` and a conversation id; a blank one for none."""
        kind = ReferenceKind.USER if recipient.startswith("u:") else ReferenceKind.CONVERSATION
        identifier = channel_of(recipient[2:]) if kind is ReferenceKind.CONVERSATION else recipient[2:]
        found = await self.get(tenant, kind, identifier)
        return found or ConversationReference(tenant=tenant, kind=kind, id=identifier)

    async def save(
        self,
        tenant: str,
        kind: ReferenceKind,
        identifier: str,
        seen: Mapping[str, str],
        *,
        at: datetime,
        status: ReferenceStatus | None = None,
        create: bool = True,
        before: Callable[[ConversationReference | None, Mapping[str, str]], Awaitable[None]] | None = None,
    ) -> None:
        """Write what an event showed, only where that changes the row.

        `seen` maps fields of `ConversationReference` to values; empty ones are ignored. Without `create` no row is
        added. `before` is called with the row and the columns that are about to change, for work that must not be lost
        if the worker dies after the write. Raises `Conflict` if others changed the row each time.
        """
        blank = ConversationReference(tenant=tenant, kind=kind, id=identifier)

        def refresh(old: ConversationReference | None) -> Mapping[str, str]:
            if old is None and not create:
                return {}
            stored = _row(old) if old else {}
            new = merge_observed(old or blank, seen, status, at)
            return {name: value for name, value in _row(new).items() if stored.get(name) != value}

        await self._change(tenant, kind, identifier, refresh, before)

    async def prefer(
        self, tenant: str, kind: ReferenceKind, identifier: str, change: Callable[[Preferences], Preferences]
    ) -> Preferences:
        """Change what somebody wants; returns it as it is then.

        `change` may be called again with newer preferences, where others changed them meanwhile; what it raises is
        raised here, and nothing written. Raises `Conflict` if others changed the row each time.
        """
        wanted = Preferences()

        def prefers(old: ConversationReference | None) -> Mapping[str, str]:
            nonlocal wanted
            before = old.preferences if old else Preferences()
            wanted = change(before)
            if wanted == before:
                return {}
            wanted = replace(wanted, version=before.version + 1)
            return {_PREFERENCES: wanted.encode()}

        await self._change(tenant, kind, identifier, prefers)
        return wanted

    async def _change(
        self,
        tenant: str,
        kind: ReferenceKind,
        identifier: str,
        change: Callable[[ConversationReference | None], Mapping[str, str]],
        beforehand: Callable[[ConversationReference | None, Mapping[str, str]], Awaitable[None]] | None = None,
    ) -> None:
        """Write the columns that `change` makes of the row as it is, where there are any."""
        partition, row_key = _partition(tenant, kind, identifier), keys.key(identifier)
        where = {"PartitionKey": partition, "RowKey": row_key}
        async with self._writing.setdefault((partition, row_key), asyncio.Lock()):
            for _ in range(MAX_CONFLICTS):
                begun = time.monotonic()
                found = await self._table.get(partition, row_key)
                before = _reference(tenant, kind, identifier, found[0]) if found else None
                changed = change(before)
                if not changed:
                    return
                if beforehand:
                    await beforehand(before, changed)
                try:
                    if found:
                        await self._table.merge({**where, **changed}, found[1])
                    else:
                        await self._table.insert({**where, **changed, "v": VERSION, "id": identifier})
                    return
                except Conflict:
                    # Two processes that write one row again and again can keep in step: chance takes them out of it.
                    took = time.monotonic() - begun
                    await asyncio.sleep(random.uniform(0, JITTER_FACTOR) * took)  # noqa: S311 (jitter)
        raise Conflict

    async def people(self, tenant: str, after: str, limit: int) -> tuple[list[str], str]:
        """Object ids of people whom a stored conversation reaches, and the place to go on after; "" at the end.

        `after` is "" at the start, then what the call before returned. May return fewer than `limit`, or none,
        before the end: one call reads within one shard.
        """
        shard, last = json.loads(after) if after else (SHARDS[0], "")
        rows = await self._table.query(
            "PartitionKey eq @partition and RowKey gt @last and status eq 'active' and conversation_id ne ''",
            {"partition": f"{tenant};{ReferenceKind.USER};{shard}", "last": last},
            limit=limit,
            select=["id"],
        )
        ids = [str(row["id"]) for row in rows]
        if len(ids) == limit:
            return ids, json.dumps([shard, keys.key(ids[-1])])
        following = SHARDS[SHARDS.index(shard) + 1 :]
        return ids, json.dumps([following[0], ""]) if following else ""


def _partition(tenant: str, kind: ReferenceKind, identifier: str) -> str:
    return f"{tenant};{kind};{keys.shard(identifier)}"


def _row(reference: ConversationReference) -> dict[str, str]:
    return {name: str(value) for name in _COLUMNS if (value := getattr(reference, name))}


def _reference(tenant: str, kind: ReferenceKind, identifier: str, row: Row) -> ConversationReference:
    known = {name: row[name] for name in _COLUMNS if name in row}
    if "status" in known:
        known["status"] = ReferenceStatus(known["status"])
    decoded = preferences.decode_preferences(row.get(_PREFERENCES, ""))
    return ConversationReference(tenant=tenant, kind=kind, id=identifier, preferences=decoded, **known)
