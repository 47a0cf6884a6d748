"""Parse what a person writes to the bot into a command. One table lists all commands; `help` shows it.

Teams delivers a message in several forms: with the mention of the bot, with HTML and its entities, on several lines.
The first line with text is the command.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum

#: Length of the part of a message that is read, in characters.
MAX_COMMAND_CHARS = 4000
#: Lowest similarity of a misspelt name and the command that is suggested for it (0 to 1, the ratio of `difflib`).
MIN_SUGGESTION_RATIO = 0.6

_MENTION = re.compile(r"<at\b[^<>]*>[^<>]*</at>", re.IGNORECASE)
_BREAK = re.compile(r"</?(?:p|div|br|li|ul|ol|tr|h[1-6]|blockquote)\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-z][^<>]*>", re.IGNORECASE)
#: Invisible characters that come with pasted text: zero width space and joiner, direction marks, byte order mark.
_INVISIBLE = re.compile("[\u200b\u200e\u200f\u2060\ufeff]")


class Verb(StrEnum):
    HELP = "help"
    PREFERENCES = "preferences"
    STATUS = "status"
    SUBSCRIBE = "subscribe"
    UNSUBSCRIBE = "unsubscribe"
    TOPICS = "topics"
    PAUSE = "pause"
    RESUME = "resume"
    QUIET = "quiet"
    TIMEZONE = "timezone"
    DIGEST = "digest"
    STOP = "stop"
    START = "start"


@dataclass(frozen=True, slots=True)
class ChatCommand:
    """People may write any of `names`; `help` shows the first of them, `arguments` and `description`."""

    verb: Verb
    names: Sequence[str]
    arguments: str
    description: str

    @property
    def usage(self) -> str:
        return f"{self.names[0]} {self.arguments}".rstrip()


#: All commands, in the order of `help`.
COMMANDS: Sequence[ChatCommand] = (
    ChatCommand(Verb.HELP, ("help", "?"), "", "Show all commands"),
    ChatCommand(Verb.PREFERENCES, ("preferences", "settings"), "", "Open a card with all your settings"),
    ChatCommand(Verb.STATUS, ("status",), "", "Show your settings and how many notifications are held for you"),
    ChatCommand(Verb.SUBSCRIBE, ("subscribe",), "TOPIC", "Get notifications about a topic"),
    ChatCommand(Verb.UNSUBSCRIBE, ("unsubscribe",), "TOPIC", "Stop notifications about a topic"),
    ChatCommand(Verb.TOPICS, ("topics",), "", "List your subscriptions"),
    ChatCommand(
        Verb.PAUSE,
        ("pause",),
        "2h | until 14:00 | until monday",
        "Pause all notifications. “pause” alone lasts until “resume”",
    ),
    ChatCommand(Verb.RESUME, ("resume",), "", "End the pause and get the notifications that were held"),
    ChatCommand(Verb.QUIET, ("quiet",), "18:00-08:00 | sat,sun | off", "Hold notifications at these hours and days"),
    ChatCommand(Verb.TIMEZONE, ("timezone", "tz"), "Europe/Berlin | auto", "Your time zone. “auto” follows Teams"),
    ChatCommand(
        Verb.DIGEST,
        ("digest",),
        "daily 09:00 | weekdays 17:00 | weekly mon 09:00 | off | now",
        "When to get your digest: one message with all its notifications, urgent or not",
    ),
    ChatCommand(Verb.STOP, ("stop",), "", "Turn off everything that is not mandatory"),
    ChatCommand(Verb.START, ("start",), "", "Turn notifications on again"),
)

_COMMAND_BY_NAME = {name: command for command in COMMANDS for name in command.names}


@dataclass(frozen=True, slots=True)
class ParsedCommand:
    """A command, and the text after its name."""

    command: ChatCommand
    argument: str = ""


@dataclass(frozen=True, slots=True)
class UnknownCommand:
    """A line that is not a command, and the command that is suggested instead, "" for none."""

    line: str
    suggestion: str


def parse_command(text: str) -> ParsedCommand | UnknownCommand:
    """Return the command in the text of a message; a message without text is `help`.

    Case matters only after the name. A full stop at the end is ignored. A command without arguments must be the whole
    line: "stop the builds" must not turn off everything.

    >>> parse_command("<at>Herald</at> Pause&nbsp;2h.").argument
    '2h'
    """
    line = first_line(text).rstrip(". ")
    word, _, argument = line.partition(" ")
    name = word.casefold().removeprefix("/")
    if len(name) > 1:
        name = name.rstrip(".,:;!?")
    if not name:
        return ParsedCommand(_COMMAND_BY_NAME[Verb.HELP])
    if command := _COMMAND_BY_NAME.get(name):
        accepts_argument = command.arguments or command.verb is Verb.HELP
        if accepts_argument or not argument:
            return ParsedCommand(command, argument)
        return UnknownCommand(line, command.names[0])
    similar = get_close_matches(name, _COMMAND_BY_NAME, n=1, cutoff=MIN_SUGGESTION_RATIO)
    return UnknownCommand(line, f"{similar[0]} {argument}".rstrip() if similar else "")


def first_line(text: str) -> str:
    """Return the first line with text besides mentions and markup, with single spaces; "" for none."""
    text = _BREAK.sub("\n", _MENTION.sub(" ", text[:MAX_COMMAND_CHARS]))
    text = _INVISIBLE.sub("", html.unescape(_TAG.sub("", text)))
    lines = (" ".join(line.split()) for line in text.splitlines())
    return next((line for line in lines if line), "")
