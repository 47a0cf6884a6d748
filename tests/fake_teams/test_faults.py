from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
import orjson
import pytest
from pydantic import ValidationError

from local.fake_teams.api import Growth, TeamsFault
from local.fake_teams.client import ControlError, FakeTeams
from local.fake_teams.fault_injector import FaultInjector, is_in_share
from tests.fake_teams.conftest import Bot, activities, fetch_token, message


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (TeamsFault(status=400), "Bad Argument"),
        (TeamsFault(status=401), "BotNotRegistered"),
        *[
            (TeamsFault(status=403, code=code), code)
            for code in (
                "BotDisabledByAdmin",
                "BotNotInConversationRoster",
                "ConversationBlockedByUser",
                "ForbiddenOperationException",
                "InvalidBotApiHost",
                "NotEnoughPermissions",
            )
        ],
        (TeamsFault(status=404), "ConversationNotFound"),
        (TeamsFault(status=404, code="ActivityNotFoundInConversation"), "ActivityNotFoundInConversation"),
        (TeamsFault(status=412), "PreconditionFailed"),
        (TeamsFault(status=413), "MessageSizeTooBig"),
        (TeamsFault(status=429), "Throttled"),
        (TeamsFault(status=500), "ServiceError"),
        (TeamsFault(status=502), "ServiceError"),
        (TeamsFault(status=503), "ServiceUnavailable"),
        (TeamsFault(status=504), "GatewayTimeout"),
    ],
)
async def test_fault_returns_the_status_and_code_of_teams(
    teams: FakeTeams, bot: Bot, fault: TeamsFault, code: str
) -> None:
    await teams.inject(fault)
    reply = await bot.send((await teams.world()).people[0].conversation)
    assert (reply.status, reply.code) == (fault.status, code)
    assert reply.body["error"]["message"]
    assert "Retry-After" not in reply.headers
    assert await teams.received() == []


@pytest.mark.parametrize(
    ("code", "sub_code"),
    [("ConversationBlockedByUser", "MessageWritesBlocked"), ("BotDisabledByAdmin", "BotDisabledByAdmin")],
)
async def test_403_can_have_the_nested_error_format(teams: FakeTeams, bot: Bot, code: str, sub_code: str) -> None:
    await teams.inject(TeamsFault(status=403, code=code, shape="nested"))
    reply = await bot.send((await teams.world()).people[0].conversation)
    assert (reply.status, reply.body["errorCode"]) == (403, 209)
    assert orjson.loads(reply.body["message"])["subCode"] == sub_code


async def test_502_can_have_html_and_503_an_empty_body(teams: FakeTeams, bot: Bot) -> None:
    await teams.inject(TeamsFault(status=502, shape="html", count=1), TeamsFault(status=503, shape="empty"))
    conversation = (await teams.world()).people[0].conversation
    first, second = await bot.send(conversation), await bot.send(conversation)
    assert (first.status, first.headers["Content-Type"].split(";")[0]) == (502, "text/html")
    assert "502 Bad Gateway" in first.body
    assert (second.status, second.body) == (503, "")


@pytest.mark.parametrize("value", [7, "Wed, 21 Oct 2099 07:28:00 GMT", "soon"])
async def test_fault_sends_its_retry_after(teams: FakeTeams, bot: Bot, value: int | str) -> None:
    await teams.inject(TeamsFault(status=429, retry_after=value))
    reply = await bot.send((await teams.world()).people[0].conversation)
    assert reply.headers["Retry-After"] == str(value)


async def test_drop_before_acceptance_stores_no_message(teams: FakeTeams, bot: Bot) -> None:
    await teams.inject(TeamsFault(drop=True, count=1))
    conversation = (await teams.world()).people[0].conversation
    with pytest.raises(aiohttp.ClientError):
        await bot.send(conversation)
    assert await teams.received() == []
    assert (await bot.send(conversation)).status == 201
    assert (await teams.stats()).requests["send"] == {"dropped": 1, "201": 1}


async def test_drop_after_acceptance_stores_the_message(teams: FakeTeams, bot: Bot) -> None:
    await teams.inject(TeamsFault(drop=True, accept=True))
    with pytest.raises(aiohttp.ClientError):
        await bot.send((await teams.world()).people[0].conversation)
    assert [each.activity["text"] for each in await teams.received()] == ["hello"]


async def test_status_after_acceptance_stores_the_message(teams: FakeTeams, bot: Bot) -> None:
    await teams.inject(TeamsFault(status=504, accept=True))
    assert (await bot.send((await teams.world()).people[0].conversation)).status == 504
    assert len(await teams.received()) == 1


async def test_delay_is_before_or_after_acceptance(teams: FakeTeams, bot: Bot) -> None:
    conversation = (await teams.world()).people[0].conversation
    await teams.inject(TeamsFault(delay=0.3, count=1), TeamsFault(delay=0.3, accept=True, count=1))
    times = [time.monotonic()]
    for _ in range(2):
        assert (await bot.send(conversation)).status == 201
        times.append(time.monotonic())
    late, early = await teams.received()
    assert late.monotonic - times[0] >= 0.3
    assert times[2] - early.monotonic >= 0.3


async def test_fault_applies_only_to_matching_requests(teams: FakeTeams, bot: Bot) -> None:
    first, second = (await teams.world()).people[:2]
    chat = (await teams.world()).chats[0].id
    await teams.inject(
        TeamsFault(status=403, code="ConversationBlockedByUser", person=first.object_id),
        TeamsFault(status=404, conversation=chat, operation="send"),
        TeamsFault(status=503, operation="delete"),
        TeamsFault(status=500, tenant="another"),
    )
    assert (await bot.send(first.conversation)).status == 403
    assert (await bot.create(first.object_id)).status == 403
    sent = await bot.send(second.conversation)
    assert sent.status == 201
    assert (await bot.send(chat)).status == 404
    assert (await bot.call("POST", activities(chat, "1"), message("x"))).status == 201
    assert (await bot.call("DELETE", activities(second.conversation, sent.body["id"]))).status == 503


def test_fault_applies_for_its_count_within_its_time() -> None:
    injector = FaultInjector()
    injector.add(TeamsFault(status=500, count=2, after=10, seconds=5), 100.0)
    matched = [injector.match("send", now) is not None for now in (109.9, 110.0, 114.9, 114.95)]
    assert matched == [False, True, True, False]
    injector.clear()
    injector.add(TeamsFault(status=500, after=10, seconds=5), 100.0)
    assert [injector.match("send", now) is not None for now in (112.0, 115.0)] == [True, False]


def test_share_is_deterministic_and_has_about_its_size() -> None:
    fault = TeamsFault(status=500, share=0.05, seed=7)
    affected = {number for number in range(10_000) if is_in_share(fault, f"a:1{number}", 1)}
    assert 400 < len(affected) < 600
    assert affected == {number for number in range(10_000) if is_in_share(fault, f"a:1{number}", 1)}
    other = fault.model_copy(update={"seed": 8})
    assert affected != {number for number in range(10_000) if is_in_share(other, f"a:1{number}", 1)}


async def test_share_does_not_depend_on_the_order_of_requests(teams: FakeTeams, bot: Bot) -> None:
    people = (await teams.grow(Growth(tenant=teams.tenant, people=30))).people

    async def affected(order: list[Any]) -> set[str]:
        await teams.clear_faults()
        await teams.inject(TeamsFault(status=500, share=0.4, seed=1))
        replies = await asyncio.gather(*(bot.create(person.object_id) for person in order))
        return {person.id for person, reply in zip(order, replies, strict=True) if reply.status == 500}

    first = await affected(people[:20])
    assert 0 < len(first) < 20
    assert await affected(people[:20][::-1]) == first


async def test_token_endpoint_has_separate_faults(teams: FakeTeams, session: aiohttp.ClientSession) -> None:
    await teams.inject(
        TeamsFault(operation="token", status=401, count=1),
        TeamsFault(operation="token", status=503, count=1),
        TeamsFault(operation="token", delay=0.2, count=1),
    )
    refused, down = await fetch_token(teams, session), await fetch_token(teams, session)
    assert (refused.status, refused.body["error"], refused.body["error_codes"]) == (401, "invalid_client", [7000215])
    assert (down.status, down.body["error"]) == (503, "temporarily_unavailable")
    started = time.monotonic()
    assert (await fetch_token(teams, session)).status == 200
    assert time.monotonic() - started >= 0.2
    assert (await teams.stats()).tokens_issued == 1


@pytest.mark.parametrize("bad", [{}, {"status": 500, "drop": True}, {"status": 403}, {"status": 200}, {"colour": 1}])
async def test_invalid_fault_is_refused(teams: FakeTeams, bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TeamsFault.model_validate(bad)
    with pytest.raises(ControlError):
        await teams._call("POST", "faults", bad)
