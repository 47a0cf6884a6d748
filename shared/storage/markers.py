"""Table Markers: facts that may be recorded only once, such as which notifications share a cancellation key."""

from __future__ import annotations

from collections.abc import Sequence

from shared import keys
from shared.storage.table import Conflict, Table

VERSION = 1
#: Most marks of one kind that are read.
MAX_MARKERS = 100_000


class Markers:
    def __init__(self, table: Table) -> None:
        self._table = table

    async def put(self, what: str, which: str) -> None:
        """Mark `which` as `what`; the same again changes nothing."""
        await self._table.put({"PartitionKey": keys.key(what), "RowKey": keys.key(which), "v": VERSION})

    async def claim(self, what: str, which: str, owner: str) -> bool:
        """Mark `which` as `what` for `owner`, unless another has done so; whether it is `owner`'s now."""
        partition, row = keys.key(what), keys.key(which)
        try:
            await self._table.insert({"PartitionKey": partition, "RowKey": row, "v": VERSION, "owner": owner})
        except Conflict:
            found = await self._table.get(partition, row)
            return found is not None and found[0].get("owner") == owner
        return True

    async def delete(self, what: str, which: str, owner: str = "") -> None:
        """Take the mark away, where there is one that is `owner`'s, "" for one that was made for nobody."""
        partition, row = keys.key(what), keys.key(which)
        found = await self._table.get(partition, row)
        if found is None or found[0].get("owner", "") != owner:
            return
        try:
            await self._table.delete(partition, row, found[1])
        except Conflict:  # somebody else's by now
            return

    async def has(self, what: str, which: str) -> bool:
        """Whether `which` is marked as `what`."""
        return await self._table.get(keys.key(what), keys.key(which)) is not None

    async def of(self, what: str) -> Sequence[str]:
        """All that is marked as `what`."""
        rows = await self._table.query("PartitionKey eq @what", {"what": keys.key(what)}, limit=MAX_MARKERS)
        return [keys.unkey(row["RowKey"]) for row in rows]


def clicks(tenant: str, person: str) -> str:
    """The mark of the clicks of a person that changed what they want."""
    return f"clicks;{tenant};{person}"


def welcomed(tenant: str) -> str:
    """The mark of the people of a tenant who were welcomed."""
    return f"welcomed;{tenant}"


def cancellation(tenant: str, cancellation_key: str) -> str:
    """The mark of the notifications of a tenant that share this cancellation key."""
    return f"cancellation;{keys.digest(tenant, cancellation_key)}"


def snoozes(notification: str) -> str:
    """The mark of the notifications by which people see the one of this key again."""
    return f"snoozes;{notification}"
