"""Where timers keep their schedule status: one table row a function, moved only by If-Match.

A row also carries the lease of a run, so that of several hosts on one storage account one runs each occurrence.
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

from local.host.config import ONCE

#: The table of all hosts that share the storage account.
TABLE = "AzureFunctionsLocalTimers"

#: "Never", as .NET writes it.
NEVER = datetime(1, 1, 1, tzinfo=UTC)


class Taken(Exception):
    """Another host has moved the row since it was read."""


@dataclass(frozen=True)
class TimerRecord:
    """The status of one timer: its last and next occurrence, and until when `owner` runs it; times in UTC."""

    last: datetime
    next: datetime
    updated: datetime
    owner: str = ""
    until: datetime = NEVER
    etag: str = ""


class TimerStore:
    """The rows of the app `host_id`."""

    def __init__(self, table: TableClient, host_id: str) -> None:
        self._table = table
        self._host_id = host_id

    async def read(self, name: str) -> TimerRecord | None:
        """The record of the function `name`; raises `AzureError` where the storage does not answer."""
        try:
            row = await self._table.get_entity(self._host_id, name, **ONCE)
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
        """Stores `record` where the row still is the one of its etag (none: where there is no row).

        Returns the new etag; raises `Taken`, and `AzureError` where the storage does not answer.
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
                answer = await self._insert(row)
            else:
                answer = await self._table.update_entity(
                    row,
                    mode=UpdateMode.REPLACE,
                    etag=record.etag,
                    match_condition=MatchConditions.IfNotModified,
                    **ONCE,
                )
        except (ResourceExistsError, ResourceModifiedError, ResourceNotFoundError):
            raise Taken from None
        return str(answer["etag"])

    async def _insert(self, row: dict[str, Any]) -> Mapping[str, Any]:
        try:
            return await self._table.create_entity(row, **ONCE)
        except ResourceNotFoundError:  # the storage was emptied since the start
            await self._table.create_table(**ONCE)
            return await self._table.create_entity(row, **ONCE)


def host_id(environ: Mapping[str, str]) -> str:
    """What tells this app's timers from another's: `AzureFunctionsWebHost__hostid`, else of machine and folder."""
    given = environ.get("AzureFunctionsWebHost__hostid")
    return given or hashlib.sha256(f"{socket.gethostname()}\n{os.getcwd()}".encode()).hexdigest()[:32]
