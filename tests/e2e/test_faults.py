"""Delivery while Teams answers with all that it documents: everybody ends where the answers lead, and once."""

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
from tests.e2e.conftest import Deployment, audience
from tests.support.herald import notification

#: Who meets what is by chance, but the same in every run.
SEED = 3


@dataclass(frozen=True)
class End:
    """What becomes of a person: state and reason of the row, whether it tells of a repeat, and messages received."""

    state: str
    reason: str
    maybe_twice: bool
    messages: int


#: The share of people whom a fault meets, and the forms that it takes in turn.
PASSING: Sequence[tuple[float, Sequence[Mapping[str, Any]]]] = (
    (0.05, ({"status": 429, "retry_after": 1}, {"status": 429})),
    (0.02, ({"status": 412},)),
    (0.02, ({"status": 502, "shape": "html"},)),
    (0.02, ({"drop": True, "accept": True},)),
)
#: The share of people whom each kind of 403 meets. InvalidBotApiHost is left out: it sends the bot to a host of Teams.
REFUSED = 0.03
#: The state and the reason to which each 403 leads, by its code and shape.
REFUSALS = {
    ("BotDisabledByAdmin", "error"): ("suppressed", "disabledByAdmin"),
    ("BotDisabledByAdmin", "nested"): ("suppressed", "disabledByAdmin"),
    ("BotNotInConversationRoster", "error"): ("suppressed", "notInstalled"),
    ("BotNotInConversationRoster", "nested"): ("suppressed", "blocked"),  # the shape does not tell these two apart
    ("ConversationBlockedByUser", "error"): ("suppressed", "blocked"),
    ("ConversationBlockedByUser", "nested"): ("suppressed", "blocked"),
    ("ForbiddenOperationException", "error"): ("suppressed", "notPersonalScope"),
    ("ForbiddenOperationException", "nested"): ("suppressed", "notPersonalScope"),
    ("NotEnoughPermissions", "error"): ("failed", "notPermitted"),
    ("NotEnoughPermissions", "nested"): ("failed", "notPermitted"),
}


def lots(people: Sequence[PersonView]) -> Mapping[str, Sequence[TeamsFault]]:
    """The faults that meet the requests for each person, one after the other; after the last one all goes well."""
    chance = random.Random(SEED)
    found: dict[str, list[TeamsFault]] = defaultdict(list)

    def meet(share: float, forms: Iterable[Mapping[str, Any]]) -> None:
        chosen = chance.sample(people, math.ceil(share * len(people)))
        for person, form in zip(chosen, cycle(forms)):
            found[person.object_id].append(TeamsFault(operation="send", person=person.object_id, count=1, **form))

    for share, forms in PASSING:
        meet(share, forms)
    for faults in found.values():
        chance.shuffle(faults)
    for code in dict.fromkeys(code for code, _ in REFUSALS):
        meet(REFUSED, [{"status": 403, "code": code, "shape": shape} for shape in ("error", "nested")])
    return found


def end(faults: Sequence[TeamsFault]) -> End:
    """Where these answers lead, by "Status codes from bot conversational APIs" (Teams)."""
    maybe_twice, messages = False, 0
    for fault in faults:
        if fault.status == 403:
            return End(*REFUSALS[str(fault.code), fault.shape], maybe_twice, messages)
        maybe_twice |= fault.drop or fault.status == 502
        messages += fault.accept
    return End("sent", "", maybe_twice, messages + 1)


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=[pytest.mark.full, pytest.mark.timeout(700)])])
async def test_everybody_ends_where_the_answers_lead_and_only_an_unknown_outcome_is_sent_again(
    deployment: Deployment, count: int
) -> None:
    deployment.start()
    people = await deployment.people(count)
    met = lots(people)
    await deployment.teams.inject(*(fault for faults in met.values() for fault in faults))
    await deployment.put(notification(*audience(people)))
    [stored] = await deployment.ended(within=count / 4 + 40)

    messages = Counter(message.person for message in await deployment.teams.received())
    rows = await deployment.deliveries()
    ends = {
        name: End(row["state"], row["reason"], row.get("maybe_twice", False), messages[name.removeprefix("u:")])
        for name, row in rows.items()
    }
    assert ends == {f"u:{person.object_id}": end(met.get(person.object_id, ())) for person in people}
    counts = await deployment.check_counts()
    assert counts == Counter(each.state for each in ends.values())
    assert (stored["state"], stored["total"], orjson.loads(stored["counts"])) == ("finished", count, counts)
