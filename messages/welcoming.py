"""Who meets the bot for the first time is told why it came."""

from __future__ import annotations

from messages.event import Event
from shared.services import Services


async def welcome(services: Services, event: Event) -> None:
    """Put the welcome on its way that an event calls for, if it does."""
