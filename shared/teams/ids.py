"""Ids of Teams ("Get Teams specific context", Microsoft Learn)."""


def channel_of(conversation: str) -> str:
    """The channel of a thread (`19:...@thread.tacv2;messageid=...`); any other conversation is itself."""
    return conversation.split(";messageid=", 1)[0]
