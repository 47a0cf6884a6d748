"""The stored status of timers: one table row for each function, updated only with If-Match.

A row also holds the lease of a run, so that only one of several hosts on a storage account runs an occurrence.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from azure.core import MatchConditions
from azure.core.exceptions import ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from azure.data.tables import UpdateMode
from azure.data.tables.aio import TableClient

from local.host.config import SINGLE_ATTEMPT

#: The table that all hosts on a storage account share.
TABLE = "AzureFunctionsLocalTimers"

#: "Never" in the form that .NET uses.
NEVER = datetime(1, 1, 1, tzinfo=UTC)


class RecordChanged(Exception):
    """Another host has changed the row since it was read."""


@dataclass(frozen=True)
class TimerRecord:
    """The status of one timer: its last and next occurrence, and the time until which `owner` runs it (UTC)."""

    last: datetime
    next: datetime
    updated: datetime
    owner: str = ""
    until: datetime = NEVER
    etag: str = ""


class TimerStore:
    """The timer rows of the app `host_id`."""

    def __init__(self, table: TableClient, host_id: str) -> None:
        self._table = table
        self._host_id = host_id

    async def read(self, name: str) -> TimerRecord | None:
        """Return the record of the function `name`, or None; raises `AzureError` if the storage does not answer."""
        try:
            row = await self._table.get_entity(self._host_id, name, **SINGLE_ATTEMPT)
        except ResourceNotFoundError:
            return None
        return TimerRecord(
            last=datetime.fromisoformat(row["Last"]),
            next=datetime.fromisoformat(row["Next"]),
            updated=datetime.fromisoformat(row["LastUpdated"]),
            owner=row["Owner"],
            until=datetime.fromisoformat(row["Until"]),
            etag=str(row.metadata["etag"]),
        )

    async def write(self, name: str, record: TimerRecord) -> str:
        """Store `record` if the row still has its etag (without an etag: if there is no row) and return the new etag.

        Raises `RecordChanged`, and `AzureError` if the storage does not answer.
        """
        row: dict[str, Any] = {
            "PartitionKey": self._host_id,
            "RowKey": name,
            "Last": record.last.isoformat(),
            "Next": record.next.isoformat(),
            "LastUpdated": record.updated.isoformat(),
            "Owner": record.owner,
            "Until": record.until.isoformat(),
        }
        try:
            if not record.etag:
                response = await self._insert(row)
            else:
                response = await self._table.update_entity(
                    row,
                    mode=UpdateMode.REPLACE,
                    etag=record.etag,
                    match_condition=MatchConditions.IfNotModified,
                    **SINGLE_ATTEMPT,
                )
        except (ResourceExistsError, ResourceModifiedError, ResourceNotFoundError):
            raise RecordChanged from None
        return str(response["etag"])

    async def _insert(self, row: dict[str, Any]) -> Mapping[str, Any]:
        try:
            return await self._table.create_entity(row, **SINGLE_ATTEMPT)
        except ResourceNotFoundError:  # the storage was emptied since the start
            await self._table.create_table(**SINGLE_ATTEMPT)
            return await self._table.create_entity(row, **SINGLE_ATTEMPT)


def build_host_id(environ: Mapping[str, str]) -> str:
    """Return the id of this app's timers: `AzureFunctionsWebHost__hostid`, else a digest of machine and folder."""
    given = environ.get("AzureFunctionsWebHost__hostid")
    return given or hashlib.sha256(f"{socket.gethostname()}\n{os.getcwd()}".encode()).hexdigest()[:32]
