"""The rules of preferences, and when the next digest comes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest

from notify.policy import Decision, decide
from shared.preferences.delivery_rules import evaluate, next_digest
from shared.preferences.preferences import FOREVER, Preferences
from shared.states import Rule
from shared.time.localtime import load_zone
from tests.notify.test_policy import CASES, POLICY_INPUT

#: The rules that preferences decide.
PREFERENCE_RULES = (Rule.OPTED_OUT, Rule.PAUSED, Rule.MUTED, Rule.QUIET_HOURS, Rule.DIGEST, Rule.SEND)


@pytest.mark.parametrize(("given", "decided"), CASES.values(), ids=CASES)
def test_policy_follows_the_rule_of_the_preferences(given: dict[str, Any], decided: Decision) -> None:
    case = replace(POLICY_INPUT, **given)
    rule, until = evaluate(
        case.preferences, case.category, case.thread, now=case.now, zone=case.zone, digest=case.default_digest
    )
    assert rule in PREFERENCE_RULES
    if decided.rule in PREFERENCE_RULES:
        assert (decide(case).rule, decide(case).until) == (rule, until)


@pytest.mark.parametrize(
    ("preferences", "last", "expected"),
    [
        ({}, None, "2026-11-24T08:00"),
        ({}, "2026-11-24", "2026-11-25T08:00"),
        ({"digest": "off"}, None, None),
        ({"stopped": True}, None, None),
        ({"paused_until": FOREVER}, None, None),
        ({"paused_until": datetime(2026, 11, 24, 12, tzinfo=UTC)}, None, "2026-11-24T12:00"),
        ({"quiet": "08:00-10:00"}, None, "2026-11-24T09:00"),
    ],
)
def test_next_digest_is_due_at_its_time_or_when_its_hold_ends(
    preferences: dict[str, Any], last: str | None, expected: str | None
) -> None:
    now, berlin = datetime(2026, 11, 23, 12, tzinfo=UTC), load_zone("Europe/Berlin")
    due = next_digest(
        Preferences(**preferences), "daily 09:00", now, berlin, date.fromisoformat(last) if last else None
    )
    assert due == (datetime.fromisoformat(expected).replace(tzinfo=UTC) if expected else None)
