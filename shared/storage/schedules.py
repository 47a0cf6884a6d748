"""Table Schedules: recurring announcements. Each row stores the next occurrence, so that it is computed only once."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

from shared import keys
from shared.contract.models import Announcement
from shared.states import ScheduleState
from shared.storage.entity_writes import Row
from shared.storage.table import Table, etag_of
from shared.storage.unreadable import UnreadableRow, check_version, read_text

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class StoredSchedule:
    """One row. `data` is canonical JSON (`models.Announcement`).

    While the schedule is active, `occurrence` is the name of the next occurrence (`recurrence.Occurrence.name`), which
    is due at `next_due`.
    """

    tenant: str
    name: str
    data: bytes
    state: ScheduleState
    next_due: datetime
    occurrence: str
    etag: str = ""

    @property
    def announcement(self) -> Announcement:
        return _announcement(self.data)


class Schedules:
    def __init__(self, table: Table) -> None:
        self._table = table

    async def get(self, tenant: str, name: str) -> StoredSchedule | None:
        """Return the schedule of this name, or None; raises `UnreadableRow`."""
        found = await self._table.get(keys.key(tenant), keys.key(name))
        return _schedule(*found) if found else None

    async def list_first(self, limit: int) -> list[StoredSchedule]:
        """Return up to `limit` schedules that can be read, ordered by tenant and name."""
        rows = await self._table.query("PartitionKey ge @first", {"first": "0"}, limit=limit)
        found = []
        for row in rows:
            with suppress(UnreadableRow):
                found.append(_schedule(row, etag_of(row)))
        return found

    async def insert(self, schedule: StoredSchedule) -> StoredSchedule:
        """Store a new schedule and return it with its ETag; raise `Conflict` if the name exists."""
        columns = {"v": VERSION, "tenant": schedule.tenant, "name": schedule.name, "data": schedule.data}
        timing = {"state": str(schedule.state), "next_due": schedule.next_due, "occurrence": schedule.occurrence}
        return replace(schedule, etag=await self._table.insert(_key_columns(schedule) | columns | timing))

    async def change(self, schedule: StoredSchedule, **changes: object) -> StoredSchedule:
        """Change columns and return the schedule; raise `Conflict` if the row changed since it was read."""
        columns = {name: str(value) if name == "state" else value for name, value in changes.items()}
        etag = await self._table.merge(_key_columns(schedule) | columns, schedule.etag)
        return replace(schedule, **changes, etag=etag)  # type: ignore[arg-type]


@lru_cache(maxsize=32)
def _announcement(data: bytes) -> Announcement:
    return Announcement.model_validate_json(data)


def _key_columns(schedule: StoredSchedule) -> dict[str, object]:
    return {"PartitionKey": keys.key(schedule.tenant), "RowKey": keys.key(schedule.name)}


def _schedule(row: Row, etag: str) -> StoredSchedule:
    check_version(row, VERSION)
    data, next_due = row.get("data"), row.get("next_due")
    if not isinstance(data, bytes) or not isinstance(next_due, datetime):
        raise UnreadableRow("has no announcement in the column data, or no time in next_due", row)
    try:
        state = ScheduleState(read_text(row, "state"))
    except ValueError:
        raise UnreadableRow(f"has the state {row['state'][:40]!r}, which no schedule has", row) from None
    texts = {name: read_text(row, name) for name in ("tenant", "name", "occurrence")}
    return StoredSchedule(state=state, data=data, next_due=next_due, etag=etag, **texts)
