"""Table Markers: facts that may be recorded only once, such as which notifications share a cancellation key."""

from __future__ import annotations

from collections.abc import Sequence

from shared import keys
from shared.remembered import Remembered
from shared.storage.table import Conflict, Table

VERSION = 1
#: Markers of one kind that are read.
MAX_MARKERS = 100_000
#: Markers that `put_once` remembers.
MAX_KNOWN = 4096


class Markers:
    """A marker has a kind (the partition), a name, and maybe an owner."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._known = Remembered(MAX_KNOWN)

    async def put_once(self, kind: str, name: str) -> None:
        """Set a marker without an owner; this process writes it only once."""
        if (kind, name) in self._known:
            return
        await self.put(kind, name)
        self._known.add((kind, name))

    async def put(self, kind: str, name: str, owner: str = "") -> None:
        """Set a marker, whoever owns it; to repeat it has no effect. "" stands for a marker without an owner."""
        row = {"PartitionKey": keys.key(kind), "RowKey": keys.key(name), "v": VERSION, "owner": owner or None}
        await self._table.put(row)

    async def claim(self, kind: str, name: str, owner: str) -> bool:
        """Set the marker for `owner` unless it exists; return whether it now belongs to `owner`."""
        partition, row = keys.key(kind), keys.key(name)
        try:
            await self._table.insert({"PartitionKey": partition, "RowKey": row, "v": VERSION, "owner": owner})
        except Conflict:
            found = await self._table.get(partition, row)
            return found is not None and found[0].get("owner") == owner
        return True

    async def delete(self, kind: str, name: str, owner: str = "") -> bool:
        """Delete the marker if it belongs to `owner` ("" stands for a marker without one); return whether it did."""
        partition, row = keys.key(kind), keys.key(name)
        found = await self._table.get(partition, row)
        if found is None or found[0].get("owner", "") != owner:
            return False
        try:
            await self._table.delete(partition, row, found[1])
        except Conflict:  # another owner has claimed it
            return False
        return True

    async def owner(self, kind: str, name: str) -> str:
        """Return the owner of the marker, or "" if it has none or does not exist."""
        found = await self._table.get(keys.key(kind), keys.key(name))
        return str(found[0].get("owner", "")) if found else ""

    async def has(self, kind: str, name: str) -> bool:
        """Return whether the marker exists."""
        return await self._table.get(keys.key(kind), keys.key(name)) is not None

    async def list(self, kind: str) -> Sequence[str]:
        """Return the names of all markers of a kind."""
        rows = await self._table.query("PartitionKey eq @kind", {"kind": keys.key(kind)}, limit=MAX_MARKERS)
        return [keys.unkey(row["RowKey"]) for row in rows]

    async def page(self, kind: str, after: str, limit: int) -> Sequence[str]:
        """Return the first `limit` names of a kind above `after` ("" for the first page), ordered by row key."""
        rows = await self._table.query(
            "PartitionKey eq @kind and RowKey gt @after",
            {"kind": keys.key(kind), "after": keys.key(after)},
            limit=limit,
        )
        return [keys.unkey(row["RowKey"]) for row in rows]


def clicks(tenant: str, person: str) -> str:
    """Return the kind of marker for a person's clicks that changed their preferences."""
    return f"clicks;{tenant};{person}"


def welcomed(tenant: str) -> str:
    """Return the kind of marker for the people of a tenant who were welcomed."""
    return f"welcomed;{tenant}"


def used_categories(tenant: str) -> str:
    """Return the kind of marker for the categories of a tenant's notifications."""
    return f"categories;{tenant}"


def cancellation(tenant: str, cancellation_key: str) -> str:
    """Return the kind of marker for a tenant's notifications with this cancellation key."""
    return f"cancellation;{keys.hash_of(tenant, cancellation_key)}"


def command_cursor(digest: str) -> str:
    """Return the kind of the marker that says how far a command has come; `digest` is the hash of its message."""
    return f"commandCursor;{digest}"


def snoozes(notification: str) -> str:
    """Return the kind of marker for the notifications that repeat a snoozed one; `notification` is its key."""
    return f"snoozes;{notification}"
