"""Ingest a message of an upstream system: validate it, store it once under its identity, and expand or schedule it.

A repeated message whose audience is not expanded yet finishes what the first one began: a worker that dies between the
row and its consequences loses nothing, because the queue delivers the message again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime

from notify.command_dispatch import control
from notify.expansion import expand
from notify.scheduling import check_expiry, planned
from notify.validation import check_form
from shared.contract.faults import Fault, MessageRefused
from shared.contract.models import Command
from shared.contract.parsing import Request, data_pointer, parse_message
from shared.publishing import accept, shard_count
from shared.queue_messages import NOTIFICATIONS, Expansion
from shared.services import Services
from shared.settings import Settings
from shared.states import NotificationState
from shared.storage import timers
from shared.storage.notifications import StoredNotification, notification_key

log = logging.getLogger(__name__)


async def ingest(services: Services, body: bytes, message_id: str) -> None:
    """Take in one message of the queue `notifications`; what cannot be taken becomes a dead letter."""
    now = services.clock()
    try:
        request = parse_message(body)
        data = data_pointer(request)
        if isinstance(request, Command):
            await control(services, request, allowed_tenant(request.tenant, services.settings, data), data)
            return
        tenant = allowed_tenant(request.notification.tenant, services.settings, data)
        check_form(request.notification, services.settings.max_activity_bytes, data)
        await _store(services, request, tenant, request.id or message_id, now)
    except MessageRefused as refused:
        row = await services.dead_letters.put(
            NOTIFICATIONS, message_id, body, refused.reason, refused.faults, services.clock()
        )
        log.warning("Refused a message (%s, %d faults): see DeadLetters %s", refused.reason, len(refused.faults), row)


async def _store(services: Services, request: Request, tenant: str, identifier: str, now: datetime) -> None:
    plan = planned(request.notification.schedule, services.settings.default_time_zone, now)
    check_expiry(plan, request.expires_at, f"{data_pointer(request)}/schedule/at")
    state = NotificationState.SCHEDULED if plan.due else NotificationState.ACCEPTED
    new = StoredNotification(
        key=notification_key(tenant, request.source, identifier),
        tenant=tenant,
        source=request.source,
        id=identifier,
        content_hash=request.content_hash,
        data=request.data,
        state=NotificationState.SKIPPED if plan.skip else state,
        created=now,
        shards=shard_count(request.notification.recipients),
        due=plan.due,
        expires=request.expires_at,
        time=request.time,
    )
    stored = await accept(services, new)
    if stored.content_hash != new.content_hash:
        raise MessageRefused("reused", _REUSED)
    if stored.state is NotificationState.SCHEDULED and stored.due:
        await services.timers.put(stored.due, timers.NOTIFICATION, stored.key)
    else:
        # Also where its first page is listed: who did that may have died before it announced the next.
        await expand(services, Expansion(stored.key, 0))


def allowed_tenant(named: str | None, settings: Settings, data: str) -> str:
    """Return the tenant of a message, or the only one allowed; raises `MessageRefused` with the pointer `data`."""
    if named is None:
        if len(settings.tenants) == 1:
            return next(iter(settings.tenants))
        raise MessageRefused("invalid", [Fault(f"{data}/tenant", "is required, as several tenants are allowed")])
    if not settings.allows_tenant(named):
        raise MessageRefused("invalid", [Fault(f"{data}/tenant", "is not one of HERALD_ALLOWED_TENANTS")])
    return named.lower()


_REUSED: Sequence[Fault] = (Fault("/id", "was used before by this source for another notification"),)
