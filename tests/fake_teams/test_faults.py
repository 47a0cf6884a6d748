from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
import orjson
import pytest
from pydantic import ValidationError

from local.fake_teams.api import Fault, Growth
from local.fake_teams.client import ControlError, FakeTeams
from local.fake_teams.faults import Faults, in_share
from tests.fake_teams.conftest import Bot, activities, fetch_token, message


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(status=400), "Bad Argument"),
        (Fault(status=401), "BotNotRegistered"),
        *[
            (Fault(status=403, code=code), code)
            for code in (
                "BotDisabledByAdmin",
                "BotNotInConversationRoster",
                "ConversationBlockedByUser",
                "ForbiddenOperationException",
                "InvalidBotApiHost",
                "NotEnoughPermissions",
            )
        ],
        (Fault(status=404), "ConversationNotFound"),
        (Fault(status=404, code="ActivityNotFoundInConversation"), "ActivityNotFoundInConversation"),
        (Fault(status=412), "PreconditionFailed"),
        (Fault(status=413), "MessageSizeTooBig"),
        (Fault(status=429), "Throttled"),
        (Fault(status=500), "ServiceError"),
        (Fault(status=502), "ServiceError"),
        (Fault(status=503), "ServiceUnavailable"),
        (Fault(status=504), "GatewayTimeout"),
    ],
)
async def test_a_fault_answers_with_the_status_and_code_of_teams(
    teams: FakeTeams, bot: Bot, fault: Fault, code: str
) -> None:
    await teams.fault(fault)
    reply = await bot.send((await teams.world()).people[0].conversation)
    assert (reply.status, reply.code) == (fault.status, code)
    assert reply.body["error"]["message"]
    assert "Retry-After" not in reply.headers
    assert await teams.received() == []


@pytest.mark.parametrize(
    ("code", "sub_code"),
    [("ConversationBlockedByUser", "MessageWritesBlocked"), ("BotDisabledByAdmin", "BotDisabledByAdmin")],
)
async def test_a_403_also_comes_in_the_second_documented_shape(
    teams: FakeTeams, bot: Bot, code: str, sub_code: str
) -> None:
    await teams.fault(Fault(status=403, code=code, shape="nested"))
    reply = await bot.send((await teams.world()).people[0].conversation)
    assert (reply.status, reply.body["errorCode"]) == (403, 209)
    assert orjson.loads(reply.body["message"])["subCode"] == sub_code


async def test_a_502_may_carry_html_and_a_503_nothing(teams: FakeTeams, bot: Bot) -> None:
    await teams.fault(Fault(status=502, shape="html", count=1), Fault(status=503, shape="empty"))
    conversation = (await teams.world()).people[0].conversation
    first, second = await bot.send(conversation), await bot.send(conversation)
    assert (first.status, first.headers["Content-Type"].split(";")[0]) == (502, "text/html")
    assert "502 Bad Gateway" in first.body
    assert (second.status, second.body) == (503, "")


@pytest.mark.parametrize("value", [7, "Wed, 21 Oct 2099 07:28:00 GMT", "soon"])
async def test_a_fault_sends_the_retry_after_that_was_ordered(teams: FakeTeams, bot: Bot, value: int | str) -> None:
    await teams.fault(Fault(status=429, retry_after=value))
    reply = await bot.send((await teams.world()).people[0].conversation)
    assert reply.headers["Retry-After"] == str(value)


async def test_a_drop_before_acceptance_leaves_nothing(teams: FakeTeams, bot: Bot) -> None:
    await teams.fault(Fault(drop=True, count=1))
    conversation = (await teams.world()).people[0].conversation
    with pytest.raises(aiohttp.ClientError):
        await bot.send(conversation)
    assert await teams.received() == []
    assert (await bot.send(conversation)).status == 201
    assert (await teams.stats()).requests["send"] == {"dropped": 1, "201": 1}


async def test_a_drop_after_acceptance_leaves_the_message(teams: FakeTeams, bot: Bot) -> None:
    await teams.fault(Fault(drop=True, accept=True))
    with pytest.raises(aiohttp.ClientError):
        await bot.send((await teams.world()).people[0].conversation)
    assert [each.activity["text"] for each in await teams.received()] == ["hello"]


async def test_a_status_after_acceptance_leaves_the_message(teams: FakeTeams, bot: Bot) -> None:
    await teams.fault(Fault(status=504, accept=True))
    assert (await bot.send((await teams.world()).people[0].conversation)).status == 504
    assert len(await teams.received()) == 1


async def test_a_slow_answer_comes_late_and_is_accepted_after_or_before_the_delay(teams: FakeTeams, bot: Bot) -> None:
    conversation = (await teams.world()).people[0].conversation
    await teams.fault(Fault(delay=0.3, count=1), Fault(delay=0.3, accept=True, count=1))
    times = [time.monotonic()]
    for _ in range(2):
        assert (await bot.send(conversation)).status == 201
        times.append(time.monotonic())
    late, early = await teams.received()
    assert late.monotonic - times[0] >= 0.3
    assert times[2] - early.monotonic >= 0.3


async def test_a_fault_meets_only_whom_it_names(teams: FakeTeams, bot: Bot) -> None:
    first, second = (await teams.world()).people[:2]
    chat = (await teams.world()).chats[0].id
    await teams.fault(
        Fault(status=403, code="ConversationBlockedByUser", person=first.object_id),
        Fault(status=404, conversation=chat, operation="send"),
        Fault(status=503, operation="delete"),
        Fault(status=500, tenant="another"),
    )
    assert (await bot.send(first.conversation)).status == 403
    assert (await bot.create(first.object_id)).status == 403
    sent = await bot.send(second.conversation)
    assert sent.status == 201
    assert (await bot.send(chat)).status == 404
    assert (await bot.call("POST", activities(chat, "1"), message("x"))).status == 201
    assert (await bot.call("DELETE", activities(second.conversation, sent.body["id"]))).status == 503


def test_a_fault_acts_for_its_count_within_its_time() -> None:
    faults = Faults()
    faults.order(Fault(status=500, count=2, after=10, seconds=5), 100.0)
    met = [faults.meet("send", now) is not None for now in (109.9, 110.0, 114.9, 114.95)]
    assert met == [False, True, True, False]
    faults.clear()
    faults.order(Fault(status=500, after=10, seconds=5), 100.0)
    assert [faults.meet("send", now) is not None for now in (112.0, 115.0)] == [True, False]


def test_a_share_is_the_same_in_every_run_and_about_as_large_as_ordered() -> None:
    fault = Fault(status=500, share=0.05, seed=7)
    struck = {number for number in range(10_000) if in_share(fault, f"a:1{number}", 1)}
    assert 400 < len(struck) < 600
    assert struck == {number for number in range(10_000) if in_share(fault, f"a:1{number}", 1)}
    other = fault.model_copy(update={"seed": 8})
    assert struck != {number for number in range(10_000) if in_share(other, f"a:1{number}", 1)}


async def test_a_share_of_requests_does_not_depend_on_their_order(teams: FakeTeams, bot: Bot) -> None:
    people = (await teams.grow(Growth(tenant=teams.tenant, people=30))).people

    async def struck(order: list[Any]) -> set[str]:
        await teams.clear_faults()
        await teams.fault(Fault(status=500, share=0.4, seed=1))
        replies = await asyncio.gather(*(bot.create(person.object_id) for person in order))
        return {person.id for person, reply in zip(order, replies, strict=True) if reply.status == 500}

    first = await struck(people[:20])
    assert 0 < len(first) < 20
    assert await struck(people[:20][::-1]) == first


async def test_the_login_has_faults_of_its_own(teams: FakeTeams, session: aiohttp.ClientSession) -> None:
    await teams.fault(
        Fault(operation="token", status=401, count=1),
        Fault(operation="token", status=503, count=1),
        Fault(operation="token", delay=0.2, count=1),
    )
    refused, down = await fetch_token(teams, session), await fetch_token(teams, session)
    assert (refused.status, refused.body["error"], refused.body["error_codes"]) == (401, "invalid_client", [7000215])
    assert (down.status, down.body["error"]) == (503, "temporarily_unavailable")
    begin = time.monotonic()
    assert (await fetch_token(teams, session)).status == 200
    assert time.monotonic() - begin >= 0.2
    assert (await teams.stats()).tokens_issued == 1


@pytest.mark.parametrize("bad", [{}, {"status": 500, "drop": True}, {"status": 403}, {"status": 200}, {"colour": 1}])
async def test_a_fault_that_makes_no_sense_is_refused(teams: FakeTeams, bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Fault.model_validate(bad)
    with pytest.raises(ControlError):
        await teams._call("POST", "faults", bad)
