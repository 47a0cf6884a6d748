"""The parts of a Teams conversation id ("Get Teams specific context", Microsoft Learn)."""

#: What stands between the id of a channel and that of a thread's first message.
THREAD = ";messageid="


def channel_of(conversation: str) -> str:
    """The channel of a thread (`19:...@thread.tacv2;messageid=...`); any other conversation is itself."""
    return conversation.split(THREAD, 1)[0]
