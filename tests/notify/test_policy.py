"""What decides about a delivery at the moment of sending: each rule, and which comes before which."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from notify.policy import Decision, PolicyInput, Target, decide
from shared.preferences.categories import Category
from shared.preferences.preferences import FOREVER, Preferences
from shared.states import DeliveryState, Mode, Purpose, Reason, ReferenceKind, Rule
from shared.time.localtime import load_zone

#: A Monday, 12:00 in Berlin.
NOW = datetime(2026, 11, 23, 11, tzinfo=UTC)
LATER, BEFORE = NOW + timedelta(hours=1), NOW - timedelta(seconds=1)
QUIET = Preferences(quiet="11:00-13:00")
CASE = PolicyInput(
    now=NOW,
    target=Target(ReferenceKind.USER, "ada", "https://smba.trafficmanager.net/emea/", "a:1"),
    category=Category(name="builds"),
    zone=load_zone("Europe/Berlin"),
    default_digest="daily 09:00",
    thread="build/42",
)
MANDATORY = Category(name="security", mandatory=True)
LOUD = Category.model_validate({"name": "pager", "bypassesQuietHours": True})
IN_DIGEST = Category(name="news", default=Mode.DIGEST)
TOMORROW_AT_9 = datetime(2026, 11, 24, 8, tzinfo=UTC)


def ends(rule: Rule, state: DeliveryState, reason: Reason | None = None) -> Decision:
    return Decision(rule, state, reason)


def waits(rule: Rule, reason: Reason, until: datetime) -> Decision:
    return Decision(rule, None, reason, until)


def preferences(**given: Any) -> dict[str, Any]:
    return {"preferences": Preferences(**given)}


SENT = Decision(Rule.SEND)
OPTED_OUT = ends(Rule.OPTED_OUT, DeliveryState.SUPPRESSED, Reason.OPTED_OUT)
OWN = ends(Rule.OWN_ACTION, DeliveryState.SUPPRESSED, Reason.OWN_ACTION)

CASES: dict[str, tuple[dict[str, Any], Decision]] = {
    "nothing stands against it": ({}, SENT),
    "called off": ({"is_cancelled": True}, ends(Rule.CANCELLED, DeliveryState.CANCELLED)),
    "expired": ({"expires": BEFORE}, ends(Rule.EXPIRED, DeliveryState.EXPIRED)),
    "expires this moment": ({"expires": NOW}, ends(Rule.EXPIRED, DeliveryState.EXPIRED)),
    "expires later": ({"expires": LATER}, SENT),
    "not its time there yet": ({"local_at": LATER}, waits(Rule.LOCAL_TIME, Reason.LOCAL_TIME, LATER)),
    "its time there": ({"local_at": NOW}, SENT),
    "blocked": (
        {"target": Reason.BLOCKED}, ends(Rule.UNREACHABLE, DeliveryState.SUPPRESSED, Reason.BLOCKED),
    ),
    "welcomed before": ({"is_welcomed": True}, ends(Rule.WELCOMED, DeliveryState.SUPPRESSED, Reason.WELCOMED)),
    "set it off": ({"is_own_action": True}, OWN),
    "set it off, and wants to hear of it": ({"is_own_action": True, **preferences(own_actions=True)}, SENT),
    "opted out": (preferences(categories={"builds": Mode.OFF}), OPTED_OUT),
    "opted out of another": (preferences(categories={"news": Mode.OFF}), SENT),
    "off by default": (preferences(default=Mode.OFF), OPTED_OUT),
    "off by default, but not this": (preferences(default=Mode.OFF, categories={"builds": Mode.IMMEDIATE}), SENT),
    "stopped": (preferences(stopped=True, categories={"builds": Mode.IMMEDIATE}), OPTED_OUT),
    "declared off": ({"category": Category(name="builds", default=Mode.OFF)}, OPTED_OUT),
    "declared off, chosen": (
        {"category": Category(name="builds", default=Mode.OFF), **preferences(categories={"builds": Mode.IMMEDIATE})},
        SENT,
    ),
    "mandatory and off": ({"category": MANDATORY, **preferences(categories={"security": Mode.OFF})}, SENT),
    "mandatory and stopped": ({"category": MANDATORY, **preferences(stopped=True)}, SENT),
    "mandatory and paused": ({"category": MANDATORY, **preferences(paused_until=LATER)}, SENT),
    "paused": (preferences(paused_until=LATER), waits(Rule.PAUSED, Reason.PAUSED, LATER)),
    "paused for good": (preferences(paused_until=FOREVER), waits(Rule.PAUSED, Reason.PAUSED, FOREVER)),
    "the pause is over": (preferences(paused_until=NOW), SENT),
    "muted": (
        {"preferences": Preferences().mute("build/42", LATER, NOW)}, waits(Rule.MUTED, Reason.MUTED, LATER),
    ),
    "another thread is muted": ({"preferences": Preferences().mute("build/43", LATER, NOW)}, SENT),
    "no thread": ({"thread": "", "preferences": Preferences().mute("build/42", LATER, NOW)}, SENT),
    "quiet": ({"preferences": QUIET}, waits(Rule.QUIET_HOURS, Reason.QUIET_HOURS, LATER)),
    "quiet elsewhere": ({"preferences": QUIET, "zone": load_zone("Asia/Tokyo")}, SENT),
    "quiet, which it bypasses": ({"preferences": QUIET, "category": LOUD}, SENT),
    "mandatory and quiet": (
        {"preferences": QUIET, "category": MANDATORY}, waits(Rule.QUIET_HOURS, Reason.QUIET_HOURS, LATER),
    ),
    "in the digest": ({"category": IN_DIGEST}, waits(Rule.DIGEST, Reason.DIGEST, TOMORROW_AT_9)),
    "in the digest, at a time of one's own": (
        preferences(categories={"builds": Mode.DIGEST}, digest="daily 12:30"),
        waits(Rule.DIGEST, Reason.DIGEST, NOW + timedelta(minutes=30)),
    ),
    "in the digest, without digests": (preferences(categories={"builds": Mode.DIGEST}, digest="off"), SENT),
    "an answer to who stopped": ({"purpose": Purpose.REPLY, **preferences(stopped=True)}, Decision(Rule.ASKED)),
    "a digest": ({"purpose": Purpose.DIGEST}, Decision(Rule.ASKED)),
    "a digest after a stop": (
        {"purpose": Purpose.DIGEST, "preferences": Preferences(stopped=True)},
        Decision(Rule.OPTED_OUT, DeliveryState.SUPPRESSED, Reason.OPTED_OUT),
    ),
    "a digest in a pause": (
        {"purpose": Purpose.DIGEST, **preferences(paused_until=FOREVER)},
        waits(Rule.PAUSED, Reason.PAUSED, FOREVER),
    ),
    "a digest in quiet hours": (
        {"purpose": Purpose.DIGEST, "preferences": QUIET},
        waits(Rule.QUIET_HOURS, Reason.QUIET_HOURS, LATER),
    ),
    "digest now in quiet hours": ({"purpose": Purpose.DIGEST_NOW, "preferences": QUIET}, Decision(Rule.ASKED)),
    "snoozed until the quiet hours": ({"purpose": Purpose.SNOOZE, "preferences": QUIET}, Decision(Rule.ASKED)),
}  # fmt: skip


@pytest.mark.parametrize(("given", "decided"), CASES.values(), ids=CASES)
def test_a_case_is_decided(given: dict[str, Any], decided: Decision) -> None:
    assert decide(replace(CASE, **given)) == decided


#: What makes each rule have something to say, in the order in which they are asked.
IN_ORDER: dict[Rule, dict[str, Any]] = {
    Rule.CANCELLED: {"is_cancelled": True},
    Rule.EXPIRED: {"expires": BEFORE},
    Rule.LOCAL_TIME: {"local_at": LATER},
    Rule.UNREACHABLE: {"target": Reason.NOT_INSTALLED},
    Rule.WELCOMED: {"is_welcomed": True},
    Rule.OWN_ACTION: {"is_own_action": True},
    Rule.OPTED_OUT: {"categories": {"builds": Mode.OFF}},
    Rule.PAUSED: {"paused_until": LATER},
    Rule.MUTED: {"mutes": Preferences().mute("build/42", LATER, NOW).mutes},
    Rule.QUIET_HOURS: {"quiet": "11:00-13:00"},
    Rule.DIGEST: {"default": Mode.DIGEST},
}


def test_of_two_rules_the_earlier_one_decides() -> None:
    wishes = Preferences.__dataclass_fields__
    rules = list(IN_ORDER)
    for place, first in enumerate(rules):
        for second in rules[place:]:
            given = IN_ORDER[second] | IN_ORDER[first]
            of_case = {name: value for name, value in given.items() if name not in wishes}
            of_person = {name: value for name, value in given.items() if name in wishes}
            case = replace(CASE, preferences=Preferences(**of_person), **of_case)
            assert decide(case).rule is first, (first, second)


@pytest.mark.parametrize("purpose", [Purpose.REPLY, Purpose.SNOOZE, Purpose.DIGEST_NOW])
def test_what_somebody_asked_for_passes_their_wishes_and_nothing_else(purpose: Purpose) -> None:
    is_current = (Rule.CANCELLED, Rule.EXPIRED, Rule.LOCAL_TIME, Rule.UNREACHABLE)
    for rule, given in IN_ORDER.items():
        case = CASE if not set(given) <= set(PolicyInput.__dataclass_fields__) else replace(CASE, **given)
        wishes = {name: value for name, value in given.items() if name in Preferences.__dataclass_fields__}
        case = replace(case, purpose=purpose, preferences=Preferences(**wishes))
        assert decide(case).rule is (rule if rule in is_current else Rule.ASKED)


#: Local times in unusual zones, and over changes of the clocks: whether it is quiet, and until when (UTC).
QUIET_CASES = {
    "at +14, already tomorrow": ("Pacific/Kiritimati", "mon 22:00-06:00", "2026-11-23T09:00", "2026-11-23T16:00"),
    "at -11, still yesterday": ("Pacific/Pago_Pago", "sun 22:00-06:00", "2026-11-23T10:00", "2026-11-23T17:00"),
    "over midnight": ("Europe/Berlin", "18:00-08:00", "2026-11-23T23:30", "2026-11-24T07:00"),
    "the night the clocks go forward is shorter": (
        "Europe/Berlin", "22:00-07:00", "2027-03-27T21:30", "2027-03-28T05:00",
    ),
    "the night they go back is longer": ("Europe/Berlin", "22:00-07:00", "2026-10-24T20:30", "2026-10-25T06:00"),
    "an end that is skipped is the first instant after": (
        "Europe/Berlin", "22:00-02:30", "2027-03-27T22:00", "2027-03-28T01:00",
    ),
    "a weekend": ("America/New_York", "sat,sun", "2026-11-21T12:00", "2026-11-23T05:00"),
    "Friday evening, the weekend adjoins": (
        "Europe/Berlin", "mon-fri 18:00-08:00; sat,sun", "2026-11-20T18:00", "2026-11-22T23:00",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("place", "quiet", "at", "until"), QUIET_CASES.values(), ids=QUIET_CASES)
def test_quiet_hours_are_those_of_the_recipients_clock(place: str, quiet: str, at: str, until: str) -> None:
    now, end = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (at, until))
    case = replace(CASE, now=now, zone=load_zone(place), preferences=Preferences(quiet=quiet))
    assert decide(case) == waits(Rule.QUIET_HOURS, Reason.QUIET_HOURS, end)
    assert decide(replace(case, now=end)) == SENT
