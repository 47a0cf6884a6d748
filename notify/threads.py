"""Notifications that share a thread: a later one updates the card of the earlier, or replies under it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from notify.policy import Target
from notify.rendering import rendered
from shared.services import Services
from shared.store.conversations import Kind
from shared.store.notifications import Notification
from shared.store.table import Conflict
from shared.store.threads import Thread
from shared.teams.connector import Route
from shared.teams.ids import channel_of
from shared.teams.outcome import Outcome, Verdict


@dataclass(frozen=True, slots=True)
class Place:
    """Where a later notification of a thread goes: into `activity`, or, where that is "", below `conversation`."""

    conversation: str
    activity: str = ""


def told_at(notification: Notification) -> datetime:
    """When what it tells happened: by its own word, or else when it was taken in."""
    return notification.time or notification.created


async def shown(services: Services, notification: Notification, recipient: str) -> Thread | None:
    """What the recipient sees of the notification's thread, if it has one and anything was sent there."""
    thread = notification.content.thread
    return await services.threads.get(notification.tenant, recipient, thread.key) if thread else None


def place(notification: Notification, target: Target, seen: Thread) -> Place | None:
    """Where to show it, given what is seen of the thread; None for a message of its own."""
    thread = notification.content.thread
    if thread is None or not seen.activity_id or thread.on_repeat == "new":
        return None
    if thread.on_repeat == "update":
        return Place(seen.conversation_id, seen.activity_id)
    if target.kind is not Kind.TEAM:  # only channels have threads
        return None
    below = seen.conversation_id
    in_thread = channel_of(below) != below
    return Place(below if in_thread else f"{below};messageid={seen.activity_id}")


async def show(services: Services, route: Route, where: Place, activity: bytes) -> Outcome:
    """Update the card of the thread, or reply under it."""
    if not where.activity:
        return await services.connector.send(route, where.conversation, activity)
    outcome = await services.connector.update(route, where.conversation, where.activity, activity)
    if outcome.verdict is Verdict.UNKNOWN:  # the same update again changes nothing
        return replace(outcome, verdict=Verdict.RETRY)
    return replace(outcome, activity_id=where.activity)


async def keep(
    services: Services,
    notification: Notification,
    recipient: str,
    seen: Thread | None,
    sent: tuple[str, str],
) -> Thread | None:
    """Remember that the activity and conversation `sent` show the thread; `seen` is what did before.

    Returns what is newer, where `sent` has covered it: that was told meanwhile.
    """
    thread = notification.content.thread
    if thread is None:
        return None
    activity, conversation = sent
    at, tenant = told_at(notification), notification.tenant
    while seen is None or seen.newest <= at:
        root = seen if thread.on_repeat == "reply" and seen and seen.activity_id else None
        now = Thread(
            newest=at,
            notification=notification.key,
            activity_id=root.activity_id if root else activity,
            conversation_id=root.conversation_id if root else conversation,
            etag=seen.etag if seen else "",
        )
        try:
            await services.threads.save(tenant, recipient, thread.key, now)
        except Conflict:
            seen = await services.threads.get(tenant, recipient, thread.key)
            continue
        return None
    return seen if activity == seen.activity_id else None


async def show_again(services: Services, route: Route, newer: Thread) -> Outcome:
    """Bring the card of a thread to what is newest in it."""
    notification = await services.notifications.get(newer.notification)
    if notification is None:
        return Outcome(Verdict.DONE)
    activity = rendered(notification.data, services.settings.max_activity_bytes)
    return await show(services, route, Place(newer.conversation_id, newer.activity_id), activity)
