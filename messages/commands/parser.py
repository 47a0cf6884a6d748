"""Parse what a person writes to the bot into a command. One table has the names of all commands in each language.

Teams delivers a message in several forms: with the mention of the bot, with HTML and its entities, on several lines.
The first line with text is the command.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum

from shared.texts import text_of

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
    """A command with its names in each language. People may write any of them; `help` shows the first of theirs.

    Its arguments and its description are texts (`command.{verb}.arguments`, `command.{verb}`).
    """

    verb: Verb
    names: Mapping[str, Sequence[str]]
    has_arguments: bool = False

    def usage(self, language: str) -> str:
        name = self.names[language][0]
        return f"{name} {text_of(language, f'command.{self.verb}.arguments')}" if self.has_arguments else name

    def description(self, language: str) -> str:
        return text_of(language, f"command.{self.verb}")


#: All commands, in the order of `help`.
COMMANDS: Sequence[ChatCommand] = (
    ChatCommand(Verb.HELP, {"en": ("help", "?"), "de": ("hilfe",)}),
    ChatCommand(Verb.PREFERENCES, {"en": ("preferences", "settings"), "de": ("einstellungen",)}),
    ChatCommand(Verb.STATUS, {"en": ("status",), "de": ("status",)}),
    ChatCommand(Verb.SUBSCRIBE, {"en": ("subscribe", "follow"), "de": ("abonnieren", "abonniere")}, has_arguments=True),
    ChatCommand(Verb.UNSUBSCRIBE, {"en": ("unsubscribe", "unfollow"), "de": ("abbestellen",)}, has_arguments=True),
    ChatCommand(Verb.TOPICS, {"en": ("topics", "subscriptions"), "de": ("themen",)}),
    ChatCommand(Verb.PAUSE, {"en": ("pause",), "de": ("pause", "pausieren", "pausiere")}, has_arguments=True),
    ChatCommand(Verb.RESUME, {"en": ("resume", "unpause", "continue"), "de": ("weiter", "fortsetzen")}),
    ChatCommand(
        Verb.QUIET,
        {"en": ("quiet", "quiet hours", "quiet time", "do not disturb"), "de": ("ruhe", "ruhezeiten", "ruhezeit")},
        has_arguments=True,
    ),
    ChatCommand(Verb.TIMEZONE, {"en": ("timezone", "time zone", "tz"), "de": ("zeitzone",)}, has_arguments=True),
    ChatCommand(Verb.DIGEST, {"en": ("digest",), "de": ("übersicht", "zusammenfassung")}, has_arguments=True),
    ChatCommand(Verb.STOP, {"en": ("stop", "turn off"), "de": ("stop", "stopp", "ausschalten")}, has_arguments=True),
    ChatCommand(Verb.START, {"en": ("start", "turn on"), "de": ("start", "einschalten")}, has_arguments=True),
)

_COMMAND_BY_NAME = {name: command for command in COMMANDS for names in command.names.values() for name in names}
_MAX_NAME_WORDS = max(len(name.split()) for name in _COMMAND_BY_NAME)


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
    line, so that a sentence that begins with its name does nothing.

    >>> parse_command("<at>Herald</at> Pause&nbsp;2h.").argument
    '2h'
    """
    line = first_line(text).rstrip(". ")
    words = line.split(" ")
    if not _plain_name(line):
        return ParsedCommand(_COMMAND_BY_NAME[Verb.HELP])
    for count in range(min(_MAX_NAME_WORDS, len(words)), 0, -1):
        if command := _COMMAND_BY_NAME.get(_plain_name(" ".join(words[:count]))):
            argument = " ".join(words[count:])
            if not argument or command.has_arguments or command.verb is Verb.HELP:
                return ParsedCommand(command, argument)
            return UnknownCommand(line, _plain_name(" ".join(words[:count])))
    similar = get_close_matches(_plain_name(words[0]), _COMMAND_BY_NAME, n=1, cutoff=MIN_SUGGESTION_RATIO)
    return UnknownCommand(line, " ".join([similar[0], *words[1:]]) if similar else "")


def _plain_name(text: str) -> str:
    name = text.casefold().removeprefix("/")
    return name.rstrip(".,:;!?") if len(name) > 1 else name


def first_line(text: str) -> str:
    """Return the first line with text besides mentions and markup, with single spaces; "" for none."""
    text = _BREAK.sub("\n", _MENTION.sub(" ", text[:MAX_COMMAND_CHARS]))
    text = _INVISIBLE.sub("", html.unescape(_TAG.sub("", text)))
    lines = (" ".join(line.split()) for line in text.splitlines())
    return next((line for line in lines if line), "")
