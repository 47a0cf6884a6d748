"""Page through the notifications of a cancellation key for one command, from a cursor in table Markers.

The command's own message is put back on its queue for each next page, so that no new form of message is needed. The
cursor is not in the message, because upstream systems can write that. Its marker is named by the hash of the message,
whose id tells it from other commands with the same text. Each page is applied before the cursor moves, and the cursor
moves before the message is put back: a worker that dies in between leaves a message that continues at the cursor.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from shared.contract.faults import Fault, MessageRefused
from shared.contract.identity import read_identity
from shared.queue_messages import NOTIFICATIONS
from shared.queues import to_text
from shared.records import StoredNotification
from shared.services import Services
from shared.storage.markers import cancellation, command_cursor

#: Notifications to which one function call applies a command.
PAGE_NOTIFICATIONS = 100
#: The name of the only marker of its kind. Its owner is the key of the last notification of the page before.
_CURSOR = "cursor"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandPage:
    """The `keys` of the notifications of one page of the command with the message `body`.

    `after` is the key before the page, "" for the first page; `is_last` says that no page follows.
    """

    body: bytes
    keys: Sequence[str]
    after: str
    is_last: bool

    @property
    def is_whole(self) -> bool:
        """Whether it contains all notifications of the cancellation key."""
        return self.is_last and not self.after

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


async def read_page(services: Services, tenant: str, cancellation_key: str, body: bytes) -> CommandPage:
    """Return the page at the cursor of the command with this message."""
    after = await services.markers.owner(command_cursor(hashlib.sha256(body).hexdigest()), _CURSOR)
    keys = await services.markers.page(cancellation(tenant, cancellation_key), after, PAGE_NOTIFICATIONS + 1)
    is_last = len(keys) <= PAGE_NOTIFICATIONS
    return CommandPage(body=body, keys=keys[:PAGE_NOTIFICATIONS], after=after, is_last=is_last)


async def continue_command(services: Services, page: CommandPage) -> None:
    """Move the cursor behind the page and put the message back, or delete the cursor after the last page.

    If a copy of the message has moved or deleted the cursor meanwhile, the message is put back, too: only the copy that
    deletes the cursor knows that no notification was left out since it came.
    """
    kind = command_cursor(page.digest)
    if page.is_last:
        if await services.markers.delete(kind, _CURSOR, page.after):
            return
    else:
        await services.markers.put(kind, _CURSOR, page.keys[-1])
    await services.queues.put(NOTIFICATIONS, to_text(page.body))


async def store_refusals(
    services: Services, page: CommandPage, refusals: Sequence[tuple[StoredNotification, MessageRefused]]
) -> None:
    """Store a dead letter that names the notifications of a page that refused the command; the command goes on.

    The pages of a command share one dead letter a day, which has the faults of the last page with any. The log has all.
    """
    faults = [
        Fault(fault.pointer, f"{notification.identity}: {fault.message}")
        for notification, refused in refusals
        for fault in refused.faults
    ]
    row = await services.dead_letters.put(
        NOTIFICATIONS,
        f"command;{page.digest}",
        page.body,
        refusals[-1][1].reason,
        faults,
        services.clock(),
        read_identity(page.body),
    )
    for notification, refused in refusals:
        log.warning(
            "A command was refused for notification %s (%s): %s; see DeadLetters row %s",
            notification.key,
            notification.identity,
            "; ".join(fault.message for fault in refused.faults),
            row,
        )
