"""The card, chats and credentials of a contender, passed to its process as a JSON file."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Chat:
    """A personal chat: its conversation id and the person's id in Teams (`29:…`)."""

    conversation: str
    user: str


@dataclass(frozen=True)
class Workload:
    """`token` is valid for `service_url`; contenders that fetch their own use `secret` and `authority`."""

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
    def load(cls, path: Path) -> Workload:
        values = json.loads(path.read_text("utf-8"))
        return cls(**{**values, "chats": [Chat(**chat) for chat in values["chats"]]})


Send = Callable[[Chat], Awaitable[object]]

CARD_TYPE = "application/vnd.microsoft.card.adaptive"
