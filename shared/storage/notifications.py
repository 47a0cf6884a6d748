"""Table Notifications: accepted notifications, their content, and the progress of their expansion."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence

from shared.records import StoredNotification
from shared.states import NotificationState, Purpose
from shared.storage.entity_writes import Row
from shared.storage.table import Table, etag_of

VERSION = 1
#: Longest age of a cached notification that a delivery may use.
MAX_CACHE_SECONDS = 2.0
#: Notifications that are cached, with up to 64 KiB of content each.
MAX_CACHED = 256
#: Notifications of one id that are read.
MAX_FOUND = 20

_OPTIONAL_COLUMNS = ("due", "expires", "time", "total", "reference")


class Notifications:
    def __init__(self, table: Table, monotonic: Callable[[], float]) -> None:
        self._table = table
        self._monotonic = monotonic
        self._cache: OrderedDict[str, tuple[float, asyncio.Future[StoredNotification | None]]] = OrderedDict()

    async def insert(self, notification: StoredNotification) -> StoredNotification:
        """Store a new notification and return it with its ETag; raise `Conflict` if the key exists."""
        row = _key_columns(notification.key) | {
            "v": VERSION,
            "tenant": notification.tenant,
            "source": notification.source,
            "id": notification.id,
            "content_hash": notification.content_hash,
            "data": notification.data,
            "state": str(notification.state),
            "created": notification.created,
            "shards": notification.shards,
            "page": notification.page,
            "cursor": notification.cursor,
            "purpose": str(notification.purpose),
        }
        row |= {name: at for name in _OPTIONAL_COLUMNS if (at := getattr(notification, name))}
        started = self._monotonic()
        return self._cache_written(notification.changed(etag=await self._table.insert(row)), started)

    async def get(self, key: str) -> StoredNotification | None:
        """Return the current notification, or None."""
        found = await self._table.get(key[:2], key)
        return _notification(*found) if found else None

    async def find(self, identifier: str) -> Sequence[StoredNotification]:
        """Return the notifications of this id, of all tenants and sources; reads the whole table."""
        rows = await self._table.query("id eq @id", {"id": identifier}, limit=MAX_FOUND)
        return [_notification(row, etag_of(row)) for row in rows]

    async def recent(self, key: str) -> StoredNotification | None:
        """Return the notification as it was at most `MAX_CACHE_SECONDS` ago, or None.

        Callers at the same time share one read.
        """
        started, reading = self._cache.get(key, (0.0, None))
        is_old = self._monotonic() - started > MAX_CACHE_SECONDS
        if reading is None or is_old or (reading.done() and reading.exception()):
            reading = asyncio.ensure_future(self.get(key))
            self._remember(key, reading, self._monotonic())
        return await asyncio.shield(reading)

    def _remember(self, key: str, reading: asyncio.Future[StoredNotification | None], started: float) -> None:
        self._cache[key] = (started, reading)
        self._cache.move_to_end(key)
        if len(self._cache) > MAX_CACHED:
            self._cache.popitem(last=False)

    async def advance(self, notification: StoredNotification, **changes: object) -> StoredNotification:
        """Change columns and return the notification; raise `Conflict` if the row changed since it was read."""
        columns = {name: str(value) if name == "state" else value for name, value in changes.items()}
        started = self._monotonic()
        etag = await self._table.merge(_key_columns(notification.key) | columns, notification.etag)
        return self._cache_written(notification.changed(**changes, etag=etag), started)

    def _cache_written(self, notification: StoredNotification, started: float) -> StoredNotification:
        """Cache a notification whose write began at `started`, and return it."""
        newer = self._cache.get(notification.key, (started, None))[0] > started
        # A scheduled notification is not cached: it has no deliveries yet, and its due time may still change.
        if newer or notification.state is NotificationState.SCHEDULED:
            return notification
        reading: asyncio.Future[StoredNotification | None] = asyncio.get_running_loop().create_future()
        reading.set_result(notification)
        self._remember(notification.key, reading, started)
        return notification


def _key_columns(key: str) -> dict[str, object]:
    return {"PartitionKey": key[:2], "RowKey": key}


def _notification(row: Row, etag: str) -> StoredNotification:
    columns = ("tenant", "source", "id", "content_hash", "data", "created", "shards", "page", "cursor")
    return StoredNotification(
        key=row["RowKey"],
        state=NotificationState(row["state"]),
        total=row.get("total"),
        revision=row.get("revision", 0),
        recalled=row.get("recalled", False),
        counts=row.get("counts", ""),
        refused_changes=row.get("refused_changes", 0),
        due=row.get("due"),
        rescheduled=row.get("rescheduled"),
        expires=row.get("expires"),
        time=row.get("time"),
        page_retry=row.get("page_retry"),
        left_out=row.get("left_out", ""),
        purpose=Purpose(row.get("purpose", Purpose.NOTIFICATION)),
        etag=etag,
        **{name: row[name] for name in columns},
    )
