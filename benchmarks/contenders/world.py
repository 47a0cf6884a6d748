"""What each contender is told: whom to send to, what, and with which token."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Chat:
    """A personal chat: its conversation id, and the person's `29:` id."""

    conversation: str
    user: str


@dataclass(frozen=True)
class World:
    """`token` is good for the connector of `service_url`; whoever fetches its own uses `secret` at `authority`."""

    tenant: str
    app_id: str
    secret: str
    authority: str
    service_url: str
    token: str
    card: dict[str, Any]
    summary: str
    chats: Sequence[Chat]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), "utf-8")

    @classmethod
    def load(cls, path: Path) -> World:
        values = json.loads(path.read_text("utf-8"))
        return cls(**{**values, "chats": [Chat(**each) for each in values["chats"]]})


Send = Callable[[Chat], Awaitable[object]]

CARD_TYPE = "application/vnd.microsoft.card.adaptive"
