"""Table Threads: the message that shows a thread to a recipient, and the newest event that it shows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from shared import keys
from shared.storage.table import Table

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredThread:
    """What a recipient sees of a thread: an activity in a conversation, "" where nothing was sent yet.

    `newest` is the time of the newest event, and `notification` the key of what told it.
    """

    newest: datetime
    notification: str
    activity_id: str = ""
    conversation_id: str = ""
    etag: str = ""


class Threads:
    def __init__(self, table: Table) -> None:
        self._table = table

    async def get(self, tenant: str, recipient: str, thread: str) -> StoredThread | None:
        """What the recipient sees of the thread, or None."""
        found = await self._table.get(_partition(tenant, recipient), keys.digest(thread))
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

    async def save(self, tenant: str, recipient: str, thread: str, shown: StoredThread) -> str:
        """Write it where the row still has its ETag ("" for none); returns the new one, or raises `Conflict`."""
        row = {
            "PartitionKey": _partition(tenant, recipient),
            "RowKey": keys.digest(thread),
            "v": VERSION,
            "newest": shown.newest,
            "notification": shown.notification,
            "activity_id": shown.activity_id,
            "conversation_id": shown.conversation_id,
        }
        return await (self._table.merge(row, shown.etag) if shown.etag else self._table.insert(row))


def _partition(tenant: str, recipient: str) -> str:
    return keys.key(f"{tenant};{recipient}")
