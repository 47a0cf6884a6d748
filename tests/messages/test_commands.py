"""What people write, read as commands."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from messages.commands.parser import COMMANDS, MAX_COMMAND_CHARS, ChatCommand, Order, Unknown, Verb, first_line, parse
from shared.preferences.digest_schedule import DigestSchedule
from shared.preferences.pause import parse_pause
from shared.preferences.quiet_hours import QuietHours
from shared.time.localtime import load_zone

ARGUMENTS = {
    Verb.SUBSCRIBE: "Release notes",
    Verb.UNSUBSCRIBE: "Release notes",
    Verb.PAUSE: "2h",
    Verb.QUIET: "mon-fri 18:00-08:00",
    Verb.TIMEZONE: "Europe/Berlin",
    Verb.DIGEST: "weekly mon 09:00",
}
#: How a line may be wrapped, by Teams or by who writes.
FORMS = {
    "as it is": "{}",
    "blanks around": "  \t{} \n",
    "no-break spaces": "\u00a0{}\u00a0",
    "a full stop": "{}.",
    "a slash": "/{}",
    "a mention": "<at>Herald</at> {}",
    "a mention with an id": '<at id="0">Herald</at>&nbsp;{}',
    "a mention at the end": "{} <at>Herald</at>",
    "a mention alone in its line": "<at>Herald</at>\r\n{}",
    "a paragraph": "<p>{}</p>",
    "a paragraph and another": "<p>{}</p><p>Thank you</p>",
    "a mention in a paragraph": "<p><at>Herald</at>&nbsp;{}</p>",
    "a div with emphasis": "<div><div>\n<strong>{}</strong></div>\n</div>",
    "a line break": "{}<br/>Thank you",
    "further lines": "\n{}\nThank you\n",
    "what is not seen": "\ufeff\u200b{}\u200b",
}


def order(text: str) -> Order:
    found = parse(text)
    assert isinstance(found, Order), found
    return found


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command.verb))
@pytest.mark.parametrize("form", FORMS)
def test_a_command_is_read_in_every_form(form: str, command: ChatCommand) -> None:
    argument = ARGUMENTS.get(command.verb, "")
    for name in command.names:
        for written in (name, name.upper(), name.title()):
            line = f"{written} {argument}".strip()
            assert order(FORMS[form].format(line)) == Order(command, argument), line


@pytest.mark.parametrize("form", FORMS)
def test_html_entities_and_runs_of_blanks_are_read_as_what_they_show(form: str) -> None:
    text = FORMS[form].format("SUBSCRIBE&nbsp;&nbsp; R&amp;D \u00a0 a &lt; b")
    assert order(text).argument == "R&D a < b"


@pytest.mark.parametrize(
    ("written", "meant"),
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
        ("stpo", "stop"), ("stopp", "stop"),
        ("strat", "start"), ("sart", "start"),
        ("xyzzy", ""), ("👍", ""), ("Thanks a lot", ""),
    ],
)  # fmt: skip
def test_what_is_misspelt_is_not_done_and_the_likest_command_is_named(written: str, meant: str) -> None:
    found = parse(written)
    assert isinstance(found, Unknown)
    assert found.meant == meant


@pytest.mark.parametrize("command", [each for each in COMMANDS if not each.takes], ids=lambda each: str(each.verb))
def test_a_sentence_that_begins_like_a_command_is_none(command: ChatCommand) -> None:
    if command.verb is Verb.HELP:
        assert order("help me, please").command is command
    else:
        line = f"{command.names[0]} sending me the builds"
        assert parse(line) == Unknown(line, command.names[0])


@pytest.mark.parametrize("text", ["", "  ", "\u00a0", "<at>Herald</at>", "<p>&nbsp;</p>", ".", "...", "/", "\u200b"])
def test_a_message_that_says_nothing_asks_for_help(text: str) -> None:
    assert order(text).command.verb is Verb.HELP


def test_each_name_belongs_to_one_command_and_each_verb_has_one() -> None:
    names = [name for command in COMMANDS for name in command.names]
    assert len(set(names)) == len(names)
    assert names == [name.casefold() for name in names]
    assert [command.verb for command in COMMANDS] == list(dict.fromkeys(command.verb for command in COMMANDS))
    assert {command.verb for command in COMMANDS} == set(Verb)


READERS: dict[Verb, Callable[[str], object]] = {
    Verb.PAUSE: lambda text: parse_pause(text, datetime(2026, 11, 23, tzinfo=UTC), load_zone("UTC")),
    Verb.QUIET: QuietHours.parse,
    Verb.TIMEZONE: lambda text: text == "auto" or load_zone(text),
    Verb.DIGEST: lambda text: text == "now" or DigestSchedule.parse(text),
}


@pytest.mark.parametrize("verb", READERS)
def test_what_the_help_shows_can_be_written(verb: Verb) -> None:
    [command] = [each for each in COMMANDS if each.verb is verb]
    for example in command.takes.split(" | "):
        assert READERS[verb](order(f"{verb} {example}").argument)


def test_the_help_does_not_say_that_what_is_urgent_passes_the_digest() -> None:
    [does] = [each.does for each in COMMANDS if each.verb is Verb.DIGEST]
    assert "urgent or not" in does


def test_markup_goes_and_what_only_looks_like_it_stays() -> None:
    assert first_line('<p class="x">a <b>b</b> 1 < 2 <3 <img src="http://localhost/x"></p>') == "a b 1 < 2 <3"
    assert first_line("<pause 2h>") == ""
    assert first_line("&lt;at&gt;Ada&lt;/at&gt;") == "<at>Ada</at>"


@pytest.mark.parametrize("piece", ["<", "<at>", "<p", "&", "</", "\u200b", "a ", "<at></at>"])
def test_only_the_beginning_of_a_long_message_is_looked_at(piece: str) -> None:
    text = piece * 100_000
    assert first_line(text) == first_line(text[:MAX_COMMAND_CHARS])
    assert not re.search("pause", first_line(text + "\npause"))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command.verb))
def test_the_page_about_commands_shows_each(command: ChatCommand) -> None:
    page = Path(__file__).parents[2].joinpath("docs", "commands.md").read_text()
    assert f"| `{command.names[0]}" in page
