"""Notifications that share a thread key: a later one updates the card of the earlier one, or replies to it."""

from __future__ import annotations

from dataclasses import replace

from notify.policy import Target
from shared.conversation_ids import channel_of
from shared.rendering import render_notification
from shared.services import Services
from shared.states import ReferenceKind
from shared.storage.notifications import StoredNotification
from shared.storage.table import Conflict
from shared.storage.threads import StoredThread
from shared.teams.connector import Route
from shared.teams.outcome import Outcome, Verdict


async def shown(services: Services, notification: StoredNotification, recipient: str) -> StoredThread | None:
    """Return the message that shows the notification's thread to the recipient; None for no thread, or none sent."""
    thread = notification.content.thread
    return await services.threads.get(notification.tenant, recipient, thread.key) if thread else None


def is_update(notification: StoredNotification, seen: StoredThread) -> bool:
    """Whether it changes the card that shows its thread, given what is seen of that."""
    thread = notification.content.thread
    return thread is not None and thread.on_repeat == "update" and bool(seen.activity_id)


def below(notification: StoredNotification, target: Target, seen: StoredThread | None) -> str:
    """The conversation under the first message of its thread, where it replies to that; else ""."""
    thread = notification.content.thread
    if not (thread and thread.on_repeat == "reply" and seen and seen.activity_id):
        return ""
    if target.kind is not ReferenceKind.TEAM:  # only channels have threads
        return ""
    in_thread = channel_of(seen.conversation_id) != seen.conversation_id
    return seen.conversation_id if in_thread else f"{seen.conversation_id};messageid={seen.activity_id}"


async def update(
    services: Services,
    notification: StoredNotification,
    recipient: str,
    route: Route,
    seen: StoredThread,
    activity: bytes,
) -> tuple[Outcome, StoredThread | None]:
    """Show it on the card of the thread; returns also what is newer there, where it covers, or may cover, that.

    What is newest is written down before the request leaves, and read after it: of updates that are under way at
    once, whoever comes last at Teams then knows whether it was the newest.
    """
    thread = notification.content.thread
    assert thread
    at, tenant = notification.occurred_at, notification.tenant
    while seen.newest <= at:
        try:
            told = replace(seen, newest=at, notification=notification.key)
            await services.threads.save(tenant, recipient, thread.key, told)
        except Conflict:
            seen = await services.threads.get(tenant, recipient, thread.key) or replace(seen, etag="")
            continue
        outcome = await _put(services, route, seen, activity)
        return outcome, await newer(services, notification, recipient, seen.activity_id)
    return Outcome(Verdict.DONE), seen


async def newer(
    services: Services, notification: StoredNotification, recipient: str, activity: str
) -> StoredThread | None:
    """What `activity` is to show instead of the notification, as something newer of its thread was told there."""
    now = await shown(services, notification, recipient)
    return now if now and now.activity_id == activity and now.notification != notification.key else None


async def show_again(services: Services, notification: StoredNotification, recipient: str, route: Route) -> Outcome:
    """Bring the card of the notification's thread to what is newest in it."""
    shows = await shown(services, notification, recipient)
    while shows and (newest := await services.notifications.get(shows.notification)):
        outcome = await _put(services, route, shows, render_notification(services, newest))
        after = await shown(services, notification, recipient)
        if outcome.verdict is not Verdict.DONE or (after and after.notification == newest.key):
            return outcome
        shows = after
    return Outcome(Verdict.DONE)


async def _put(services: Services, route: Route, on: StoredThread, activity: bytes) -> Outcome:
    outcome = await services.connector.update(route, on.conversation_id, on.activity_id, activity)
    if outcome.verdict is Verdict.UNKNOWN:  # the same update again changes nothing
        return replace(outcome, verdict=Verdict.RETRY)
    return replace(outcome, activity_id=on.activity_id, conversation_id=on.conversation_id)


async def keep(
    services: Services,
    notification: StoredNotification,
    recipient: str,
    seen: StoredThread | None,
    sent: tuple[str, str],
) -> None:
    """Remember that the activity and conversation `sent` show the thread; `seen` is what did before."""
    thread = notification.content.thread
    if thread is None:
        return
    activity, conversation = sent
    at, tenant = notification.occurred_at, notification.tenant
    while seen is None or seen.newest <= at:
        root = seen if thread.on_repeat == "reply" and seen and seen.activity_id else None
        now = StoredThread(
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
        return
