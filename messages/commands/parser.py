"""Parse what a person writes to the bot into a command; one table names the commands, and the help is made from it.

Teams delivers the text in several forms: with the mention of the bot, with HTML and entities, over many lines. The
first line with text is the command.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum

#: How much of a message is looked at, in characters.
MAX_COMMAND_CHARS = 4000
#: How alike a misspelt name must be to the one that is suggested (0 to 1; the ratio of `difflib`).
LIKENESS = 0.6

_MENTION = re.compile(r"<at\b[^<>]*>[^<>]*</at>", re.IGNORECASE)
_BREAK = re.compile(r"</?(?:p|div|br|li|ul|ol|tr|h[1-6]|blockquote)\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-z][^<>]*>", re.IGNORECASE)
#: Characters that are not seen, and come along with what is pasted: zero width space and joiner, direction, BOM.
_UNSEEN = re.compile("[\u200b\u200e\u200f\u2060\ufeff]")


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
    """`names` are what people may write, the first is shown; `takes` is what follows it, `does` what comes of it."""

    verb: Verb
    names: Sequence[str]
    takes: str
    does: str

    @property
    def usage(self) -> str:
        return f"{self.names[0]} {self.takes}".rstrip()


#: All commands, in the order of the help.
COMMANDS: Sequence[ChatCommand] = (
    ChatCommand(Verb.HELP, ("help", "?"), "", "shows this"),
    ChatCommand(Verb.PREFERENCES, ("preferences", "settings"), "", "opens a card on which all of this can be set"),
    ChatCommand(Verb.STATUS, ("status",), "", "tells what is set, and how many messages wait"),
    ChatCommand(Verb.SUBSCRIBE, ("subscribe",), "TOPIC", "sends what comes up about a topic"),
    ChatCommand(Verb.UNSUBSCRIBE, ("unsubscribe",), "TOPIC", "does so no longer"),
    ChatCommand(Verb.TOPICS, ("topics",), "", "lists the subscriptions"),
    ChatCommand(Verb.PAUSE, ("pause",), "2h | until 14:00 | until monday", "keeps messages back; alone: until resume"),
    ChatCommand(Verb.RESUME, ("resume",), "", "ends the pause, and sends what was kept back"),
    ChatCommand(Verb.QUIET, ("quiet",), "18:00-08:00 | sat,sun | off", "keeps messages back at these hours and days"),
    ChatCommand(
        Verb.TIMEZONE, ("timezone", "tz"), "Europe/Berlin | auto", "by which local time goes; auto: by that of Teams"
    ),
    ChatCommand(
        Verb.DIGEST,
        ("digest",),
        "daily 09:00 | weekdays 17:00 | weekly mon 09:00 | off | now",
        "when all that is in the digest comes, urgent or not, in one message",
    ),
    ChatCommand(Verb.STOP, ("stop",), "", "switches off all that is not mandatory"),
    ChatCommand(Verb.START, ("start",), "", "switches it on again"),
)

_BY_NAME = {name: command for command in COMMANDS for name in command.names}


@dataclass(frozen=True, slots=True)
class Order:
    """A command, and what was written after its name."""

    command: ChatCommand
    argument: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A line that is no command, and the one that may be meant, "" where none is alike."""

    line: str
    meant: str


def parse(text: str) -> Order | Unknown:
    """The command in the text of a message; a message that says nothing asks for help.

    Case counts only in what follows the name, and a full stop at the end nowhere. After the name of a command that
    takes nothing there must be nothing: "stop the builds" is not to stop everything.

    >>> parse("<at>Herald</at> Pause&nbsp;2h.").argument
    '2h'
    """
    line = first_line(text).rstrip(". ")
    word, _, argument = line.partition(" ")
    name = word.casefold().removeprefix("/")
    if len(name) > 1:
        name = name.rstrip(".,:;!?")
    if not name:
        return Order(_BY_NAME[Verb.HELP])
    if command := _BY_NAME.get(name):
        takes_it = command.takes or command.verb is Verb.HELP
        return Order(command, argument) if takes_it or not argument else Unknown(line, command.names[0])
    alike = get_close_matches(name, _BY_NAME, n=1, cutoff=LIKENESS)
    return Unknown(line, f"{alike[0]} {argument}".rstrip() if alike else "")


def first_line(text: str) -> str:
    """The first line of a message that holds more than mentions and markup, its blanks single; "" for none."""
    text = _BREAK.sub("\n", _MENTION.sub(" ", text[:MAX_COMMAND_CHARS]))
    text = _UNSEEN.sub("", html.unescape(_TAG.sub("", text)))
    lines = (" ".join(line.split()) for line in text.splitlines())
    return next((line for line in lines if line), "")
