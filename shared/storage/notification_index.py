"""Table NotificationIndex: the notifications of each day, the newest first, for lists and for the retention of data.

A row names a notification of an upstream system or an announcement. Herald's own messages are not listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta

from shared.records import StoredNotification
from shared.storage.table import Table

VERSION = 1
#: Days (as YYYYMMDD) and microseconds of a day are subtracted from these numbers, so that the newest comes first.
_MAX_DAY, _MAX_MICROSECONDS = 99_999_999, 86_400_000_000


class NotificationIndex:
    def __init__(self, table: Table) -> None:
        self._table = table

    async def put(self, notification: StoredNotification) -> None:
        """List a notification under the day (UTC) of its creation; to repeat it has no effect."""
        created = notification.created.astimezone(UTC)
        since_midnight = created - datetime.combine(created, time.min, UTC)
        await self._table.put(
            {
                "PartitionKey": f"{_MAX_DAY - int(f'{created:%Y%m%d}')}",
                "RowKey": f"{_MAX_MICROSECONDS - since_midnight // timedelta(microseconds=1):011};{notification.key}",
                "v": VERSION,
                "created": created,
            }
        )

    async def list_newest(self, limit: int) -> Sequence[str]:
        """Return the keys of the `limit` notifications that were created last, the newest first."""
        rows = await self._table.query("PartitionKey ge @first", {"first": "0"}, limit=limit, select=["RowKey"])
        return [row["RowKey"].rpartition(";")[2] for row in rows]
