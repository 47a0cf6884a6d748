"""The app without an app id, as on a developer's machine, where the real Playground stands in for Teams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.processes import FunctionHost, Playground, free_port
from local.send import PLAYGROUND, build_event, put_event
from shared.records import notification_key
from shared.storage.clients import CONNECTION

TENANT: str = PLAYGROUND["tenantId"]
PERSON: str = PLAYGROUND["currentUser"]["aadObjectId"]
CHAT: str = PLAYGROUND["personalChat"]["id"]


@dataclass(frozen=True)
class PlaygroundChat:
    """The personal chat of the Playground at `url`, and the settings of the app behind it."""

    url: str
    settings: dict[str, str]

    def send(self, content: dict[str, Any], **data: Any) -> str:
        """Put a notification for the person of the chat on the queue, and return its key."""
        message = build_event(content)
        message["data"] |= data
        put_event(message, self.settings[CONNECTION])
        return notification_key(TENANT, message["source"], message["id"])


@contextmanager
def open_chat(connection: str, folder: Path, **extra_settings: str) -> Iterator[PlaygroundChat]:
    """Start the Playground and the app, and yield a chat without the bot; logs go to `folder`."""
    port = free_port()
    with ExitStack() as stack:
        playground = stack.enter_context(Playground(folder, f"http://127.0.0.1:{port}/api/messages"))
        settings = {
            CONNECTION: connection,
            "AZURE_FUNCTIONS_ENVIRONMENT": "Development",
            "HERALD_ALLOWED_TENANTS": TENANT,
            "HERALD_SERVICE_HOSTS": f"127.0.0.1:{playground.port}",
            **extra_settings,
        }
        stack.enter_context(FunctionHost(folder, settings, port=port))
        yield PlaygroundChat(playground.url, settings)
