"""The parts of a Teams conversation id ("Get Teams specific context", Microsoft Learn)."""

#: Separates the id of a channel from the id of a thread's first message.
THREAD = ";messageid="


def channel_of(conversation: str) -> str:
    """Return the channel of a thread (`19:...@thread.tacv2;messageid=...`), or any other conversation unchanged."""
    return conversation.split(THREAD, 1)[0]
