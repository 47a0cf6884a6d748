"""What somebody writes to the bot is done, and answered through the queues."""

from __future__ import annotations

from messages.event import Event
from shared.services import Services


async def converse(services: Services, event: Event) -> None:
    """Do the command in a message."""
