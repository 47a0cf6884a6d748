"""Policy: each rule that decides on a delivery, and the order of the rules."""

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
LATER, EARLIER = NOW + timedelta(hours=1), NOW - timedelta(seconds=1)
QUIET = Preferences(quiet="11:00-13:00")
POLICY_INPUT = PolicyInput(
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


def end(rule: Rule, state: DeliveryState, reason: Reason | None = None) -> Decision:
    return Decision(rule, state, reason)


def hold(rule: Rule, reason: Reason, until: datetime) -> Decision:
    return Decision(rule, None, reason, until)


def preferences(**values: Any) -> dict[str, Any]:
    return {"preferences": Preferences(**values)}


SENT = Decision(Rule.SEND)
OPTED_OUT = end(Rule.OPTED_OUT, DeliveryState.SUPPRESSED, Reason.OPTED_OUT)
OWN_ACTION = end(Rule.OWN_ACTION, DeliveryState.SUPPRESSED, Reason.OWN_ACTION)

CASES: dict[str, tuple[dict[str, Any], Decision]] = {
    "no rule applies": ({}, SENT),
    "cancelled": ({"is_cancelled": True}, end(Rule.CANCELLED, DeliveryState.CANCELLED)),
    "expired": ({"expires": EARLIER}, end(Rule.EXPIRED, DeliveryState.EXPIRED)),
    "expires now": ({"expires": NOW}, end(Rule.EXPIRED, DeliveryState.EXPIRED)),
    "expires later": ({"expires": LATER}, SENT),
    "local time is later": ({"local_at": LATER}, hold(Rule.LOCAL_TIME, Reason.LOCAL_TIME, LATER)),
    "local time is now": ({"local_at": NOW}, SENT),
    "blocked": (
        {"target": Reason.BLOCKED}, end(Rule.UNREACHABLE, DeliveryState.SUPPRESSED, Reason.BLOCKED),
    ),
    "already welcomed": ({"is_welcomed": True}, end(Rule.WELCOMED, DeliveryState.SUPPRESSED, Reason.WELCOMED)),
    "own action": ({"is_own_action": True}, OWN_ACTION),
    "own action, with own_actions on": ({"is_own_action": True, **preferences(own_actions=True)}, SENT),
    "opted out": (preferences(categories={"builds": Mode.OFF}), OPTED_OUT),
    "opted out of another category": (preferences(categories={"news": Mode.OFF}), SENT),
    "off by default": (preferences(default=Mode.OFF), OPTED_OUT),
    "off by default, but not this": (preferences(default=Mode.OFF, categories={"builds": Mode.IMMEDIATE}), SENT),
    "stopped": (preferences(stopped=True, categories={"builds": Mode.IMMEDIATE}), OPTED_OUT),
    "category off by default": ({"category": Category(name="builds", default=Mode.OFF)}, OPTED_OUT),
    "category off by default, chosen": (
        {"category": Category(name="builds", default=Mode.OFF), **preferences(categories={"builds": Mode.IMMEDIATE})},
        SENT,
    ),
    "mandatory and off": ({"category": MANDATORY, **preferences(categories={"security": Mode.OFF})}, SENT),
    "mandatory and stopped": ({"category": MANDATORY, **preferences(stopped=True)}, SENT),
    "mandatory and paused": ({"category": MANDATORY, **preferences(paused_until=LATER)}, SENT),
    "paused": (preferences(paused_until=LATER), hold(Rule.PAUSED, Reason.PAUSED, LATER)),
    "paused forever": (preferences(paused_until=FOREVER), hold(Rule.PAUSED, Reason.PAUSED, FOREVER)),
    "pause has ended": (preferences(paused_until=NOW), SENT),
    "muted": (
        {"preferences": Preferences().mute("build/42", LATER, NOW)}, hold(Rule.MUTED, Reason.MUTED, LATER),
    ),
    "another thread muted": ({"preferences": Preferences().mute("build/43", LATER, NOW)}, SENT),
    "muted, without a thread": ({"thread": "", "preferences": Preferences().mute("build/42", LATER, NOW)}, SENT),
    "quiet hours": ({"preferences": QUIET}, hold(Rule.QUIET_HOURS, Reason.QUIET_HOURS, LATER)),
    "quiet hours in another zone": ({"preferences": QUIET, "zone": load_zone("Asia/Tokyo")}, SENT),
    "category bypasses quiet hours": ({"preferences": QUIET, "category": LOUD}, SENT),
    "mandatory in quiet hours": (
        {"preferences": QUIET, "category": MANDATORY}, hold(Rule.QUIET_HOURS, Reason.QUIET_HOURS, LATER),
    ),
    "digest": ({"category": IN_DIGEST}, hold(Rule.DIGEST, Reason.DIGEST, TOMORROW_AT_9)),
    "digest at the recipient's own time": (
        preferences(categories={"builds": Mode.DIGEST}, digest="daily 12:30"),
        hold(Rule.DIGEST, Reason.DIGEST, NOW + timedelta(minutes=30)),
    ),
    "digest, with digests off": (preferences(categories={"builds": Mode.DIGEST}, digest="off"), SENT),
    "reply after a stop": ({"purpose": Purpose.REPLY, **preferences(stopped=True)}, Decision(Rule.ASKED)),
    "digest is sent": ({"purpose": Purpose.DIGEST}, Decision(Rule.ASKED)),
    "digest is sent after a stop": (
        {"purpose": Purpose.DIGEST, "preferences": Preferences(stopped=True)},
        Decision(Rule.OPTED_OUT, DeliveryState.SUPPRESSED, Reason.OPTED_OUT),
    ),
    "digest is sent in a pause": (
        {"purpose": Purpose.DIGEST, **preferences(paused_until=FOREVER)},
        hold(Rule.PAUSED, Reason.PAUSED, FOREVER),
    ),
    "digest is sent in quiet hours": (
        {"purpose": Purpose.DIGEST, "preferences": QUIET},
        hold(Rule.QUIET_HOURS, Reason.QUIET_HOURS, LATER),
    ),
    "digest now after a stop": (
        {"purpose": Purpose.DIGEST_NOW, "preferences": Preferences(stopped=True)},
        Decision(Rule.OPTED_OUT, DeliveryState.SUPPRESSED, Reason.OPTED_OUT),
    ),
    "digest now in quiet hours": ({"purpose": Purpose.DIGEST_NOW, "preferences": QUIET}, Decision(Rule.ASKED)),
    "snoozed into quiet hours": ({"purpose": Purpose.SNOOZE, "preferences": QUIET}, Decision(Rule.ASKED)),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), CASES.values(), ids=CASES)
def test_decision(changes: dict[str, Any], expected: Decision) -> None:
    assert decide(replace(POLICY_INPUT, **changes)) == expected


#: Changes that make each rule apply, in the order of the rules.
IN_ORDER: dict[Rule, dict[str, Any]] = {
    Rule.CANCELLED: {"is_cancelled": True},
    Rule.EXPIRED: {"expires": EARLIER},
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


def test_the_earlier_of_two_rules_decides() -> None:
    preference_fields = Preferences.__dataclass_fields__
    rules = list(IN_ORDER)
    for position, first in enumerate(rules):
        for second in rules[position:]:
            changes = IN_ORDER[second] | IN_ORDER[first]
            input_changes = {name: value for name, value in changes.items() if name not in preference_fields}
            preference_changes = {name: value for name, value in changes.items() if name in preference_fields}
            policy_input = replace(POLICY_INPUT, preferences=Preferences(**preference_changes), **input_changes)
            assert decide(policy_input).rule is first, (first, second)


@pytest.mark.parametrize("purpose", [Purpose.REPLY, Purpose.SNOOZE, Purpose.EXEMPT_DIGEST])
def test_requested_message_ignores_preferences_only(purpose: Purpose) -> None:
    rules_that_still_apply = (Rule.CANCELLED, Rule.EXPIRED, Rule.LOCAL_TIME, Rule.UNREACHABLE)
    for rule, changes in IN_ORDER.items():
        is_preference = not set(changes) <= set(PolicyInput.__dataclass_fields__)
        policy_input = POLICY_INPUT if is_preference else replace(POLICY_INPUT, **changes)
        preference_changes = {
            name: value for name, value in changes.items() if name in Preferences.__dataclass_fields__
        }
        policy_input = replace(policy_input, purpose=purpose, preferences=Preferences(**preference_changes))
        assert decide(policy_input).rule is (rule if rule in rules_that_still_apply else Rule.ASKED)


#: Zone, quiet hours, an instant within them, and their end (UTC), in unusual zones and at clock changes.
QUIET_CASES = {
    "at +14, already tomorrow": ("Pacific/Kiritimati", "mon 22:00-06:00", "2026-11-23T09:00", "2026-11-23T16:00"),
    "at -11, still yesterday": ("Pacific/Pago_Pago", "sun 22:00-06:00", "2026-11-23T10:00", "2026-11-23T17:00"),
    "over midnight": ("Europe/Berlin", "18:00-08:00", "2026-11-23T23:30", "2026-11-24T07:00"),
    "shorter night when clocks go forward": (
        "Europe/Berlin", "22:00-07:00", "2027-03-27T21:30", "2027-03-28T05:00",
    ),
    "longer night when clocks go back": ("Europe/Berlin", "22:00-07:00", "2026-10-24T20:30", "2026-10-25T06:00"),
    "end in the skipped hour is the first instant after it": (
        "Europe/Berlin", "22:00-02:30", "2027-03-27T22:00", "2027-03-28T01:00",
    ),
    "a weekend": ("America/New_York", "sat,sun", "2026-11-21T12:00", "2026-11-23T05:00"),
    "Friday evening joins the weekend": (
        "Europe/Berlin", "mon-fri 18:00-08:00; sat,sun", "2026-11-20T18:00", "2026-11-23T07:00",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("zone", "quiet", "at", "until"), QUIET_CASES.values(), ids=QUIET_CASES)
def test_quiet_hours_follow_the_recipients_clock(zone: str, quiet: str, at: str, until: str) -> None:
    now, quiet_end = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (at, until))
    policy_input = replace(POLICY_INPUT, now=now, zone=load_zone(zone), preferences=Preferences(quiet=quiet))
    assert decide(policy_input) == hold(Rule.QUIET_HOURS, Reason.QUIET_HOURS, quiet_end)
    assert decide(replace(policy_input, now=quiet_end)) == SENT
