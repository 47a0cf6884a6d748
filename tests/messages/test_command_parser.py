"""The text of messages, parsed into commands."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from messages.commands.parser import (
    COMMANDS,
    MAX_COMMAND_CHARS,
    ChatCommand,
    ParsedCommand,
    UnknownCommand,
    Verb,
    first_line,
    parse_command,
)
from shared.preferences.digest_schedule import DigestSchedule
from shared.preferences.pause import parse_pause
from shared.preferences.quiet_hours import QuietHours
from shared.texts import LANGUAGES
from shared.time.localtime import load_zone
from shared.time.spellings import normalize

ARGUMENTS = {
    Verb.SUBSCRIBE: "Release notes",
    Verb.UNSUBSCRIBE: "Release notes",
    Verb.PAUSE: "2h",
    Verb.QUIET: "mon-fri 18:00-08:00",
    Verb.TIMEZONE: "Europe/Berlin",
    Verb.DIGEST: "weekly mon 09:00",
}
#: Forms in which a command arrives, made by Teams or by the person who writes.
MESSAGE_FORMS = {
    "as it is": "{}",
    "spaces around": "  \t{} \n",
    "no-break spaces": "\u00a0{}\u00a0",
    "a full stop": "{}.",
    "a slash": "/{}",
    "a mention": "<at>Herald</at> {}",
    "a mention with an id": '<at id="0">Herald</at>&nbsp;{}',
    "a mention at the end": "{} <at>Herald</at>",
    "a mention on its own line": "<at>Herald</at>\r\n{}",
    "a paragraph": "<p>{}</p>",
    "a paragraph and another": "<p>{}</p><p>Thank you</p>",
    "a mention in a paragraph": "<p><at>Herald</at>&nbsp;{}</p>",
    "a div with emphasis": "<div><div>\n<strong>{}</strong></div>\n</div>",
    "a line break": "{}<br/>Thank you",
    "further lines": "\n{}\nThank you\n",
    "invisible characters": "\ufeff\u200b{}\u200b",
}


def parse_known(text: str) -> ParsedCommand:
    parsed = parse_command(text)
    assert isinstance(parsed, ParsedCommand), parsed
    return parsed


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command.verb))
@pytest.mark.parametrize("form", MESSAGE_FORMS)
def test_command_is_parsed_in_every_form_of_message(form: str, command: ChatCommand) -> None:
    argument = ARGUMENTS.get(command.verb, "")
    for name in (name for names in command.names.values() for name in names):
        for written in (name, name.upper(), name.title()):
            line = f"{written} {argument}".strip()
            assert parse_known(MESSAGE_FORMS[form].format(line)) == ParsedCommand(command, argument), line


@pytest.mark.parametrize("form", MESSAGE_FORMS)
def test_html_entities_and_repeated_spaces_are_normalized(form: str) -> None:
    text = MESSAGE_FORMS[form].format("SUBSCRIBE&nbsp;&nbsp; R&amp;D \u00a0 a &lt; b")
    assert parse_known(text).argument == "R&D a < b"


@pytest.mark.parametrize(
    ("written", "suggestion"),
    [
        ("hepl", "help"), ("hlp", "help"),
        ("preferneces", "preferences"), ("preference", "preferences"),
        ("staus", "status"), ("statsu please", "status please"),
        ("subscirbe Builds", "subscribe Builds"), ("Suscribe", "subscribe"),
        ("unsubcribe Builds", "unsubscribe Builds"),
        ("topcis", "topics"), ("topic", "topics"),
        ("puase 2h", "pause 2h"), ("PAUS until monday.", "pause until monday"),
        ("resum", "resume"), ("reusme", "resume"),
        ("quite 18:00-08:00", "quiet 18:00-08:00"), ("<at>Herald</at> queit off", "quiet off"),
        ("timezon Europe/Berlin", "timezone Europe/Berlin"), ("time-zone", "timezone"),
        ("digets now", "digest now"), ("<p>diggest&nbsp;off</p>", "digest off"),
        ("stpo", "stop"), ("sotp", "stop"),
        ("strat", "start"), ("sart", "start"),
        ("xyzzy", ""), ("👍", ""), ("Thanks a lot", ""),
    ],
)  # fmt: skip
def test_misspelt_command_is_unknown_and_the_most_similar_is_suggested(written: str, suggestion: str) -> None:
    parsed = parse_command(written)
    assert isinstance(parsed, UnknownCommand)
    assert parsed.suggestion == suggestion


WITHOUT_ARGUMENTS = [command for command in COMMANDS if not command.has_arguments]


@pytest.mark.parametrize("command", WITHOUT_ARGUMENTS, ids=lambda each: str(each.verb))
def test_sentence_that_starts_like_a_command_is_unknown(command: ChatCommand) -> None:
    if command.verb is Verb.HELP:
        assert parse_known("help me, please").command is command
    else:
        for name in (name for names in command.names.values() for name in names):
            line = f"{name} sending me the builds"
            assert parse_command(line) == UnknownCommand(line, name)


@pytest.mark.parametrize("text", ["", "  ", "\u00a0", "<at>Herald</at>", "<p>&nbsp;</p>", ".", "...", "/", "\u200b"])
def test_message_without_text_is_help(text: str) -> None:
    assert parse_known(text).command.verb is Verb.HELP


def test_each_name_and_each_verb_belongs_to_one_command() -> None:
    names = [name for command in COMMANDS for name in {name for names in command.names.values() for name in names}]
    assert len(set(names)) == len(names)
    assert all(command.names.keys() == LANGUAGES.keys() for command in COMMANDS)
    assert names == [name.casefold() for name in names]
    assert [command.verb for command in COMMANDS] == list(dict.fromkeys(command.verb for command in COMMANDS))
    assert {command.verb for command in COMMANDS} == set(Verb)


PARSERS: dict[Verb, Callable[[str], object]] = {
    Verb.PAUSE: lambda text: parse_pause(text, datetime(2026, 11, 23, tzinfo=UTC), load_zone("UTC")),
    Verb.QUIET: QuietHours.parse,
    Verb.TIMEZONE: lambda text: text == "auto" or load_zone(text),
    Verb.DIGEST: lambda text: normalize(text) == "now" or DigestSchedule.parse(text),
}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("verb", PARSERS)
def test_arguments_in_the_help_are_valid(verb: Verb, language: str) -> None:
    [command] = [each for each in COMMANDS if each.verb is verb]
    name, _, arguments = command.usage(language).partition(" ")
    for example in arguments.split(" | "):
        parsed = parse_known(f"{name} {example}")
        assert parsed.command is command
        assert PARSERS[verb](parsed.argument)


def test_help_says_that_the_digest_includes_urgent_notifications() -> None:
    [command] = [each for each in COMMANDS if each.verb is Verb.DIGEST]
    assert "urgent or not" in command.description("en")
    assert "auch Dringendem" in command.description("de")


def test_markup_is_removed_and_text_that_looks_like_markup_is_not() -> None:
    assert first_line('<p class="x">a <b>b</b> 1 < 2 <3 <img src="http://localhost/x"></p>') == "a b 1 < 2 <3"
    assert first_line("<pause 2h>") == ""
    assert first_line("&lt;at&gt;Ada&lt;/at&gt;") == "<at>Ada</at>"


@pytest.mark.parametrize("piece", ["<", "<at>", "<p", "&", "</", "\u200b", "a ", "<at></at>"])
def test_only_the_start_of_a_long_message_is_read(piece: str) -> None:
    text = piece * 100_000
    assert first_line(text) == first_line(text[:MAX_COMMAND_CHARS])
    assert not re.search("pause", first_line(text + "\npause"))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command.verb))
def test_document_about_commands_lists_each_command(command: ChatCommand) -> None:
    page = Path(__file__).parents[2].joinpath("docs", "commands.md").read_text()
    for language in LANGUAGES:
        assert f"`{command.names[language][0]}" in page
