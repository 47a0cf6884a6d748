"""Notifications that share a thread key: a later one updates the card of the earlier one, or replies to it.

A thread's row (`StoredThread`) names the message that shows the thread to a recipient, and the newest notification.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from notify.policy import Target
from shared.conversation_ids import channel_of
from shared.records import StoredNotification
from shared.rendering import render_notification
from shared.services import Services
from shared.storage.outages import outlast_faults
from shared.storage.table import Conflict
from shared.storage.threads import StoredThread
from shared.teams.connector import Route
from shared.teams.outcome import Outcome, Verdict


async def get_thread(services: Services, notification: StoredNotification, recipient: str) -> StoredThread | None:
    """Return the recipient's row for the notification's thread; None without a thread key, or if nothing was sent."""
    thread = notification.content.thread
    return await services.threads.get(notification.tenant, recipient, thread.key) if thread else None


def is_update(notification: StoredNotification, previous: StoredThread) -> bool:
    """Return whether the notification updates the card that `previous` names."""
    thread = notification.content.thread
    return thread is not None and thread.on_repeat == "update" and bool(previous.activity_id)


def reply_conversation(notification: StoredNotification, target: Target, previous: StoredThread | None) -> str:
    """Return the conversation of the replies to the thread's first message, or "" if this is not a reply."""
    thread = notification.content.thread
    if not (thread and thread.on_repeat == "reply" and previous and previous.activity_id):
        return ""
    if not target.is_channel:  # Teams has replies in channels only
        return ""
    is_reply = channel_of(previous.conversation_id) != previous.conversation_id
    return previous.conversation_id if is_reply else f"{previous.conversation_id};messageid={previous.activity_id}"


async def update_card(
    services: Services,
    notification: StoredNotification,
    recipient: str,
    route: Route,
    previous: StoredThread,
    activity: bytes,
) -> tuple[Outcome, StoredThread | None]:
    """Show the notification on the thread's card; also return the row if the card must show a newer one instead.

    The row is written before the request and read after it. Of several workers that update the card at once, the one
    whose request reaches Teams last therefore learns whether its notification is the newest.
    """
    thread = notification.content.thread
    assert thread
    at, tenant = notification.occurred_at, notification.tenant
    while previous.newest <= at:
        try:
            new = replace(previous, newest=at, notification=notification.key)
            await services.threads.save(tenant, recipient, thread.key, new)
        except Conflict:
            previous = await services.threads.get(tenant, recipient, thread.key) or replace(previous, etag="")
            continue
        outcome = await _send_update(services, route, previous, activity)
        # If the storage fails now, only this worker knows that its request may have replaced a newer notification.
        find = partial(find_newer, services, notification, recipient, previous.activity_id)
        return outcome, await outlast_faults(find)
    return Outcome(Verdict.DONE), previous


async def find_newer(
    services: Services, notification: StoredNotification, recipient: str, activity_id: str
) -> StoredThread | None:
    """Return the thread's row if the message `activity_id` must show a newer notification than this one."""
    current = await get_thread(services, notification, recipient)
    if current and current.activity_id == activity_id and current.notification != notification.key:
        return current
    return None


async def show_newest(services: Services, notification: StoredNotification, recipient: str, route: Route) -> Outcome:
    """Update the card of the notification's thread until it shows the newest notification."""
    thread = await get_thread(services, notification, recipient)
    while thread and (newest := await services.notifications.get(thread.notification)):
        outcome = await _send_update(services, route, thread, render_notification(services, newest, recipient))
        current = await get_thread(services, notification, recipient)
        if outcome.verdict is not Verdict.DONE or (current and current.notification == newest.key):
            return outcome
        thread = current
    return Outcome(Verdict.DONE)


async def _send_update(services: Services, route: Route, thread: StoredThread, activity: bytes) -> Outcome:
    outcome = await services.connector.update(route, thread.conversation_id, thread.activity_id, activity)
    if outcome.verdict is Verdict.UNKNOWN:  # an update is safe to repeat
        return replace(outcome, verdict=Verdict.RETRY)
    return replace(outcome, activity_id=thread.activity_id, conversation_id=thread.conversation_id)


async def record_sent(
    services: Services,
    notification: StoredNotification,
    recipient: str,
    previous: StoredThread | None,
    sent: tuple[str, str],
) -> None:
    """Record that the activity and conversation `sent` show the thread now; `previous` is the row read before.

    A reply does not replace the first message of its thread.
    """
    thread = notification.content.thread
    if thread is None:
        return
    activity, conversation = sent
    at, tenant = notification.occurred_at, notification.tenant
    while previous is None or previous.newest <= at:
        root = previous if thread.on_repeat == "reply" and previous and previous.activity_id else None
        new = StoredThread(
            newest=at,
            notification=notification.key,
            activity_id=root.activity_id if root else activity,
            conversation_id=root.conversation_id if root else conversation,
            etag=previous.etag if previous else "",
        )
        try:
            await services.threads.save(tenant, recipient, thread.key, new)
        except Conflict:
            previous = await services.threads.get(tenant, recipient, thread.key)
            continue
        return
