"""Show what became of notifications: `python dev.py status [ID]`, from the tables of the storage account.

Without an id, the newest notifications and dead letters are listed, and the schedules with what was left out of their
calendars; with one, the deliveries of that notification with
their state, reason, and what to do, and the dead letters that name it with their faults.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
from azure.core.exceptions import AzureError

from local.processes import connection_string
from local.send import bypass_proxy
from shared.concurrency import gather_limited
from shared.contract.decoding import decode_json
from shared.contract.faults import MessageRefused
from shared.records import DeliveryRecord, StoredNotification
from shared.states import OPEN, DeliveryState, NotificationState, Reason, ScheduleState
from shared.storage.clients import CONNECTION, open_storage
from shared.storage.dead_letters import DeadLetters
from shared.storage.deliveries import Deliveries, shard_names
from shared.storage.notification_index import NotificationIndex
from shared.storage.notifications import Notifications
from shared.storage.schedules import Schedules, StoredSchedule
from shared.storage.table import Table
from shared.time.holidays import Holidays

#: Notifications, schedules and dead letters that are listed, and deliveries that are shown of one notification.
MAX_LISTED, MAX_DELIVERIES = 20, 200
#: Faults that are shown of one dead letter, and dead letters that are searched for an id.
MAX_SHOWN_FAULTS, MAX_SEARCHED_LETTERS = 10, 1000

#: How the sources of Herald's own messages begin: answers, welcomes, digests. They are not listed.
OWN_SOURCES = "/herald/"

#: The result of a notification whose audience is empty.
NO_RECIPIENTS = "0 recipients"

#: Advice to an operator, by reason; other reasons need nothing, or are explained by the state.
ADVICE: Mapping[str, str] = {
    Reason.NOT_INSTALLED: "install the app for this person, chat or team",
    Reason.BLOCKED: "the person blocked the app: nothing to do",
    Reason.DISABLED_BY_ADMIN: "ask the tenant's administrator to allow the app",
    Reason.NOT_PERSONAL_SCOPE: "install the app for this person; its manifest must have the personal scope",
    Reason.NOT_PERMITTED: "see the log for the error code of Teams",
    Reason.WRONG_CLOUD: "use a bot of the recipient's cloud",
    Reason.BAD_REQUEST: "correct the card, then send it again",
    Reason.TOO_BIG: "shorten the card, then send it again",
    Reason.HOST_NOT_ALLOWED: "add the host to HERALD_SERVICE_HOSTS if it is one of Teams",
    Reason.GRAPH_PERMISSION_MISSING: "grant the permission that the log names, then `redrive`",
    Reason.APP_NOT_IN_CATALOGUE: "publish the app in the tenant's catalogue and check HERALD_TEAMS_APP_ID",
    Reason.BLOCKED_BY_POLICY: "ask the tenant's Teams administrator to allow the app for this person or team",
    Reason.UNKNOWN_PERSON: "check the name, and that the person has a licence for Teams",
    Reason.UNKNOWN_GROUP: "check the id of the group or team",
    Reason.UNAUTHORIZED: "check MicrosoftAppId and its credential; it is sent then",
    Reason.NO_TOKEN: "check MicrosoftAppId and its credential; it is sent then",
    Reason.CRASHED: "it may have arrived; `redrive` sends it again",
    Reason.NO_ANSWER: "it may have arrived; `redrive` sends it again",
    Reason.POISON: "see the log, then `redrive`",
    Reason.EXHAUSTED: "`redrive` tries again",
    Reason.OPTED_OUT: "the person turned this category, or all, off; in the chat, `start` turns it on again",
    Reason.OWN_ACTION: "the person triggered it, and does not want to hear of it",
    Reason.PAUSED: "held until the person's pause ends",
    Reason.MUTED: "held until the person's mute of the thread ends",
    Reason.QUIET_HOURS: "held until the person's quiet hours end",
    Reason.DIGEST: "held for the person's next digest",
    Reason.LOCAL_TIME: "held until its time in the person's zone",
}


def describe_list(notifications: Iterable[StoredNotification], letters: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the lines of the list: the newest notifications, and the newest dead letters with their faults."""
    rows = [("accepted (UTC)", "state", "source", "id", "result")]
    rows += [
        (_minute(each.created), str(each.state), each.source, each.id, describe_result(each))
        for each in notifications
        if not each.source.startswith(OWN_SOURCES)
    ]
    lines = list(_columns(rows)) if len(rows) > 1 else ["No notifications yet."]
    return lines + describe_letters(letters)


def describe_letters(letters: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line for each dead letter, and below it one for each of its first faults."""
    lines = []
    for letter in letters:
        at = letter["at"]
        when = _minute(at) if isinstance(at, datetime) else ""
        names = {"source": "source", "id": "id", "message_id": "queue message"}
        named = [f"{text} {letter[column]}" for column, text in names.items() if letter.get(column)]
        parts = ["dead letter", when, letter["queue"], letter["reason"], *named, f"key {letter['RowKey']}"]
        lines.append("  ".join(map(str, parts)))
        faults = orjson.loads(str(letter["faults"]))
        lines += ["  " + " ".join(filter(None, fault.values())) for fault in faults[:MAX_SHOWN_FAULTS]]
    return lines


def describe_schedules(schedules: Iterable[StoredSchedule]) -> list[str]:
    """Return a line for each schedule that is not deleted, and below it one for each event left out of its calendar."""
    lines = []
    for each in schedules:
        if each.state is ScheduleState.DELETED:
            continue
        lines.append(f"schedule  {each.state}  next {each.occurrence}  {each.name}")
        try:
            calendar = each.announcement.holidays
            left_out = Holidays(calendar, each.next_due.date()).left_out if calendar else ()
            lines += [f"  its calendar was read without {line}" for line in left_out[:MAX_SHOWN_FAULTS]]
        except ValueError:
            lines.append("  it is no longer valid: see the dead letters")
    return lines


def describe_result(notification: StoredNotification) -> str:
    """Return the final counts as text, or when it is due; "" while deliveries are open."""
    if notification.counts and notification.total == 0:
        return NO_RECIPIENTS
    if notification.state is NotificationState.SCHEDULED and notification.due:
        return f"due {_minute(notification.due)}"
    counts = orjson.loads(notification.counts) if notification.counts else {}
    result = ", ".join(f"{count} {state}" for state, count in counts.items())
    return f"{result} ({notification.refused_changes} with an old message)" if notification.refused_changes else result


def describe_notification(
    notification: StoredNotification,
    counts: Mapping[str, int],
    deliveries: Sequence[tuple[str, DeliveryRecord]],
    refused: int = 0,
) -> list[str]:
    """Return the lines about one notification: its state, reference and counts, and its deliveries with what to do."""
    summary = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    left_out = ", ".join(f"{number} {reason}" for reason, number in orjson.loads(notification.left_out or "{}").items())
    nothing = f"none, {NO_RECIPIENTS}" if notification.total == 0 else "none"
    state = str(notification.state)
    if notification.state is NotificationState.SCHEDULED and notification.due:
        state += f", due {_minute(notification.due)} UTC"
    if notification.revision:
        state += f", edited ({notification.revision})"
    if notification.recalled:
        state += ", recalled"
    lines = [f"{notification.source} {notification.id}: {state}"]
    if notification.reference:
        lines.append(f"reference: {notification.reference}")
    lines.append(f"deliveries: {summary or nothing}")
    if left_out:
        lines.append(f"accounts without a delivery: {left_out}")
    if refused > 0:
        lines.append(f"with an old message, as their edit or recall was refused: {refused}")
    rows = [("recipient", "state", "reason", "what to do")]
    for recipient, record in deliveries:
        advice = ADVICE.get(record.reason, "")
        if record.state is DeliveryState.SENT and record.maybe_twice:
            advice = "it may have arrived twice"
        if record.change_reason:
            advice = f"{record.refused_change} failed: {record.change_reason}"
        rows.append((recipient, str(record.state), record.reason, advice))
    if deliveries:
        lines += _columns(rows)
    if sum(counts.values()) > len(deliveries):
        lines.append(f"The first {len(deliveries)} of {sum(counts.values())} are shown.")
    return lines


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def _minute(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}"


async def read_status(identifier: str | None, environ: Mapping[str, str]) -> list[str] | None:
    """Return the lines to print, or None if there is no notification of this id; raises `AzureError`."""
    queues, tables = open_storage(environ)
    prefix = environ.get("HERALD_TABLE_PREFIX") or "Herald"
    async with queues, tables:

        def table(name: str) -> Table:
            return Table(tables.get_table_client(prefix + name))

        notifications = Notifications(table("Notifications"), lambda: 0.0)
        dead_letters = DeadLetters(table("DeadLetters"))
        if identifier is None:
            letters = await dead_letters.list_newest(MAX_LISTED)
            schedules = await Schedules(table("Schedules")).list_first(MAX_LISTED)
            keys = await NotificationIndex(table("NotificationIndex")).list_newest(MAX_LISTED)
            newest = [each for each in await gather_limited(keys, notifications.get) if each]
            return describe_list(newest, letters) + describe_schedules(schedules)
        found = await notifications.find(identifier)
        deliveries = Deliveries(table("Deliveries"))
        lines: list[str] = []
        for each in found:
            counts, refused = await deliveries.counts_and_refused(each.key, each.shards)
            shown: list[tuple[str, DeliveryRecord]] = []
            for shard in shard_names(each.shards):
                page = await deliveries.page(each.key, shard, "", MAX_DELIVERIES - len(shown) or 1)
                shown += [(message.recipient, record) for message, record in page]
                if len(shown) >= MAX_DELIVERIES:
                    break
            lines += describe_notification(each, {OPEN: counts.pop(OPEN, 0), **counts}, shown, refused)
        letters = await dead_letters.list_newest(MAX_SEARCHED_LETTERS)
        lines += describe_letters(letter for letter in letters if _names(letter, identifier))
        return lines or None


def _names(letter: Mapping[str, Any], identifier: str) -> bool:
    """Return whether the message of a dead letter has or targets this id, or is the queue message with this id."""
    if identifier in (letter.get("id"), letter.get("message_id")):
        return True
    try:
        value = decode_json(DeadLetters.body(letter))
    except MessageRefused:
        return False
    data = value.get("data", value) if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(data, dict):
        return False
    target = data.get("target")
    return identifier in (value.get("id"), data.get("id"), target.get("id") if isinstance(target, dict) else None)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="dev.py status", description="Show what became of notifications.")
    parser.add_argument("id", nargs="?", help="the id of a notification, as the upstream system set it")
    parser.add_argument(
        "--azurite-ports", type=int, nargs=3, metavar="N", help="ports of `dev.py up` (default: AzureWebJobsStorage)"
    )
    options = parser.parse_args(arguments)
    environ = {CONNECTION: "UseDevelopmentStorage=true", **os.environ}
    if options.azurite_ports:
        environ[CONNECTION] = connection_string(tuple(options.azurite_ports))
    if options.azurite_ports or environ[CONNECTION] == "UseDevelopmentStorage=true":
        bypass_proxy()
    try:
        lines = asyncio.run(read_status(options.id, environ))
    except AzureError as error:
        reason = str(error).splitlines()[0]
        sys.stderr.write(f"The storage of {CONNECTION} cannot be read ({reason}): is `python dev.py up` running?\n")
        return 1
    if lines is None:
        sys.stderr.write(f"No notification has the id {options.id}: `python dev.py status` lists the newest ones\n")
        return 1
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
