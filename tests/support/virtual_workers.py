"""Workers of the app on storage in memory and in virtual time, whose requests a Teams in the same loop answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from shared.queues import Queues
from shared.services import Services, open_services
from shared.settings import load_settings
from shared.states import ReferenceKind, ReferenceStatus
from shared.storage.table import Table
from tests.support.memory import MemoryTable
from tests.support.odd_teams import OddTeams, chat_of
from tests.support.triggers import ObservedQueues, QueueHost, use_services
from tests.support.virtual_time import virtual_now

SERVICE_URL = "https://smba.trafficmanager.net/emea/"


async def store_person(services: Services, tenant: str, person: str, **observed: str) -> None:
    """Store the reference of a person with a chat, as the install event does."""
    known = {"service_url": SERVICE_URL, "conversation_id": chat_of(person), "conversation_type": "personal"}
    await services.conversations.save(
        tenant, ReferenceKind.USER, person, known | observed, at=virtual_now(), status=ReferenceStatus.ACTIVE
    )


async def open_workers(
    host: QueueHost,
    teams: OddTeams,
    patch: pytest.MonkeyPatch,
    count: int,
    tenants: Sequence[str],
    rate: int,
    *,
    table: type[Table] = MemoryTable,
    queues: type[Queues] = ObservedQueues,
) -> list[Services]:
    """Return workers that share the host's queues and the storage; `rate` is in requests a second to each tenant."""
    environ = {
        "MicrosoftAppId": "00000000-0000-4000-8000-00000000000f",
        "MicrosoftAppPassword": "secret",
        "HERALD_ALLOWED_TENANTS": ",".join(tenants),
        "HERALD_TENANT_RATE": str(rate),
    }
    patch.setattr("shared.services.Table", table)
    patch.setattr("shared.queues.Queues", queues)
    tokens: Iterator[int] = iter(range(10**6))
    patch.setattr(
        "shared.teams.tokens.request_token", lambda *_: {"access_token": f"t{next(tokens)}", "expires_in": 3600}
    )
    storage: Any = (host.account, host.account)
    workers = [await open_services(load_settings(environ), storage, virtual_now) for _ in range(count)]
    for worker in workers:
        assert isinstance(worker.queues, ObservedQueues)
        worker.queues.observe = host.observe
        connector: Any = worker.connector
        connector._session = teams
    use_services(patch, *workers)
    patch.setattr("shared.triggers.open_storage", lambda: storage)
    patch.setattr("shared.triggers.Queues", lambda _: workers[0].queues)
    return workers
