"""Table Schedules: recurring announcements, each with its next occurrence, which is computed once and stored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

from shared import keys
from shared.contract.models import Announcement
from shared.states import ScheduleState
from shared.storage.entity_writes import Row
from shared.storage.table import Table

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class StoredSchedule:
    """One row. `data` is canonical JSON (contract.Announcement).

    While it is active, its occurrence `occurrence` (`recurrence.Occurrence.name`) is the next, and due at `next`.
    """

    tenant: str
    name: str
    data: bytes
    state: ScheduleState
    next: datetime
    occurrence: str
    etag: str = ""

    @property
    def announcement(self) -> Announcement:
        return _announcement(self.data)


class Schedules:
    def __init__(self, table: Table) -> None:
        self._table = table

    async def get(self, tenant: str, name: str) -> StoredSchedule | None:
        found = await self._table.get(keys.key(tenant), keys.key(name))
        return _schedule(*found) if found else None

    async def insert(self, schedule: StoredSchedule) -> StoredSchedule:
        """Store a new one and return it with its ETag; raises `Conflict` where there is one of this name."""
        columns = {"v": VERSION, "tenant": schedule.tenant, "name": schedule.name, "data": schedule.data}
        timing = {"state": str(schedule.state), "next": schedule.next, "occurrence": schedule.occurrence}
        return replace(schedule, etag=await self._table.insert(_where(schedule) | columns | timing))

    async def change(self, schedule: StoredSchedule, **changes: object) -> StoredSchedule:
        """Change columns where nobody changed the row since it was read, and return it; else raises `Conflict`."""
        plain = {name: str(value) if name == "state" else value for name, value in changes.items()}
        etag = await self._table.merge(_where(schedule) | plain, schedule.etag)
        return replace(schedule, **changes, etag=etag)  # type: ignore[arg-type]


@lru_cache(maxsize=32)
def _announcement(data: bytes) -> Announcement:
    return Announcement.model_validate_json(data)


def _where(schedule: StoredSchedule) -> dict[str, object]:
    return {"PartitionKey": keys.key(schedule.tenant), "RowKey": keys.key(schedule.name)}


def _schedule(row: Row, etag: str) -> StoredSchedule:
    columns = ("tenant", "name", "data", "next", "occurrence")
    return StoredSchedule(state=ScheduleState(row["state"]), etag=etag, **{name: row[name] for name in columns})
