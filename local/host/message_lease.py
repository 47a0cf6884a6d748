"""The lease of a queue message: the message stays invisible to other readers while the lease is renewed."""

from __future__ import annotations

import asyncio

from azure.core.exceptions import AzureError, HttpResponseError
from azure.storage.queue import QueueMessage
from azure.storage.queue.aio import QueueClient

from local.host.config import SINGLE_ATTEMPT


class MessageLease:
    """Keeps a message invisible while it is processed: renews after half of `seconds`; `receipt` is the newest."""

    def __init__(self, client: QueueClient, message: QueueMessage, seconds: int) -> None:
        self.receipt = message.pop_receipt or ""
        self._client = client
        self._message = message
        self._seconds = seconds
        self._renewal: asyncio.Task[None] | None = None
        # A timer is cheaper than a task, and most messages are processed long before the first renewal.
        self._timer = asyncio.get_running_loop().call_later(seconds / 2, self._start_renewal)

    async def end(self) -> None:
        """Stop renewing; wait for a renewal in flight, because it changes the receipt."""
        if self._renewal:
            await self._renewal
        self._timer.cancel()

    def _start_renewal(self) -> None:
        self._renewal = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        delay = self._seconds / 2
        try:
            updated = await self._client.update_message(
                self._message.id, self.receipt, visibility_timeout=self._seconds, **SINGLE_ATTEMPT
            )
            self.receipt = updated.pop_receipt or self.receipt
        except AzureError as error:
            if is_lease_lost(error):
                return
            delay = self._seconds / 8
        self._timer = asyncio.get_running_loop().call_later(delay, self._start_renewal)


def is_lease_lost(error: AzureError) -> bool:
    """Return whether `error` means that the message was deleted or that another reader has leased it."""
    # 404 MessageNotFound; 400 PopReceiptMismatch if another reader has received the message.
    return isinstance(error, HttpResponseError) and error.status_code in (400, 404)
