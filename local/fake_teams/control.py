"""The control API under ``/_fake/``: JSON over HTTP, for tests, benchmarks and developers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import parse_qs

import orjson
from aiohttp import web
from cryptography.x509 import load_pem_x509_certificate
from pydantic import ValidationError

from local.fake_teams.activity_sender import ActivitySender, check_endpoint
from local.fake_teams.api import (
    AppResponse,
    Behaviour,
    Credentials,
    GraphSettings,
    Growth,
    InstallationUpdate,
    PeopleUpdate,
    Stats,
    TeamsEvent,
    TeamsFault,
)
from local.fake_teams.errors import json_response
from local.fake_teams.events import apply_event
from local.fake_teams.inbox import to_received
from local.fake_teams.state import ALL_PERMISSIONS, FakeState, GraphTenant
from local.fake_teams.world import Chat, Group, Person, Team

#: The most messages of one page of `received`, and the longest wait for them.
MAX_PAGE_SIZE = 5_000
MAX_WAIT_SECONDS = 60.0

Handler = Callable[[bytes, dict[str, str]], Awaitable[Any]]


class ControlledServer(Protocol):
    """The parts of the server that the control API uses."""

    @property
    def service_url(self) -> str: ...

    def settings(self) -> dict[str, str]: ...


class ControlApi:
    """Serves the control API of one fake Teams."""

    def __init__(self, state: FakeState, server: ControlledServer, sender: ActivitySender) -> None:
        self._state = state
        self._server = server
        self._sender = sender
        self._handlers: dict[tuple[str, str], Handler] = {
            ("GET", "settings"): self._get_settings,
            ("POST", "reset"): self._reset,
            ("GET", "world"): self._get_world,
            ("POST", "world"): self._grow,
            ("PUT", "installed"): self._set_installed,
            ("PATCH", "people"): self._change_people,
            ("PUT", "graph"): self._set_graph,
            ("POST", "graph/expire-pages"): self._expire_pages,
            ("PUT", "credentials"): self._set_credentials,
            ("POST", "events"): self._post_events,
            ("GET", "behaviour"): self._get_behaviour,
            ("PATCH", "behaviour"): self._change_behaviour,
            ("GET", "faults"): self._get_faults,
            ("POST", "faults"): self._add_faults,
            ("DELETE", "faults"): self._clear_faults,
            ("POST", "keys/rotate"): self._rotate_keys,
            ("POST", "keys/add"): self._add_key,
            ("POST", "tokens/revoke"): self._revoke_tokens,
            ("GET", "received"): self._get_received,
            ("GET", "stats"): self._get_stats,
        }

    async def serve(self, request: web.BaseRequest, path: str, query: str) -> web.Response:
        """Respond to the request at a path below ``/_fake/``; an invalid request is 400 with one line."""
        handler = self._handlers.get((request.method, path))
        if handler is None:
            return json_response(404, {"error": f"there is no {request.method} /_fake/{path}: see docs/fake-teams.md"})
        try:
            parameters = {name: values[-1] for name, values in parse_qs(query).items()}
            return json_response(200, await handler(await request.read(), parameters))
        except ValidationError as error:
            first = error.errors()[0]
            return json_response(400, {"error": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"})
        except ValueError as error:
            return json_response(400, {"error": str(error)})

    async def _get_settings(self, _body: bytes, _parameters: dict[str, str]) -> Any:
        return self._server.settings()

    async def _reset(self, _body: bytes, _parameters: dict[str, str]) -> Any:
        self._state.reset()
        return {}

    async def _get_world(self, _body: bytes, parameters: dict[str, str]) -> Any:
        world, tenant = self._state.world, parameters.get("tenant")
        people = [p for name in world.tenants if tenant in (None, name) for p in world.list_people(name)]
        teams = [team for team in world.teams.values() if tenant in (None, team.tenant)]
        chats = [chat for chat in world.chats.values() if tenant in (None, chat.tenant)]
        groups = [
            group for group in world.groups.values() if isinstance(group, Group) and tenant in (None, group.tenant)
        ]
        return self._build_world(people, teams, chats, groups)

    async def _grow(self, body: bytes, _parameters: dict[str, str]) -> Any:
        return self._build_world(*self._state.grow(Growth.model_validate_json(body)))

    def _build_world(
        self, people: list[Person], teams: list[Team], chats: list[Chat], groups: list[Group]
    ) -> dict[str, Any]:
        return {
            "tenants": list(self._state.world.tenants),
            "people": [_build_person(person) for person in people],
            "teams": [_build_team(team) for team in teams],
            "chats": [_build_chat(chat) for chat in chats],
            "groups": [_build_group(group) for group in groups],
        }

    async def _set_installed(self, body: bytes, _parameters: dict[str, str]) -> Any:
        update = InstallationUpdate.model_validate_json(body)
        owners = [self._state.world.get_owner(identity) for identity in update.ids]
        for owner in owners:
            owner.installed = update.installed
        return {"changed": len(owners)}

    async def _change_people(self, body: bytes, _parameters: dict[str, str]) -> Any:
        update = PeopleUpdate.model_validate_json(body)
        people = [self._state.world.get_person(identity) for identity in update.ids]
        for person in people:
            for name in update.model_fields_set - {"ids"}:
                setattr(person, name, getattr(update, name))
        return {"changed": len(people)}

    async def _set_graph(self, body: bytes, _parameters: dict[str, str]) -> Any:
        given = GraphSettings.model_validate_json(body)
        tenant = given.tenant.lower()
        if tenant not in self._state.world.tenants:
            raise ValueError(f"there is no tenant {tenant}: see GET /_fake/world")
        permissions = ALL_PERMISSIONS if given.permissions is None else frozenset(given.permissions)
        self._state.graph_tenants[tenant] = GraphTenant(permissions, given.catalogue)
        return {}

    async def _expire_pages(self, _body: bytes, _parameters: dict[str, str]) -> Any:
        self._state.page_generation += 1
        return {}

    async def _set_credentials(self, body: bytes, _parameters: dict[str, str]) -> Any:
        credentials = Credentials.model_validate_json(body)
        for certificate in credentials.certificates:
            load_pem_x509_certificate(certificate.encode())
        self._state.tokens.credentials = credentials
        return {}

    async def _post_events(self, body: bytes, parameters: dict[str, str]) -> Any:
        parsed = orjson.loads(body)
        events = [TeamsEvent.model_validate(each) for each in (parsed if isinstance(parsed, list) else [parsed])]
        semaphore = asyncio.Semaphore(max(1, int(parameters.get("concurrency", "1"))))

        async def post(event: TeamsEvent) -> list[AppResponse]:
            async with semaphore:
                return await self._post_event(event)

        results = await asyncio.gather(*map(post, events))
        return [response.model_dump(by_alias=True) for responses in results for response in responses]

    async def _post_event(self, event: TeamsEvent) -> list[AppResponse]:
        endpoint = event.endpoint or self._state.behaviour.endpoint
        if endpoint is None:
            raise ValueError("no endpoint: set it in the event, or with PATCH /_fake/behaviour")
        check_endpoint(endpoint)
        activities = apply_event(
            event, self._state.world, service_url=self._server.service_url, app_id=self._state.bot.app_id
        )
        return [
            await self._sender.post(activity, endpoint, event.forgery)
            for activity in activities
            for _ in range(event.repeat)
        ]

    async def _get_behaviour(self, _body: bytes, _parameters: dict[str, str]) -> Any:
        return self._state.behaviour.model_dump(by_alias=True)

    async def _change_behaviour(self, body: bytes, _parameters: dict[str, str]) -> Any:
        change = Behaviour.model_validate_json(body)
        for name in change.model_fields_set:
            setattr(self._state.behaviour, name, getattr(change, name))
        if "tenant_rate" in change.model_fields_set:
            self._state.limits.apply_tenant_rate()
        return self._state.behaviour.model_dump(by_alias=True)

    async def _get_faults(self, _body: bytes, _parameters: dict[str, str]) -> Any:
        return [{"fault": fault.to_json(), "struck": count} for fault, count in self._state.faults.list_faults()]

    async def _add_faults(self, body: bytes, _parameters: dict[str, str]) -> Any:
        parsed = orjson.loads(body)
        faults = [TeamsFault.model_validate(each) for each in (parsed if isinstance(parsed, list) else [parsed])]
        for fault in faults:
            self._state.faults.add(fault, time.monotonic())
        return {"ordered": len(faults)}

    async def _clear_faults(self, _body: bytes, _parameters: dict[str, str]) -> Any:
        self._state.faults.clear()
        return {}

    async def _rotate_keys(self, _body: bytes, parameters: dict[str, str]) -> Any:
        key = await self._state.keys.rotate(keep_old=parameters.get("keepOld", "true") == "true")
        return {"kid": key.kid}

    async def _add_key(self, _body: bytes, parameters: dict[str, str]) -> Any:
        name = parameters.get("key", "")
        if name not in ("unendorsed", "otherChannel"):
            raise ValueError("key must be unendorsed or otherChannel")
        key = await self._state.keys.get_named(name)
        return {"kid": key.kid}

    async def _revoke_tokens(self, _body: bytes, _parameters: dict[str, str]) -> Any:
        self._state.tokens.revoke()
        return {}

    async def _get_received(self, _body: bytes, parameters: dict[str, str]) -> Any:
        since = int(parameters.get("since", "0"))
        conversations = self._select_conversations(parameters)
        count, timeout = int(parameters.get("count", "0")), min(float(parameters.get("timeout", "0")), MAX_WAIT_SECONDS)
        if count:
            await self._state.inbox.wait(since, conversations, count, timeout)
        limit = min(int(parameters.get("limit", str(MAX_PAGE_SIZE))), MAX_PAGE_SIZE)
        messages, position, more = self._state.inbox.changes(since, conversations, limit)
        received = [to_received(message, self._state.world) for message in messages]
        return {"messages": received, "next": position, "more": more}

    def _select_conversations(self, parameters: dict[str, str]) -> frozenset[str] | None:
        """Return the ids of the conversations for `person`, `conversation` or `tenant`; None for all."""
        world = self._state.world
        if "person" in parameters:
            return frozenset([world.get_person(parameters["person"]).conversation])
        if "conversation" in parameters:
            return frozenset([parameters["conversation"].partition(";messageid=")[0]])
        if "tenant" in parameters:
            return frozenset(each.id for each in world.conversations.values() if each.tenant == parameters["tenant"])
        return None

    async def _get_stats(self, _body: bytes, _parameters: dict[str, str]) -> Any:
        state = self._state
        per_conversation = state.inbox.count_per_conversation()
        return Stats(
            requests={operation: dict(counts) for operation, counts in state.traffic.requests.items()},
            connections=dict(state.traffic.connections),
            tokens_issued=state.tokens.issued,
            tokens_used=len(state.tokens.used),
            tokens_by_credential=dict(state.tokens.issued_by),
            peaks=state.limits.peaks,
            violation_count=state.limits.violation_count,
            violations=state.limits.violations,
            graph_peaks=state.graph_limits.peaks,
            graph_violation_count=state.graph_limits.violation_count,
            graph_violations=state.graph_limits.violations,
            messages=state.inbox.count,
            conversations=per_conversation.total(),
            per_conversation=dict(per_conversation),
            duplicates=state.inbox.count_duplicates(),
            span=state.inbox.span(),
        ).model_dump(by_alias=True)


def _build_person(person: Person) -> dict[str, Any]:
    return {
        "tenant": person.tenant,
        "objectId": person.object_id,
        "id": person.id,
        "conversation": person.conversation,
        "name": person.name,
        "userPrincipalName": person.user_principal_name,
        "mail": person.mail,
        "locale": person.locale,
        "timeZone": person.time_zone,
        "installed": person.installed,
        "enabled": person.enabled,
        "guest": person.guest,
    }


def _build_team(team: Team) -> dict[str, Any]:
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


def _build_group(group: Group) -> dict[str, Any]:
    return {
        "tenant": group.tenant,
        "id": group.group_id,
        "name": group.name,
        "kind": group.kind,
        "members": [each.group_id if isinstance(each, Group) else each.object_id for each in group.members],
    }


def _build_chat(chat: Chat) -> dict[str, Any]:
    return {
        "tenant": chat.tenant,
        "id": chat.id,
        "name": chat.name,
        "members": [person.object_id for person in chat.members],
        "installed": chat.installed,
    }
