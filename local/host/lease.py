"""The lease of a queue message: it stays invisible to other readers for as long as it is renewed."""

from __future__ import annotations

import asyncio

from azure.core.exceptions import AzureError, HttpResponseError
from azure.storage.queue import QueueMessage
from azure.storage.queue.aio import QueueClient

from local.host.config import ONCE


class Lease:
    """Keeps a message invisible while it is processed, renewing at half of `seconds`; `receipt` is the newest."""

    def __init__(self, client: QueueClient, message: QueueMessage, seconds: int) -> None:
        self.receipt = message.pop_receipt or ""
        self._client = client
        self._message = message
        self._seconds = seconds
        self._renewal: asyncio.Task[None] | None = None
        # a timer rather than a task: most messages are done long before
        self._timer = asyncio.get_running_loop().call_later(seconds / 2, self._renew)

    async def end(self) -> None:
        """Stops renewing; a renewal under way is awaited, since it changes the receipt."""
        if self._renewal:
            await self._renewal
        self._timer.cancel()

    def _renew(self) -> None:
        self._renewal = asyncio.create_task(self._extend())

    async def _extend(self) -> None:
        pause = self._seconds / 2
        try:
            updated = await self._client.update_message(
                self._message.id, self.receipt, visibility_timeout=self._seconds, **ONCE
            )
            self.receipt = updated.pop_receipt or self.receipt
        except AzureError as error:
            if is_gone(error):
                return
            pause = self._seconds / 8
        self._timer = asyncio.get_running_loop().call_later(pause, self._renew)


def is_gone(error: AzureError) -> bool:
    """Whether `error` says that the message is deleted, or leased to another reader."""
    # 404 MessageNotFound, or 400 PopReceiptMismatch where another reader has the message by now
    return isinstance(error, HttpResponseError) and error.status_code in (400, 404)
