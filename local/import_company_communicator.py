"""Import the people and teams of Microsoft's Company Communicator into Herald's table of conversation references.

    python -m local.import_company_communicator --dry-run
    python -m local.import_company_communicator

It reads `UserData` and `TeamData` in the storage account of COMPANY_COMMUNICATOR_STORAGE (a connection string, or
COMPANY_COMMUNICATOR_STORAGE__accountName with the login of `az login`), and writes to the account of
AzureWebJobsStorage. Ids of chats belong to one bot: they are of use only if Herald's bot has the id of Company
Communicator's user bot. It may be repeated, and goes on after an interruption: what Herald knows already, it keeps.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from azure.core.exceptions import AzureError

from shared.concurrency import gather_limited
from shared.conversation_ids import OBJECT_ID
from shared.states import ReferenceKind, SettingsError
from shared.storage.clients import open_storage
from shared.storage.conversations import Conversations
from shared.storage.table import Table
from shared.teams.hosts import allowed_service_url

SOURCE = "COMPANY_COMMUNICATOR_STORAGE"
#: The tables and partitions of Company Communicator ("Data stores" in its wiki).
USERS, TEAMS = "UserData", "TeamData"
PAGE_ROWS = 500

_NAMES = {ReferenceKind.USER: "people", ReferenceKind.TEAM: "teams"}
_TEAM = re.compile(r"19:[^\s/]+@thread\.(tacv2|skype)")


@dataclass
class Report:
    """The numbers of people and teams that were `imported` or `known` before, and of rows `left_out`, by reason."""

    imported: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)

    def lines(self, *, dry_run: bool) -> Sequence[str]:
        verb = "would be imported" if dry_run else "imported"
        found = [f"{kind}: {self.imported[kind]} {verb}, {self.known[kind]} known already" for kind in _NAMES.values()]
        return [*found, *(f"{kind}: {count} left out: {why}" for (kind, why), count in sorted(self.left_out.items()))]


def read_user(row: Mapping[str, Any], tenants: frozenset[str]) -> tuple[str, str, Mapping[str, str]] | str:
    """Return tenant, object id and reference of a row of `UserData`, or why it is left out."""
    person, tenant = str(row.get("AadId") or ""), str(row.get("TenantId") or "")
    if not OBJECT_ID.fullmatch(person):
        return "no Entra object id (AadId)"
    if why := _refuse(row, tenant, tenants):
        return why
    if str(row.get("UserType") or "").lower() == "guest":
        return "a guest: Company Communicator does not write to guests"
    conversation = str(row.get("ConversationId") or "")
    if not conversation:
        return "no chat with the bot (ConversationId): the app was not installed"
    observed = {
        "conversation_id": conversation,
        "conversation_type": "personal",
        "service_url": str(row["ServiceUrl"]),
        "user_id": str(row.get("UserId") or ""),
        "name": str(row.get("Name") or ""),
    }
    return tenant.lower(), person.lower(), observed


def read_team(row: Mapping[str, Any], tenants: frozenset[str]) -> tuple[str, str, Mapping[str, str]] | str:
    """Return tenant, team id and reference of a row of `TeamData`, or why it is left out."""
    team, tenant = str(row.get("TeamId") or ""), str(row.get("TenantId") or "")
    if not _TEAM.fullmatch(team):
        return "no team id (TeamId)"
    return _refuse(row, tenant, tenants) or (
        tenant.lower(), team, {"service_url": str(row["ServiceUrl"]), "name": str(row.get("Name") or "")}
    )  # fmt: skip


def _refuse(row: Mapping[str, Any], tenant: str, tenants: frozenset[str]) -> str:
    if not OBJECT_ID.fullmatch(tenant):
        return "no tenant (TenantId)"
    if tenant.lower() not in tenants:
        return "a tenant that HERALD_ALLOWED_TENANTS does not name"
    is_allowed = allowed_service_url(str(row.get("ServiceUrl") or ""), hosts=frozenset(), loopback_only=False)
    return "" if is_allowed else "no serviceUrl of Teams (ServiceUrl)"


@dataclass
class Importer:
    """Writes references to `conversations` and counts them in `report`; with `dry_run` it only counts."""

    conversations: Conversations
    dry_run: bool
    report: Report = field(default_factory=Report)

    async def add(self, kind: ReferenceKind, found: tuple[str, str, Mapping[str, str]] | str) -> None:
        """Add a person or team, or note why the row is left out."""
        name = _NAMES[kind]
        if isinstance(found, str):
            self.report.left_out[name, found] += 1
            return
        tenant, identifier, observed = found
        known = await self.conversations.get(tenant, kind, identifier)
        if known and known.service_url and (known.conversation_id or kind is ReferenceKind.TEAM):
            self.report.known[name] += 1
            return
        if not self.dry_run:
            now = datetime.now(UTC)
            if chat := observed.get("conversation_id"):  # the alias first: a person without it is imported again
                alias = {"user": identifier, "conversation_type": "personal"}
                await self.conversations.save(tenant, ReferenceKind.CONVERSATION, chat, alias, at=now)
            await self.conversations.save(tenant, kind, identifier, observed, at=now)
        self.report.imported[name] += 1


async def import_all(environ: Mapping[str, str], tenants: frozenset[str], *, dry_run: bool) -> Report:
    """Import all rows; raises `AzureError` or `SettingsError`."""
    prefix = environ.get("HERALD_TABLE_PREFIX") or "Herald"
    source_queues, source = open_storage(environ, SOURCE)
    queues, tables = open_storage(environ)
    async with source_queues, source, queues, tables:
        table = Table(tables.get_table_client(prefix + "Conversations"))
        await table.create()
        importer = Importer(Conversations(table), dry_run)
        async for rows in _pages(source.get_table_client(USERS), USERS):
            await gather_limited(rows, lambda row: importer.add(ReferenceKind.USER, read_user(row, tenants)))
        async for rows in _pages(source.get_table_client(TEAMS), TEAMS):
            await gather_limited(rows, lambda row: importer.add(ReferenceKind.TEAM, read_team(row, tenants)))
    return importer.report


async def _pages(client: Any, partition: str) -> AsyncIterator[list[Mapping[str, Any]]]:
    found = client.query_entities(
        "PartitionKey eq @partition", parameters={"partition": partition}, results_per_page=PAGE_ROWS
    )
    async for page in found.by_page():
        yield [row async for row in page]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m local.import_company_communicator",
        description="Import people and teams of Company Communicator.",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be imported")
    options = parser.parse_args()
    tenants = frozenset(
        part.strip().lower() for part in os.environ.get("HERALD_ALLOWED_TENANTS", "").split(",") if part.strip()
    )
    if not tenants:
        print("HERALD_ALLOWED_TENANTS is missing: set it to the ids of the tenants to import", file=sys.stderr)
        return 1
    try:
        report = asyncio.run(import_all(os.environ, tenants, dry_run=options.dry_run))
    except (AzureError, SettingsError) as error:
        print(f"The import stopped, and may be repeated: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    print("\n".join(report.lines(dry_run=options.dry_run)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
