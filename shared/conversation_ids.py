"""The forms of conversation ids ("Get Teams specific context", Microsoft Learn) and of Entra object ids."""

import re

#: Separates the id of a channel from the id of a thread's first message.
THREAD = ";messageid="

#: An Entra object id or tenant id, in any case.
OBJECT_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def channel_of(conversation: str) -> str:
    """Return the channel of a thread (`19:...@thread.tacv2;messageid=...`), or any other conversation unchanged."""
    return conversation.split(THREAD, 1)[0]
