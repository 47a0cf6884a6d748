"""Put messages on the queues of the app; no message expires."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

from azure.core.exceptions import ResourceExistsError

if TYPE_CHECKING:
    from shared.storage.clients import QueueService
from shared.queue_messages import (
    DELIVERIES,
    DELIVERIES_URGENT,
    EXPANSIONS,
    RECIPIENTS,
    SWEEPS,
    Delivery,
    Expansion,
    RecipientTask,
    Sweep,
)

#: Longest delay of a message: 7 days ("Put Message", Queue service REST reference).
MAX_DELAY_SECONDS = 7 * 24 * 3600
#: Characters that a queue refuses, because XML 1.0 does not allow them.
_NO_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_text(body: bytes) -> str:
    """Return the text that puts a message with this body on a queue: in base64 if a queue refuses it as it is."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return base64.b64encode(body).decode()
    return base64.b64encode(body).decode() if _NO_XML.search(text) else text


class Queues:
    def __init__(self, service: QueueService) -> None:
        self._service = service

    async def create(self, name: str) -> None:
        """Create the queue unless it exists."""
        try:
            await self._service.get_queue_client(name).create_queue()
        except ResourceExistsError:
            return

    async def put(self, name: str, text: str, delay: float = 0) -> None:
        """Put `text` on the queue, visible after `delay` seconds, rounded up to whole seconds."""
        seconds = min(max(0, -int(-delay // 1)), MAX_DELAY_SECONDS)
        await self._service.put_message(name, text, seconds)

    async def enqueue_expansion(self, message: Expansion, delay: float = 0) -> None:
        await self.put(EXPANSIONS, message.encode(), delay)

    async def enqueue_delivery(self, message: Delivery, delay: float = 0, *, urgent: bool = False) -> None:
        await self.put(DELIVERIES_URGENT if urgent else DELIVERIES, message.encode(), delay)

    async def enqueue_sweep(self, message: Sweep, delay: float = 0) -> None:
        await self.put(SWEEPS, message.encode(), delay)

    async def enqueue_recipient(self, message: RecipientTask, delay: float = 0) -> None:
        await self.put(RECIPIENTS, message.encode(), delay)
