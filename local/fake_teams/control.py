"""The control API under ``/_fake/``: JSON over HTTP, for tests, benchmarks and people."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import orjson
from aiohttp import web
from pydantic import ValidationError

from local.fake_teams import inbox
from local.fake_teams.api import Answer, Behaviour, Event, Fault, Growth, Installed, Stats
from local.fake_teams.courier import Courier
from local.fake_teams.errors import answer
from local.fake_teams.events import happen
from local.fake_teams.faults import Faults
from local.fake_teams.inbox import Inbox
from local.fake_teams.keys import KeyRing
from local.fake_teams.limits import Limits
from local.fake_teams.tokens import Bot, Tokens
from local.fake_teams.traffic import Traffic
from local.fake_teams.world import Chat, Person, Team, World

#: Messages of one page of `received`, and the longest wait for them in seconds.
LARGEST_PAGE = 5_000
LONGEST_WAIT = 60.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")

Handler = Callable[[bytes, dict[str, str]], Awaitable[Any]]


class Controlled(Protocol):
    """The parts of a fake Teams that the control API reads and changes."""

    bot: Bot
    behaviour: Behaviour
    world: World
    keys: KeyRing
    tokens: Tokens
    limits: Limits
    faults: Faults
    inbox: Inbox
    traffic: Traffic
    courier: Courier

    @property
    def service_url(self) -> str: ...

    def settings(self) -> dict[str, str]: ...

    def reset(self) -> None: ...

    def grow(self, growth: Growth) -> tuple[list[Person], list[Team], list[Chat]]: ...


class Control:
    """Serves the control API of one fake Teams."""

    def __init__(self, server: Controlled) -> None:
        self._server = server
        self._handlers: dict[tuple[str, str], Handler] = {
            ("GET", "settings"): self._settings,
            ("POST", "reset"): self._reset,
            ("GET", "world"): self._world,
            ("POST", "world"): self._grow,
            ("PUT", "installed"): self._installed,
            ("POST", "events"): self._events,
            ("GET", "behaviour"): self._behaviour,
            ("PATCH", "behaviour"): self._change_behaviour,
            ("GET", "faults"): self._faults,
            ("POST", "faults"): self._order_faults,
            ("DELETE", "faults"): self._clear_faults,
            ("POST", "keys/rotate"): self._rotate,
            ("POST", "keys/add"): self._add_key,
            ("POST", "tokens/revoke"): self._revoke,
            ("GET", "received"): self._received,
            ("GET", "stats"): self._stats,
        }

    async def serve(self, request: web.BaseRequest, path: str, query: str) -> web.Response:
        """Answers the request at a path below ``/_fake/``; 400 with one line for what can't be done."""
        handler = self._handlers.get((request.method, path))
        if handler is None:
            return answer(404, {"error": f"there is no {request.method} /_fake/{path}"})
        try:
            asked = {name: values[-1] for name, values in parse_qs(query).items()}
            return answer(200, await handler(await request.read(), asked))
        except ValidationError as error:
            first = error.errors()[0]
            return answer(400, {"error": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"})
        except ValueError as error:
            return answer(400, {"error": str(error)})

    async def _settings(self, _body: bytes, _asked: dict[str, str]) -> Any:
        return self._server.settings()

    async def _reset(self, _body: bytes, _asked: dict[str, str]) -> Any:
        self._server.reset()
        return {}

    async def _world(self, _body: bytes, asked: dict[str, str]) -> Any:
        world, tenant = self._server.world, asked.get("tenant")
        people = [p for name in world.tenants if tenant in (None, name) for p in world.people_of(name)]
        teams = [team for team in world.teams.values() if tenant in (None, team.tenant)]
        chats = [chat for chat in world.chats.values() if tenant in (None, chat.tenant)]
        return self._view(people, teams, chats)

    async def _grow(self, body: bytes, _asked: dict[str, str]) -> Any:
        people, teams, chats = self._server.grow(Growth.model_validate_json(body))
        return self._view(people, teams, chats)

    def _view(self, people: list[Person], teams: list[Team], chats: list[Chat]) -> dict[str, Any]:
        return {
            "tenants": list(self._server.world.tenants),
            "people": [_person(person) for person in people],
            "teams": [_team(team) for team in teams],
            "chats": [_chat(chat) for chat in chats],
        }

    async def _installed(self, body: bytes, _asked: dict[str, str]) -> Any:
        wanted = Installed.model_validate_json(body)
        homes = [self._server.world.home(identity) for identity in wanted.ids]
        for home in homes:
            home.installed = wanted.installed
        return {"changed": len(homes)}

    async def _events(self, body: bytes, asked: dict[str, str]) -> Any:
        parsed = orjson.loads(body)
        events = [Event.model_validate(each) for each in (parsed if isinstance(parsed, list) else [parsed])]
        turns = asyncio.Semaphore(max(1, int(asked.get("concurrency", "1"))))

        async def tell(event: Event) -> list[Answer]:
            async with turns:
                return await self._tell(event)

        told = await asyncio.gather(*map(tell, events))
        return [each.model_dump(by_alias=True) for answers in told for each in answers]

    async def _tell(self, event: Event) -> list[Answer]:
        server = self._server
        endpoint = event.endpoint or server.behaviour.endpoint
        if endpoint is None:
            raise ValueError("no endpoint: give one with the event, or PATCH /_fake/behaviour")
        if urlsplit(endpoint).hostname not in LOOPBACK:
            raise ValueError("the endpoint must be on loopback")
        activities = happen(event, server.world, service_url=server.service_url, app_id=server.bot.app_id)
        return [
            await server.courier.bring(activity, endpoint, event.forgery)
            for activity in activities
            for _ in range(event.repeat)
        ]

    async def _behaviour(self, _body: bytes, _asked: dict[str, str]) -> Any:
        return self._server.behaviour.model_dump(by_alias=True)

    async def _change_behaviour(self, body: bytes, _asked: dict[str, str]) -> Any:
        change = Behaviour.model_validate_json(body)
        for name in change.model_fields_set:
            setattr(self._server.behaviour, name, getattr(change, name))
        if "tenant_rate" in change.model_fields_set:
            self._server.limits.rate_changed()
        return self._server.behaviour.model_dump(by_alias=True)

    async def _faults(self, _body: bytes, _asked: dict[str, str]) -> Any:
        return [{"fault": fault.wire(), "struck": struck} for fault, struck in self._server.faults.listed()]

    async def _order_faults(self, body: bytes, _asked: dict[str, str]) -> Any:
        parsed = orjson.loads(body)
        faults = [Fault.model_validate(each) for each in (parsed if isinstance(parsed, list) else [parsed])]
        for fault in faults:
            self._server.faults.order(fault, time.monotonic())
        return {"ordered": len(faults)}

    async def _clear_faults(self, _body: bytes, _asked: dict[str, str]) -> Any:
        self._server.faults.clear()
        return {}

    async def _rotate(self, _body: bytes, asked: dict[str, str]) -> Any:
        key = await self._server.keys.rotate(keep_old=asked.get("keepOld", "true") == "true")
        return {"kid": key.kid}

    async def _add_key(self, _body: bytes, asked: dict[str, str]) -> Any:
        name = asked.get("key", "")
        if name not in ("unendorsed", "otherChannel"):
            raise ValueError("key must be unendorsed or otherChannel")
        key = await self._server.keys.named(name)
        return {"kid": key.kid}

    async def _revoke(self, _body: bytes, _asked: dict[str, str]) -> Any:
        self._server.tokens.revoke()
        return {}

    async def _received(self, _body: bytes, asked: dict[str, str]) -> Any:
        since = int(asked.get("since", "0"))
        conversations = self._conversations(asked)
        count, timeout = int(asked.get("count", "0")), min(float(asked.get("timeout", "0")), LONGEST_WAIT)
        if count:
            await self._server.inbox.wait(since, conversations, count, timeout)
        limit = min(int(asked.get("limit", str(LARGEST_PAGE))), LARGEST_PAGE)
        messages, position, more = self._server.inbox.changes(since, conversations, limit)
        views = [inbox.view(message, self._server.world) for message in messages]
        return {"messages": views, "next": position, "more": more}

    def _conversations(self, asked: dict[str, str]) -> frozenset[str] | None:
        """The conversations of the asked person, conversation or tenant; None for all."""
        world = self._server.world
        if "person" in asked:
            return frozenset([world.person(asked["person"]).conversation])
        if "conversation" in asked:
            return frozenset([asked["conversation"].partition(";messageid=")[0]])
        if "tenant" in asked:
            return frozenset(place.id for place in world.places.values() if place.tenant == asked["tenant"])
        return None

    async def _stats(self, _body: bytes, _asked: dict[str, str]) -> Any:
        server = self._server
        per_conversation = server.inbox.per_conversation()
        return Stats(
            requests={operation: dict(counts) for operation, counts in server.traffic.requests.items()},
            connections=dict(server.traffic.connections),
            tokens_issued=server.tokens.issued,
            tokens_used=len(server.tokens.used),
            peaks=server.limits.peaks,
            violation_count=server.limits.violation_count,
            violations=server.limits.violations,
            messages=server.inbox.count,
            conversations=per_conversation.total(),
            per_conversation=dict(per_conversation),
            duplicates=server.inbox.duplicates(),
            span=server.inbox.span(),
        ).model_dump(by_alias=True)


def _person(person: Person) -> dict[str, Any]:
    return {
        "tenant": person.tenant,
        "objectId": person.object_id,
        "id": person.id,
        "conversation": person.conversation,
        "name": person.name,
        "userPrincipalName": person.user_principal_name,
        "locale": person.locale,
        "timeZone": person.time_zone,
        "installed": person.installed,
    }


def _team(team: Team) -> dict[str, Any]:
    channels = [{"id": each.id, "name": each.name, "deleted": each.deleted} for each in team.channels.values()]
    return {
        "tenant": team.tenant,
        "id": team.id,
        "name": team.name,
        "groupId": team.group_id,
        "channels": channels,
        "members": [person.object_id for person in team.members],
        "installed": team.installed,
    }


def _chat(chat: Chat) -> dict[str, Any]:
    return {
        "tenant": chat.tenant,
        "id": chat.id,
        "name": chat.name,
        "members": [person.object_id for person in chat.members],
        "installed": chat.installed,
    }
