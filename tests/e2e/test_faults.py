"""Delivery while Teams answers with every error that it documents: each answer leads to its documented state."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import orjson
import pytest

from local.fake_teams.api import PersonView, TeamsFault
from tests.e2e.conftest import Deployment, build_audience
from tests.support.herald import notification

#: Faults are assigned to people at random, but the same in every run.
SEED = 3


@dataclass(frozen=True)
class Outcome:
    """State and reason of a person's delivery, whether it may have been sent twice, and the messages received."""

    state: str
    reason: str
    maybe_twice: bool
    messages: int


#: The share of people affected by each temporary fault, and its variants, assigned in turn.
TEMPORARY_FAULTS: Sequence[tuple[float, Sequence[Mapping[str, Any]]]] = (
    (0.05, ({"status": 429, "retry_after": 1}, {"status": 429})),
    (0.02, ({"status": 412},)),
    (0.02, ({"status": 502, "shape": "html"},)),
    (0.02, ({"drop": True, "accept": True},)),
)
#: The share of people affected by each kind of 403. InvalidBotApiHost is left out: it redirects to a Teams host.
REFUSED_SHARE = 0.03
#: State and reason of a delivery after a 403, by the code and shape of the answer.
REFUSALS = {
    ("BotDisabledByAdmin", "error"): ("suppressed", "disabledByAdmin"),
    ("BotDisabledByAdmin", "nested"): ("suppressed", "disabledByAdmin"),
    ("BotNotInConversationRoster", "error"): ("suppressed", "notInstalled"),
    ("BotNotInConversationRoster", "nested"): ("suppressed", "blocked"),  # in this shape, both codes look the same
    ("ConversationBlockedByUser", "error"): ("suppressed", "blocked"),
    ("ConversationBlockedByUser", "nested"): ("suppressed", "blocked"),
    ("ForbiddenOperationException", "error"): ("suppressed", "notPersonalScope"),
    ("ForbiddenOperationException", "nested"): ("suppressed", "notPersonalScope"),
    ("NotEnoughPermissions", "error"): ("failed", "notPermitted"),
    ("NotEnoughPermissions", "nested"): ("failed", "notPermitted"),
}


def assign_faults(people: Sequence[PersonView]) -> Mapping[str, Sequence[TeamsFault]]:
    """Return the faults of each person's requests, in order; requests after the last fault succeed."""
    rng = random.Random(SEED)
    faults: dict[str, list[TeamsFault]] = defaultdict(list)

    def assign(share: float, variants: Iterable[Mapping[str, Any]]) -> None:
        chosen = rng.sample(people, math.ceil(share * len(people)))
        for person, variant in zip(chosen, cycle(variants)):
            faults[person.object_id].append(TeamsFault(operation="send", person=person.object_id, count=1, **variant))

    for share, variants in TEMPORARY_FAULTS:
        assign(share, variants)
    for own_faults in faults.values():
        rng.shuffle(own_faults)
    for code in dict.fromkeys(code for code, _ in REFUSALS):
        assign(REFUSED_SHARE, [{"status": 403, "code": code, "shape": shape} for shape in ("error", "nested")])
    return faults


def expect_outcome(faults: Sequence[TeamsFault]) -> Outcome:
    """Return the outcome of these faults, by "Status codes from bot conversational APIs" (Teams)."""
    maybe_twice, messages = False, 0
    for fault in faults:
        if fault.status == 403:
            return Outcome(*REFUSALS[str(fault.code), fault.shape], maybe_twice, messages)
        maybe_twice |= fault.drop or fault.status == 502
        messages += fault.accept
    return Outcome("sent", "", maybe_twice, messages + 1)


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=[pytest.mark.full, pytest.mark.timeout(700)])])
async def test_each_fault_leads_to_its_documented_state_and_only_unknown_outcomes_are_sent_again(
    deployment: Deployment, count: int
) -> None:
    deployment.start_hosts()
    people = await deployment.add_people(count)
    faults_by_person = assign_faults(people)
    await deployment.teams.inject(*(fault for faults in faults_by_person.values() for fault in faults))
    await deployment.put(notification(*build_audience(people)))
    [stored] = await deployment.wait_until_ended(within=count / 4 + 40)

    messages = Counter(message.person for message in await deployment.teams.received())
    rows = await deployment.read_deliveries()
    outcomes = {
        name: Outcome(row["state"], row["reason"], row.get("maybe_twice", False), messages[name.removeprefix("u:")])
        for name, row in rows.items()
    }
    assert outcomes == {
        f"u:{person.object_id}": expect_outcome(faults_by_person.get(person.object_id, ())) for person in people
    }
    counts = await deployment.check_counts()
    assert counts == Counter(outcome.state for outcome in outcomes.values())
    assert (stored["state"], stored["total"], orjson.loads(stored["counts"])) == ("finished", count, counts)
