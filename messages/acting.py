"""What somebody clicks on a card is done, and answered at once."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from messages.event import Event
from shared.services import Services


async def act(services: Services, event: Event) -> tuple[int, dict[str, Any] | None]:
    """Do what an invoke asks for; returns the status and the body of the answer."""
    # As botbuilder answers an invoke that a bot does not implement.
    return HTTPStatus.NOT_IMPLEMENTED, None
