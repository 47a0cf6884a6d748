"""Commands as people spell them in English and German, and what they mean."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from messages.commands.parser import ParsedCommand, Verb, parse_command
from shared.preferences.digest_schedule import DigestSchedule
from shared.preferences.pause import parse_pause
from shared.preferences.quiet_hours import QuietHours
from shared.time.localtime import load_zone
from shared.time.spellings import normalize

#: A Monday, 13:30 in Berlin.
NOW = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
BERLIN = load_zone("Europe/Berlin")

ENGLISH = {
    "help": "help",
    "?": "help",
    "settings": "preferences",
    "Preferences!": "preferences",
    "status": "status",
    "subscribe Releases": "subscribe Releases",
    "follow Releases": "subscribe Releases",
    "unfollow Releases": "unsubscribe Releases",
    "subscriptions": "topics",
    "pause": "pause forever",
    "pause 2h": "pause Mon 15:30",
    "pause 1 hour": "pause Mon 14:30",
    "pause an hour": "pause Mon 14:30",
    "pause for 30 minutes": "pause Mon 14:00",
    "pause half an hour": "pause Mon 14:00",
    "pause 45 mins": "pause Mon 14:15",
    "pause for 2 days": "pause Wed 13:30",
    "pause a week": "pause Mon 30 13:30",
    "pause until 2pm": "pause Mon 14:00",
    "pause until 2:30 p.m.": "pause Mon 14:30",
    "pause until 18": "pause Mon 18:00",
    "pause until noon": "pause Tue 12:00",
    "pause until tomorrow": "pause Tue 09:00",
    "pause till tomorrow at 8am": "pause Tue 08:00",
    "pause until today 6 pm": "pause Mon 18:00",
    "pause until Friday": "pause Fri 09:00",
    "pause until next monday": "pause Mon 30 09:00",
    "pause over the weekend": "pause Mon 30 09:00",
    "pause until next week": "pause Mon 30 09:00",
    "resume": "resume",
    "unpause": "resume",
    "quiet 6pm-8am": "quiet 18:00-08:00",
    "quiet 6 pm to 8 am": "quiet 18:00-08:00",
    "quiet from 18:00 until 8:00": "quiet 18:00-08:00",
    "quiet 18-8": "quiet 18:00-08:00",
    "quiet evenings": "quiet 18:00-08:00",
    "quiet hours 10pm - 7am": "quiet 22:00-07:00",
    "do not disturb at night": "quiet 22:00-07:00",
    "quiet weekends": "quiet sat,sun",
    "quiet on weekends": "quiet sat,sun",
    "quiet saturday and sunday": "quiet sat,sun",
    "quiet mon-fri 6pm-8am; weekends": "quiet mon-fri 18:00-08:00; sat,sun",
    "quiet Monday to Friday 18-8": "quiet mon-fri 18:00-08:00",
    "quiet weekdays 5:30pm-9am": "quiet mon-fri 17:30-09:00",
    "quiet 6p-8a": "quiet 18:00-08:00",
    "quiet 6-8pm": "quiet 18:00-20:00",
    "quiet 10am to 6pm": "quiet 10:00-18:00",
    "quiet 11 to 6pm": "quiet 11:00-18:00",
    "quiet 1800-0800": "quiet 18:00-08:00",
    "quiet 18：00 → 08：00": "quiet 18:00-08:00",
    "quiet 18:00:00 - 08:00:00": "quiet 18:00-08:00",
    "quiet 6pm-8am daily": "quiet 18:00-08:00",
    "quiet 6pm until 8am on weekdays": "quiet mon-fri 18:00-08:00",
    "quiet 6pm-8am (mon-fri)": "quiet mon-fri 18:00-08:00",
    "quiet Mon-Fri, 18:00-08:00": "quiet mon-fri 18:00-08:00",
    "quiet mon-fri 6pm-8am and weekends": "quiet mon-fri 18:00-08:00; sat,sun",
    "quiet off": "quiet off",
    "quiet never": "quiet off",
    "timezone berlin": "timezone Europe/Berlin",
    "time zone New York": "timezone America/New_York",
    "tz London": "timezone Europe/London",
    "timezone Pacific Standard Time": "timezone America/Los_Angeles",
    "timezone auto": "timezone auto",
    "digest daily 9am": "digest daily 09:00",
    "digest every day at 5 pm": "digest daily 17:00",
    "digest daily": "digest daily 09:00",
    "digest weekdays at 17": "digest weekdays 17:00",
    "digest every weekday 8:30": "digest weekdays 08:30",
    "digest mondays at 9": "digest weekly mon 09:00",
    "digest every friday 4pm": "digest weekly fri 16:00",
    "digest weekly tue 9:00": "digest weekly tue 09:00",
    "digest off": "digest off",
    "digest now": "digest now",
    "stop": "stop",
    "stop builds": "stop builds",
    "turn off builds": "stop builds",
    "start builds": "start builds",
    "turn on everything": "start everything",
}
GERMAN = {
    "hilfe": "help",
    "Einstellungen": "preferences",
    "status": "status",
    "abonnieren Releases": "subscribe Releases",
    "abonniere Releases": "subscribe Releases",
    "abbestellen Releases": "unsubscribe Releases",
    "themen": "topics",
    "pause": "pause forever",
    "pausieren": "pause forever",
    "pause 2h": "pause Mon 15:30",
    "pause 1 Stunde": "pause Mon 14:30",
    "pause eine Stunde": "pause Mon 14:30",
    "pause für 30 Minuten": "pause Mon 14:00",
    "pause eine halbe Stunde": "pause Mon 14:00",
    "pause 2 Std": "pause Mon 15:30",
    "pause 2 Tage": "pause Wed 13:30",
    "pause eine Woche": "pause Mon 30 13:30",
    "pause bis 14 Uhr": "pause Mon 14:00",
    "pause bis 14:30": "pause Mon 14:30",
    "pause bis 14.30 Uhr": "pause Mon 14:30",
    "pause bis mittag": "pause Tue 12:00",
    "pause bis heute 18 Uhr": "pause Mon 18:00",
    "pause bis morgen": "pause Tue 09:00",
    "pause bis morgen um 8 Uhr": "pause Tue 08:00",
    "pause bis montag": "pause Mon 30 09:00",
    "pausiere bis Freitag": "pause Fri 09:00",
    "pause bis fr": "pause Fri 09:00",
    "pause bis nächste Woche": "pause Mon 30 09:00",
    "pause übers Wochenende": "pause Mon 30 09:00",
    "weiter": "resume",
    "fortsetzen": "resume",
    "ruhe 18-8 Uhr": "quiet 18:00-08:00",
    "ruhe 18 bis 8 Uhr": "quiet 18:00-08:00",
    "ruhe von 18 Uhr bis 8 Uhr": "quiet 18:00-08:00",
    "ruhezeiten 18:00 – 8:00": "quiet 18:00-08:00",
    "ruhe zwischen 18 und 8 Uhr": "quiet 18:00-08:00",
    "ruhe abends": "quiet 18:00-08:00",
    "ruhe nachts": "quiet 22:00-07:00",
    "ruhe in der Nacht": "quiet 22:00-07:00",
    "ruhe am Wochenende": "quiet sat,sun",
    "ruhe Samstag und Sonntag": "quiet sat,sun",
    "ruhe sa,so": "quiet sat,sun",
    "ruhe Mo-Fr 18-8 Uhr": "quiet mon-fri 18:00-08:00",
    "ruhe mo bis fr 18 bis 8": "quiet mon-fri 18:00-08:00",
    "ruhe werktags 17.30-9.00; wochenende": "quiet mon-fri 17:30-09:00; sat,sun",
    "ruhe 18 Uhr 30 - 8 Uhr": "quiet 18:30-08:00",
    "ruhe 18-8 Uhr mo-fr": "quiet mon-fri 18:00-08:00",
    "ruhe werktags 18 bis 8 Uhr und am Wochenende": "quiet mon-fri 18:00-08:00; sat,sun",
    "ruhe aus": "quiet off",
    "ruhe nie": "quiet off",
    "zeitzone berlin": "timezone Europe/Berlin",
    "Zeitzone New York": "timezone America/New_York",
    "zeitzone auto": "timezone auto",
    "übersicht täglich 9 Uhr": "digest daily 09:00",
    "Übersicht jeden Tag um 17 Uhr": "digest daily 17:00",
    "übersicht täglich": "digest daily 09:00",
    "übersicht werktags 17 Uhr": "digest weekdays 17:00",
    "übersicht montags um 9": "digest weekly mon 09:00",
    "übersicht jeden Freitag 16 Uhr": "digest weekly fri 16:00",
    "übersicht wöchentlich di 9:00": "digest weekly tue 09:00",
    "übersicht aus": "digest off",
    "übersicht jetzt": "digest now",
    "stopp": "stop",
    "stop Builds": "stop Builds",
    "ausschalten Builds": "stop Builds",
    "einschalten Builds": "start Builds",
    "start": "start",
}


def meaning(text: str) -> str:
    """Return what a command means, with its argument as it is stored or, for a pause, when it ends in Berlin."""
    parsed = parse_command(text)
    assert isinstance(parsed, ParsedCommand), parsed
    verb, argument = parsed.command.verb, parsed.argument
    if verb is Verb.PAUSE:
        until = parse_pause(argument, NOW, BERLIN).astimezone(BERLIN) if argument else None
        week = "%a 30 %H:%M" if until and until.day == 30 else "%a %H:%M"
        return f"pause {until.strftime(week) if until else 'forever'}"
    if verb is Verb.QUIET:
        argument = str(QuietHours.parse(argument))
    elif verb is Verb.DIGEST:
        argument = "now" if normalize(argument) == "now" else str(DigestSchedule.parse(argument))
    elif verb is Verb.TIMEZONE and argument != "auto":
        argument = load_zone(argument).key
    return f"{verb} {argument}".rstrip()


@pytest.mark.parametrize("written", ENGLISH)
def test_english_spelling(written: str) -> None:
    assert meaning(written) == ENGLISH[written]


@pytest.mark.parametrize("written", GERMAN)
def test_german_spelling(written: str) -> None:
    assert meaning(written) == GERMAN[written]


def test_each_language_has_sixty_spellings() -> None:
    assert min(len(ENGLISH), len(GERMAN)) >= 60
