"""A digest and a single delivery hold by the same wishes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from notify.policy import Decision, decide
from shared.states import Rule
from shared.wishes import wish
from tests.notify.test_policy import CASE, CASES

#: The rules that wishes make.
OF_WISHES = (Rule.OPTED_OUT, Rule.PAUSED, Rule.MUTED, Rule.QUIET_HOURS, Rule.DIGEST, Rule.SEND)


@pytest.mark.parametrize(("given", "decided"), CASES.values(), ids=CASES)
def test_what_a_wish_decides_policy_decides(given: dict[str, Any], decided: Decision) -> None:
    case = replace(CASE, **given)
    rule, until = wish(case.preferences, case.category, case.thread, now=case.now, place=case.zone, digest=case.digest)
    assert rule in OF_WISHES
    if decided.rule in OF_WISHES:
        assert (decide(case).rule, decide(case).until) == (rule, until)
