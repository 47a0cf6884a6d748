"""Ingest a message of an upstream system: validate it, store it once under its identity, and expand or schedule it.

A notification to a few people is sent here (`notify.direct`). If a worker dies after it stored the row, the queue
delivers the message again, and the next worker does what is left.
"""

from __future__ import annotations

import logging
from datetime import datetime

from notify.command_dispatch import run_command
from notify.direct import as_expanded, is_direct, list_few, resume_directly, send_directly
from notify.expansion import expand
from notify.scheduling import check_expiry, compute_due
from notify.validation import check_content_off_loop
from shared.contract.faults import Fault, MessageRefused
from shared.contract.identity import read_identity, with_id
from shared.contract.models import Command
from shared.contract.parsing import Request, data_pointer, parse_message_off_loop
from shared.publishing import accept, shard_count
from shared.queue_messages import NEWER_VERSION_WAITS, NOTIFICATIONS, Expansion
from shared.queues import to_text
from shared.records import StoredNotification, notification_key
from shared.services import Services
from shared.settings import Settings
from shared.states import NotificationState
from shared.storage import timers
from shared.storage.markers import used_categories
from shared.storage.unreadable import UnreadableRow

log = logging.getLogger(__name__)

_REUSED = Fault("/id", "was used by this source for another notification; each notification needs an id of its own")


async def ingest(services: Services, body: bytes, message_id: str, dequeue_count: int = 1) -> None:
    """Ingest one message of the queue `notifications`. A refused message becomes a dead letter.

    `dequeue_count` is how often the queue has delivered the message. A message without an id is identified by
    `message_id`, which it loses on its way through the poison queue. So when an earlier try failed, it is replaced by
    a copy that has this id.
    """
    if dequeue_count > 1 and (identified := with_id(body, message_id)) != body:
        await services.queues.put(NOTIFICATIONS, to_text(identified))
        return
    now = services.clock()
    try:
        request = await parse_message_off_loop(body)
        pointer = data_pointer(request)
        if isinstance(request, Command):
            tenant = allowed_tenant(request.tenant, services.settings, pointer)
            await run_command(services, request, tenant, pointer, with_id(body, message_id, commands=True))
            return
        tenant = allowed_tenant(request.notification.tenant, services.settings, pointer)
        await check_content_off_loop(request.notification, services.settings.max_activity_bytes, pointer)
        identifier = request.id or message_id
        await _store(services, request, tenant, identifier, now, is_redelivered=dequeue_count > 1)
    except UnreadableRow as unreadable:  # of a newer version: a newer instance must run the command
        log.warning("Message %s is put back: a row that it needs %s", message_id, unreadable.fault)
        await services.queues.put(NOTIFICATIONS, to_text(body), NEWER_VERSION_WAITS.failed())
    except MessageRefused as refused:
        identity = read_identity(body)
        row = await services.dead_letters.put(
            NOTIFICATIONS, message_id, body, refused.reason, refused.faults, services.clock(), identity
        )
        log.warning(
            "Message %s was refused (%s; %s): its %d faults are in DeadLetters row %s",
            message_id,
            refused.reason,
            identity,
            len(refused.faults),
            row,
        )


async def _store(
    services: Services, request: Request, tenant: str, identifier: str, now: datetime, *, is_redelivered: bool
) -> None:
    due_time = compute_due(request.notification.schedule, services.settings.default_time_zone, now)
    check_expiry(due_time, request.expires_at, f"{data_pointer(request)}/schedule/at")
    state = NotificationState.SCHEDULED if due_time.due else NotificationState.ACCEPTED
    new = StoredNotification(
        key=notification_key(tenant, request.source, identifier),
        tenant=tenant,
        source=request.source,
        id=identifier,
        content_hash=request.content_hash,
        data=request.data,
        state=NotificationState.SKIPPED if due_time.skip else state,
        created=now,
        shards=shard_count(request.notification.recipients),
        due=due_time.due,
        expires=request.expires_at,
        time=request.time,
    )
    few = await list_few(services, new) if is_direct(new) else None
    stored, is_new = await accept(services, as_expanded(new, few) if few else new)
    if stored.content_hash != new.content_hash:
        raise MessageRefused("reused", [_REUSED])
    await services.markers.put_once(used_categories(tenant), request.notification.category)
    if stored.state is NotificationState.SCHEDULED and stored.due:
        await services.timers.put(stored.due, timers.NOTIFICATION, stored.key)
    elif few and is_new:
        await send_directly(services, stored, few)
    elif is_direct(new) and stored.page and not stored.shards:  # it was stored as expanded
        await resume_directly(services, stored, few, is_redelivered=is_redelivered)
    else:
        # Also if the first page is listed: that worker may have died before it enqueued the next page.
        await expand(services, Expansion(stored.key, 0))


def allowed_tenant(named: str | None, settings: Settings, pointer: str) -> str:
    """Return the tenant that a message names, in lower case, or the only one that is allowed if it names none.

    Raises `MessageRefused`; `pointer` is the JSON pointer to the message's data.
    """
    if named is None:
        if len(settings.tenants) == 1:
            return next(iter(settings.tenants))
        raise MessageRefused("invalid", [Fault(f"{pointer}/tenant", "is required, as several tenants are allowed")])
    if not settings.allows_tenant(named):
        raise MessageRefused("invalid", [Fault(f"{pointer}/tenant", "is not one of HERALD_ALLOWED_TENANTS")])
    return named.lower()
