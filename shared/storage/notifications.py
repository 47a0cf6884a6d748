"""Table Notifications: accepted notifications, their content, and how far their audience is expanded."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

from shared import keys
from shared.contract import models, parsing
from shared.states import NotificationState, Purpose
from shared.storage.entity_writes import Row
from shared.storage.table import Table

VERSION = 1
#: How old, in seconds, a notification's state may be when a delivery relies on it.
MAX_AGE = 2.0
#: Notifications kept in memory, with their content (64 KiB at most each).
CACHED = 256


@dataclass(frozen=True, kw_only=True)
class StoredNotification:
    """One row. `key` is the hash of tenant, source and id; `data` is canonical JSON (models.Notification).

    `page` and `cursor` are the next page of recipients to list and where it begins. `shards` is in how many partitions
    its deliveries lie (`deliveries.shard_names`). `total` is how many recipients it has, None until all are listed.
    `due` is when a scheduled one is to be sent, `rescheduled` when that was changed last, and `time` when what it tells
    happened. `revision` counts how often its content was edited. `counts` is how its deliveries ended, as JSON, ""
    while any is open. `purpose` says what it is for.
    """

    key: str
    tenant: str
    source: str
    id: str
    content_hash: str
    data: bytes
    state: NotificationState
    created: datetime
    shards: int
    page: int = 0
    cursor: str = ""
    total: int | None = None
    revision: int = 0
    recalled: bool = False
    counts: str = ""
    due: datetime | None = None
    rescheduled: datetime | None = None
    expires: datetime | None = None
    time: datetime | None = None
    purpose: Purpose = Purpose.NOTIFICATION
    etag: str = ""

    @cached_property
    def content(self) -> models.Notification:
        return parsing.parse_stored(self.data)

    @property
    def told(self) -> datetime:
        """When its schedule was told: what had passed by then is past. An occurrence is told when it is due."""
        at = self.rescheduled or self.created
        return min(at, self.due) if self.due else at

    @property
    def notification_time(self) -> datetime:
        """When it was to be sent: once it was accepted, or when it was due."""
        return max(self.created, self.due) if self.due else self.created

    @property
    def happened(self) -> datetime:
        """When what it tells happened: by its own word, or else when it was to be sent."""
        return self.time or self.notification_time

    @property
    def urgent(self) -> bool:
        return self.content.priority == "urgent"

    @property
    def thread(self) -> str:
        """The key of its thread, "" for none."""
        return self.content.thread.key if self.content.thread else ""

    def is_current(self, now: datetime) -> bool:
        """Whether there is something to tell of it at `now`: it is neither called off nor has it expired."""
        return self.state is not NotificationState.CANCELLED and not (self.expires and self.expires <= now)


def notification_key(tenant: str, source: str, identifier: str) -> str:
    """The key under which a notification is stored: 64 hex digits."""
    return keys.digest(tenant, source, identifier)


class Notifications:
    def __init__(self, table: Table, monotonic: Callable[[], float]) -> None:
        self._table = table
        self._monotonic = monotonic
        self._cache: OrderedDict[str, tuple[float, asyncio.Future[StoredNotification | None]]] = OrderedDict()

    async def insert(self, notification: StoredNotification) -> StoredNotification:
        """Store a new one and return it with its ETag; raises `Conflict` where there is one of this key."""
        row = _where(notification.key) | {
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
        row |= {name: at for name in ("due", "expires", "time", "total") if (at := getattr(notification, name))}
        begun = self._monotonic()
        return self._written(replace(notification, etag=await self._table.insert(row)), begun)

    async def get(self, key: str) -> StoredNotification | None:
        """The notification as it is now, or None."""
        found = await self._table.get(key[:2], key)
        return _notification(*found) if found else None

    async def recent(self, key: str) -> StoredNotification | None:
        """The notification as it was at most `MAX_AGE` ago, or None; however many wait, it is read once."""
        read_at, reading = self._cache.get(key, (0.0, None))
        if reading is None or self._monotonic() - read_at > MAX_AGE or (reading.done() and reading.exception()):
            reading = asyncio.ensure_future(self.get(key))
            self._remember(key, reading, self._monotonic())
        return await asyncio.shield(reading)

    def _remember(self, key: str, reading: asyncio.Future[StoredNotification | None], begun: float) -> None:
        self._cache[key] = (begun, reading)
        self._cache.move_to_end(key)
        if len(self._cache) > CACHED:
            self._cache.popitem(last=False)

    async def advance(self, notification: StoredNotification, **changes: object) -> StoredNotification:
        """Change columns where nobody changed the row since it was read, and return it; else raises `Conflict`."""
        plain = {name: str(value) if name == "state" else value for name, value in changes.items()}
        begun = self._monotonic()
        etag = await self._table.merge(_where(notification.key) | plain, notification.etag)
        return self._written(replace(notification, **changes, etag=etag), begun)  # type: ignore[arg-type]

    def _written(self, notification: StoredNotification, begun: float) -> StoredNotification:
        newer = self._cache.get(notification.key, (begun, None))[0] > begun
        # What waits for its time has no delivery yet; and its time may be changed until the moment when it has.
        if newer or notification.state is NotificationState.SCHEDULED:
            return notification
        reading: asyncio.Future[StoredNotification | None] = asyncio.get_running_loop().create_future()
        reading.set_result(notification)
        self._remember(notification.key, reading, begun)
        return notification


def _where(key: str) -> dict[str, object]:
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
        due=row.get("due"),
        rescheduled=row.get("rescheduled"),
        expires=row.get("expires"),
        time=row.get("time"),
        purpose=Purpose(row.get("purpose", Purpose.NOTIFICATION)),
        etag=etag,
        **{name: row[name] for name in columns},
    )
