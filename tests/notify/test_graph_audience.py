"""Audiences that Graph lists: people by address, groups, and everyone in the organisation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from notify.audience import MAX_RESTARTS
from shared.states import Reason
from shared.teams.graph_answers import Account, Page
from shared.teams.outcome import Outcome, Verdict
from tests.support.herald import Herald, user

GROUP = "3f8a1c55-7d2e-4b16-9c40-5e6f7a8b9c0d"
EXPIRED = Outcome(Verdict.RETRY, Reason.LIST_EXPIRED)


def person(object_id: str, *, enabled: bool = True) -> Account:
    return Account(object_id, enabled, guest=False)


class Pages:
    """Pages of a list by cursor, and the cursors that were asked for."""

    def __init__(self, **pages: Page | Outcome) -> None:
        self.pages, self.asked = pages, list[str]()

    async def __call__(self, _tenant: str, *arguments: str) -> Page | Outcome:
        self.asked.append(arguments[-1])
        return self.pages[arguments[-1] or "first"]


async def row_states(herald: Herald, notification: Any) -> dict[str, tuple[str, str]]:
    return {
        row["RowKey"]: (row["state"], row["reason"])
        for row in [
            dict(row) async for row in herald.outside_tables.get_table_client("HeraldDeliveries").list_entities()
        ]
        if row["PartitionKey"].startswith(notification.key) and row["RowKey"] != "~counts"
    }


async def test_members_of_a_group_are_listed_page_by_page(timed: Herald, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person in two audiences gets one delivery; accounts that get none are counted by reason."""
    people = (await timed.grow(people=4)).people
    await timed.store_people(4)
    ids = [each.object_id for each in people]
    pages = Pages(
        first=Page([person(ids[0]), person(ids[1])], {Reason.ACCOUNT_DISABLED: 1}, "next"),
        next=Page([person(ids[2])], {Reason.ACCOUNT_DISABLED: 2, Reason.NOT_READABLE: 1}, ""),
    )
    monkeypatch.setattr(timed.services.graph, "group_members", pages)
    notification = await timed.submit({"group": GROUP.upper()}, user(people[0]))
    await timed.handle_messages()
    assert pages.asked == ["", "next"]
    states = await row_states(timed, notification)
    assert states == {f"u:{each}": ("sent", "") for each in ids[:3]}
    stored = await timed.reload(notification)
    assert json.loads(stored.left_out) == {"accountDisabled": 3, "notReadable": 1}
    assert stored.total == 3


async def test_everyone_in_the_organisation_is_listed(timed: Herald, monkeypatch: pytest.MonkeyPatch) -> None:
    people = (await timed.grow(people=2)).people
    await timed.store_people(2)
    pages = Pages(first=Page([person(each.object_id) for each in people], {Reason.GUEST: 5}, ""))
    monkeypatch.setattr(timed.services.graph, "organisation_members", pages)
    notification = await timed.submit({"all": True, "of": "tenant"})
    await timed.handle_messages()
    assert len(await timed.received()) == 2
    assert json.loads((await timed.reload(notification)).left_out) == {"guest": 5}


async def test_list_whose_cursor_has_expired_is_listed_anew(timed: Herald, monkeypatch: pytest.MonkeyPatch) -> None:
    [ada] = (await timed.grow(people=1)).people
    await timed.store_people(1)
    pages = Pages(first=Page([person(ada.object_id)], {}, "next"), next=EXPIRED)
    monkeypatch.setattr(timed.services.graph, "group_members", pages)
    await timed.submit({"group": GROUP})
    await timed.handle_messages()
    assert pages.asked == ["", "next"] * (MAX_RESTARTS + 1)
    assert len(await timed.received()) == 1


@pytest.mark.parametrize("reason", [Reason.GRAPH_PERMISSION_MISSING, Reason.UNKNOWN_GROUP])
async def test_refused_list_ends_in_its_own_reason(
    timed: Herald, monkeypatch: pytest.MonkeyPatch, reason: Reason
) -> None:
    monkeypatch.setattr(timed.services.graph, "group_members", Pages(first=Outcome(Verdict.FAILED, reason)))
    notification = await timed.submit({"group": GROUP})
    await timed.handle_messages()
    assert await row_states(timed, notification) == {f"t:{reason}:{GROUP}": ("suppressed", reason)}


async def test_list_that_graph_does_not_answer_is_tried_again(timed: Herald, monkeypatch: pytest.MonkeyPatch) -> None:
    [ada] = (await timed.grow(people=1)).people
    await timed.store_people(1)
    answers: Sequence[Page | Outcome] = (
        Outcome(Verdict.RETRY, Reason.THROTTLED, 7.5),
        Page([person(ada.object_id)], {}, ""),
    )
    pages = iter(answers)

    async def list_members(*_: str) -> Page | Outcome:
        return next(pages)

    monkeypatch.setattr(timed.services.graph, "group_members", list_members)
    await timed.submit({"group": GROUP})
    await timed.run_until_idle()
    assert len(await timed.received()) == 1


async def test_people_are_found_by_their_address(timed: Herald, monkeypatch: pytest.MonkeyPatch) -> None:
    ada, ben = (await timed.grow(people=2)).people
    await timed.store_people(2)
    found: dict[str, Account | Outcome] = {
        "ada@example.com": person(ada.object_id),
        "old@example.com": person(ben.object_id, enabled=False),
        "who@example.com": Outcome(Verdict.SUPPRESSED, Reason.UNKNOWN_PERSON),
    }
    asked = []

    async def find(_: str, names: Sequence[str]) -> dict[str, Account | Outcome]:
        asked.append(list(names))
        return {name: found[name] for name in names}

    monkeypatch.setattr(timed.services.graph, "people", find)
    addresses = ("Ada@Example.com", "old@example.com", "who@example.com")
    notification = await timed.submit(user(ada), *({"user": address} for address in addresses))
    await timed.handle_messages()
    assert asked == [["ada@example.com", "old@example.com", "who@example.com"]]
    assert await row_states(timed, notification) == {
        f"u:{ada.object_id}": ("sent", ""),
        "t:accountDisabled:old@example.com": ("suppressed", "accountDisabled"),
        "t:unknownPerson:who@example.com": ("suppressed", "unknownPerson"),
    }
