"""Table Threads: for each thread and recipient, the message that shows the thread, and the newest event in it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from shared import keys
from shared.storage.table import Table

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredThread:
    """One row. The message is the activity `activity_id` of `conversation_id`; both are "" until one was sent.

    `newest` is the time of the newest event, and `notification` the key of the notification about it.
    """

    newest: datetime
    notification: str
    activity_id: str = ""
    conversation_id: str = ""
    etag: str = ""


class Threads:
    def __init__(self, table: Table) -> None:
        self._table = table

    async def get(self, tenant: str, recipient: str, thread_key: str) -> StoredThread | None:
        found = await self._table.get(_partition(tenant, recipient), keys.hash_of(thread_key))
        if found is None:
            return None
        row, etag = found
        return StoredThread(
            newest=row["newest"],
            notification=row["notification"],
            activity_id=row.get("activity_id", ""),
            conversation_id=row.get("conversation_id", ""),
            etag=etag,
        )

    async def save(self, tenant: str, recipient: str, thread_key: str, thread: StoredThread) -> str:
        """Write the row if it still has this ETag ("" if there is no row); return the new one, or raise `Conflict`."""
        row = {
            "PartitionKey": _partition(tenant, recipient),
            "RowKey": keys.hash_of(thread_key),
            "v": VERSION,
            "newest": thread.newest,
            "notification": thread.notification,
            "activity_id": thread.activity_id,
            "conversation_id": thread.conversation_id,
        }
        return await (self._table.merge(row, thread.etag) if thread.etag else self._table.insert(row))


def _partition(tenant: str, recipient: str) -> str:
    return keys.key(f"{tenant};{recipient}")
