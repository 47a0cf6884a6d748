"""Create the long-lived clients of a process when they are first needed, inside the running loop."""

from __future__ import annotations

import asyncio
import gc
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import aiohttp

from shared import queue_messages, queues, settings
from shared.contract.models import Notification
from shared.preferences.categories import Categories, load_categories
from shared.storage.clients import open_storage
from shared.storage.conversations import Conversations
from shared.storage.dead_letters import DeadLetters
from shared.storage.deliveries import Deliveries
from shared.storage.held_deliveries import HeldDeliveries
from shared.storage.markers import Markers
from shared.storage.notification_index import NotificationIndex
from shared.storage.notifications import Notifications
from shared.storage.rate_lanes import RateLanes, TenantLaneKind
from shared.storage.responses import Responses
from shared.storage.schedules import Schedules
from shared.storage.table import Table
from shared.storage.threads import Threads
from shared.storage.timers import Timers
from shared.storage.topics import Topics
from shared.teams.connector import Connector
from shared.teams.graph import Graph
from shared.teams.hosts import allowed_service_url
from shared.teams.rate_limiter import RateLimiter
from shared.teams.tokens import Tokens
from shared.time.clock import parse_clock, real_time

if TYPE_CHECKING:
    from azure.data.tables.aio import TableServiceClient

    from shared.storage.clients import QueueService

#: The tables, without their prefix.
TABLES = (
    "Conversations", "Notifications", "NotificationIndex", "Deliveries", "HeldDeliveries", "Timers", "RateLanes",
    "Markers", "Topics", "Threads", "Responses", "Schedules", "DeadLetters",
)  # fmt: skip
#: Open connections to Teams and other HTTP services.
MAX_CONNECTIONS = 100


@dataclass(frozen=True, kw_only=True)
class Services:
    """The clients and settings of a process.

    `clock` returns the UTC time of schedules, digests, preferences and expiry, which a developer can move with
    `HERALD_CLOCK`; `real_time` returns the real UTC time (`shared.time.clock`).
    """

    settings: settings.Settings
    queues: queues.Queues
    conversations: Conversations
    notifications: Notifications
    notification_index: NotificationIndex
    deliveries: Deliveries
    timers: Timers
    dead_letters: DeadLetters
    markers: Markers
    responses: Responses
    topics: Topics
    threads: Threads
    held_deliveries: HeldDeliveries
    schedules: Schedules
    http: aiohttp.ClientSession
    rate_limiter: RateLimiter
    connector: Connector
    graph: Graph
    categories: Categories
    clock: Callable[[], datetime]
    real_time: Callable[[], datetime]
    close: Callable[[], Awaitable[None]]


async def open_services(
    configured: settings.Settings,
    storage: tuple[QueueService, TableServiceClient],
    clock: Callable[[], datetime] = real_time,
    real_time: Callable[[], datetime] | None = None,
) -> Services:
    """Create the clients, and the tables and queues that are missing; without `real_time`, `clock` is used for both."""
    queue_service, table_service = storage
    real_time = real_time or clock

    def table(name: str) -> Table:
        return Table(table_service.get_table_client(configured.table_prefix + name))

    tables = {name: table(name) for name in TABLES}
    all_queues = queues.Queues(queue_service)
    names = (*queue_messages.WORK_QUEUES, queue_messages.RESPONSES)
    ssl_context, *_ = await asyncio.gather(
        # aiohttp creates its default context when it is imported, maybe before SSL_CERT_FILE is set.
        asyncio.to_thread(ssl.create_default_context),
        # Otherwise, the first notification that is read would build its model on the event loop.
        asyncio.to_thread(Notification.model_rebuild),
        asyncio.gather(*(each.create() for each in tables.values())),
        asyncio.gather(*(all_queues.create(name) for name in names)),
    )
    http = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, ssl=ssl_context), cookie_jar=aiohttp.DummyCookieJar()
    )

    def allowed(url: str) -> bool:
        return allowed_service_url(url, hosts=configured.service_hosts, loopback_only=not configured.app_id)

    rates = {
        TenantLaneKind.CONNECTOR: configured.tenant_rate,
        TenantLaneKind.GRAPH_INSTALL: configured.graph_install_rate,
        TenantLaneKind.GRAPH_CHECK: configured.graph_check_rate,
    }
    conversations = Conversations(tables["Conversations"])
    limiters = {
        kind: RateLimiter(RateLanes(tables["RateLanes"], kind, conversations), rate, real_time)
        for kind, rate in rates.items()
    }
    rate_limiter = limiters[TenantLaneKind.CONNECTOR]

    async def close() -> None:
        await asyncio.gather(http.close(), queue_service.close(), table_service.close())

    return Services(
        settings=configured,
        queues=all_queues,
        conversations=conversations,
        notifications=Notifications(tables["Notifications"], time.monotonic),
        notification_index=NotificationIndex(tables["NotificationIndex"]),
        deliveries=Deliveries(tables["Deliveries"]),
        timers=Timers(tables["Timers"]),
        dead_letters=DeadLetters(tables["DeadLetters"]),
        markers=Markers(tables["Markers"]),
        responses=Responses(tables["Responses"]),
        topics=Topics(tables["Topics"]),
        threads=Threads(tables["Threads"]),
        held_deliveries=HeldDeliveries(tables["HeldDeliveries"]),
        schedules=Schedules(tables["Schedules"]),
        http=http,
        rate_limiter=rate_limiter,
        connector=Connector(http, Tokens(configured, time.monotonic), allowed, real_time, rate_limiter),
        graph=Graph(http, configured, real_time, time.monotonic, limiters),
        categories=load_categories(configured.categories_file),
        clock=clock,
        real_time=real_time,
        close=close,
    )


_opening: asyncio.Task[Services] | None = None


async def get_services() -> Services:
    """Return the services of this process; after a failure to open them, the next call tries again."""
    global _opening
    if _opening is None or (_opening.done() and (_opening.cancelled() or _opening.exception())):
        _opening = asyncio.create_task(_open_configured())
    return await asyncio.shield(_opening)


async def _open_configured() -> Services:
    configured = settings.load_settings()
    storage = await asyncio.to_thread(open_storage)  # an identity for the storage is slow to import
    services = await open_services(configured, storage, parse_clock(configured.clock), real_time)
    gc.freeze()  # modules stay until the end; to look for garbage among them stops the process for 0.1 s
    return services
